"""Llama's decoder around any of our input embeddings, to go on from published weights.

RMSNorm, rotary positions, grouped queries, SwiGLU; no biases and no dropout.  It is called as `transformer.Transformer`
is, so one training step serves both.

Shapes: B batch, T time, V vocabulary, d model width, H heads, G heads of keys and values, h head width, N layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from kronecker.embedding import bags
from kronecker.model import attention, output_head, transformer
from kronecker.runtime import declared


@dataclasses.dataclass(frozen=True)
class Shape:
    """The decoder's sizes and options."""

    layers: int
    heads: int
    kv_heads: int
    head_width: int
    d_model: int
    hidden: int  # width of SwiGLU
    vocab_size: int
    rope_base: float
    norm_eps: float
    tie_head: bool
    dtype: str = "float32"

    def linear(self, name: str, features: int | tuple[int, ...], *axes: str) -> nn.DenseGeneral:
        kernel = declared.matrix(nn.initializers.normal(transformer.INIT_STD), *axes)
        return nn.DenseGeneral(features, use_bias=False, kernel_init=kernel, dtype=self.dtype, name=name)

    def norm(self, name: str) -> nn.RMSNorm:
        scale = declared.vector(nn.initializers.ones, "feature")
        return nn.RMSNorm(epsilon=self.norm_eps, scale_init=scale, dtype=self.dtype, name=name)


class Block(nn.Module):
    """One layer: attention and SwiGLU, each added to the residual stream."""

    shape: Shape

    @nn.compact
    def __call__(self, x_BTd: jax.Array) -> tuple[jax.Array, None]:
        s = self.shape
        y_BTd = s.norm("attention_norm")(x_BTd)
        q_BTHh = rotate(s.linear("query", (s.heads, s.head_width), "width", "head", "head_width")(y_BTd), s.rope_base)
        k_BTGh = rotate(s.linear("key", (s.kv_heads, s.head_width), "width", "head", "head_width")(y_BTd), s.rope_base)
        v_BTGh = s.linear("value", (s.kv_heads, s.head_width), "width", "head", "head_width")(y_BTd)
        mixed_BTd = attention.causal(q_BTHh, k_BTGh, v_BTGh, "xla").reshape(*y_BTd.shape[:2], -1)
        x_BTd += s.linear("out", s.d_model, "head", "width")(mixed_BTd)
        y_BTd = s.norm("mlp_norm")(x_BTd)
        gate, up = (s.linear(name, s.hidden, "width", "hidden")(y_BTd) for name in ("gate", "up"))
        return x_BTd + s.linear("down", s.d_model, "hidden", "width")(nn.silu(gate) * up), None


class Llama(nn.Module):
    """Decoder-only language model; `embed` is the input embedding, a module called as `embed(ids, bag)`."""

    shape: Shape
    embed: nn.Module
    mesh = None  # one device

    @nn.compact
    def __call__(
        self, ids_BT: jax.Array, bag: bags.Bag | None = None, train: bool = False, apart: bool = False
    ) -> jax.Array | tuple[jax.Array, output_head.Head]:
        """Returns float32 logits (B, T, V); with `apart`, the last hidden states (B, T, d) and the head instead."""
        del train
        s = self.shape
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=s.layers,
            metadata_params={nn.PARTITION_NAME: "layer"},
        )
        x_BTd, _ = blocks(s, name="blocks")(self.embed(ids_BT, bag).astype(jnp.float32))
        x_BTd = s.norm("final_norm")(x_BTd)
        if s.tie_head:
            matrix_dV = self.embed.output(bag)[0].T
        else:
            head = declared.matrix(nn.initializers.normal(transformer.INIT_STD), "width", "vocab")
            matrix_dV = self.param("head", head, (s.d_model, s.vocab_size))
        head = output_head.Head(matrix_dV, s.vocab_size, s.dtype)
        return (x_BTd, head) if apart else head.logits(x_BTd)


def rotate(x_BTHh: jax.Array, base: float) -> jax.Array:
    """Returns `x_BTHh` with coordinates i and i + h/2 turned by the angle t base^(-2i/h) at place t."""
    time, width = x_BTHh.shape[1], x_BTHh.shape[3]
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles_T1i = jnp.arange(time, dtype=jnp.float32)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles_T1i), jnp.sin(angles_T1i)
    a, b = jnp.split(x_BTHh, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
