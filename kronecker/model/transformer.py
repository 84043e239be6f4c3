"""GPT-2's decoder as in nanoGPT: pre-LayerNorm, learned positions, tanh GELU, scaled residual init.

Names, shapes and initial values of all parameters outside `embed` do not depend on the input embedding: Linen derives
the init RNG from the module path, so two arms with one seed start from one body.

A text can also be fed in parts: the collection "cache" then holds the keys and values of the earlier parts.

Shapes: B batch, T time, C context, V padded vocabulary, d model width, H heads, h head width, N layers.
"""

import dataclasses
import functools
from typing import Self

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from kronecker.embedding import bags
from kronecker.model import attention, output_head
from kronecker.runtime import declared, sharding

INIT_STD = 0.02
LAYER_NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Shape:
    """The decoder's sizes and options: keys of config.model (kronecker/schema/keys.py), with `attention` resolved."""

    layers: int
    heads: int
    d_model: int
    context: int
    vocab_size: int
    padded_vocab: int
    bias: bool = True
    dropout: float = 0.0
    tie_head: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    attention: str = "xla"
    scan_layers: bool = False
    remat: bool = False

    @classmethod
    def of(cls, model: ml_collections.ConfigDict, platform: str | None = None) -> Self:
        """Returns the shape of a config's `model`; raises ValueError if the platform lacks its attention."""
        values = {field.name: model[field.name] for field in dataclasses.fields(cls)}
        width = model.d_model // model.heads
        acts = attention.resolve(model.attention, platform or jax.default_backend(), model.dtype, width)
        return cls(**values | {"attention": acts})

    def linear(
        self, name: str, features: int | tuple[int, ...], std: float, axes: tuple[str, ...], bias_axes: tuple[str, ...]
    ) -> nn.DenseGeneral:
        """Returns a linear layer with a N(0, std^2) kernel; `axes` (input's first) and `bias_axes` are logical axes."""
        return nn.DenseGeneral(
            features,
            axis=tuple(range(len(bias_axes) - len(axes), 0)),
            use_bias=self.bias,
            kernel_init=declared.matrix(nn.initializers.normal(std), *axes),
            bias_init=declared.vector(nn.initializers.zeros, *bias_axes),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    def norm(self, name: str) -> nn.LayerNorm:
        """Returns a layer norm, computed in float32 and cast to the compute type."""
        return nn.LayerNorm(
            epsilon=LAYER_NORM_EPS,
            use_bias=self.bias,
            scale_init=declared.vector(nn.initializers.ones, "feature"),
            bias_init=declared.vector(nn.initializers.zeros, "feature"),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @property
    def residual_std(self) -> float:
        """The init std of the 2 N projections that write into the residual stream."""
        return INIT_STD / (2 * self.layers) ** 0.5


class Attention(nn.Module):
    """Causal self-attention."""

    shape: Shape
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x_BTd: jax.Array, start: jax.Array | None = None) -> jax.Array:
        """Returns the attention's output, (B, T, d); `start` as in the decoder."""
        s = self.shape
        qkv_axes, heads = ("qkv", "head", "head_width"), (3, s.heads, s.d_model // s.heads)
        qkv_BT3Hh = s.linear("qkv", heads, INIT_STD, ("width", *qkv_axes), qkv_axes)(x_BTd)
        laid_out = functools.partial(sharding.constrain, names=("batch", "time", "head", "head_width"), mesh=self.mesh)
        q_BTHh, k_BTHh, v_BTHh = (laid_out(qkv_BT3Hh[:, :, i]) for i in range(3))
        if start is None:
            y_BTHh = attention.causal(q_BTHh, k_BTHh, v_BTHh, s.attention, self.mesh)
        else:
            k_BCHh, v_BCHh = self._remember("keys", k_BTHh, start), self._remember("values", v_BTHh, start)
            seen_TC = jnp.arange(s.context) <= start + jnp.arange(x_BTd.shape[1])[:, None]
            y_BTHh = jax.nn.dot_product_attention(q_BTHh, k_BCHh, v_BCHh, mask=seen_TC[None, None])
        return s.linear("out", s.d_model, s.residual_std, ("head", "head_width", "width"), ("feature",))(y_BTHh)

    def _remember(self, name: str, new_BTHh: jax.Array, start: jax.Array) -> jax.Array:
        """Returns the cache, (B, C, H, h), with `new_BTHh` written to it from position `start`."""
        batch, _, *size = new_BTHh.shape
        kept = self.variable("cache", name, jnp.zeros, (batch, self.shape.context, *size), new_BTHh.dtype)
        kept.value = jax.lax.dynamic_update_slice_in_dim(kept.value, new_BTHh, start, axis=1)
        return kept.value


class Block(nn.Module):
    """One pre-norm decoder block."""

    shape: Shape
    train: bool
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x_BTd: jax.Array, start: jax.Array | None = None) -> tuple[jax.Array, None]:
        """Returns the residual stream after the block, as the carry of a scan over layers."""
        s = self.shape
        dropout = nn.Dropout(s.dropout, deterministic=not self.train)
        x_BTd += dropout(Attention(s, self.mesh, name="attention")(s.norm("attention_norm")(x_BTd), start))
        up = s.linear("up", 4 * s.d_model, INIT_STD, ("width", "hidden"), ("hidden",))
        down = s.linear("down", s.d_model, s.residual_std, ("hidden", "width"), ("feature",))
        hidden_BTf = jax.nn.gelu(up(s.norm("mlp_norm")(x_BTd)), approximate=True)
        hidden_BTf = sharding.constrain(hidden_BTf, ("batch", "time", "hidden"), self.mesh)
        x_BTd += dropout(down(hidden_BTf))
        return sharding.constrain(x_BTd, ("batch", "time", "stream"), self.mesh), None


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """An array that a module holds: equal only to itself, so that the module can be hashed and compared."""

    value: np.ndarray


class Transformer(nn.Module):
    """The decoder around an input embedding."""

    shape: Shape
    # embed(ids (B, T), bag) -> (B, T, d); for a tied head also embed.output(bag) -> (table (V, d), scale of the logits)
    embed: nn.Module
    mesh: Mesh | None = None  # that splits the batch; None: one device
    input_scale: float = 1.0  # multiplies the embeddings, not the table that a tied head uses
    head_bias: Constant | None = None  # float32 (V,), added to the logits; a constant of the program, 4 V bytes

    @nn.compact
    def __call__(
        self,
        ids_BT: jax.Array,
        bag: bags.Bag | None = None,
        train: bool = False,
        start: jax.Array | None = None,
        apart: bool = False,
    ) -> jax.Array | tuple[jax.Array, output_head.Head]:
        """Returns float32 logits (B, T, V); those of padded vocabulary entries are -inf.

        Args:
          bag: the arm's bag, an argument so that it is not a constant of the compiled program; None for a table.
          train: whether dropout is on; it needs an RNG named "dropout".
          start: None: `ids_BT` are whole texts.  Else the part of the texts from this position; the mutable collection
            "cache", which the first part creates, holds the earlier parts.
          apart: whether to return the last hidden states (B, T, d), times the scale of a tied head, and the head.
        """
        s = self.shape
        normal = nn.initializers.normal(INIT_STD)
        positions = declared.matrix(normal, "time", "width")
        positions_Cd = self.param("positions", positions, (s.context, s.d_model), s.param_dtype)
        # The residual stream is always float32: bfloat16 is 50 times coarser around an embedding of std 1 than around
        # one of 0.02, a disadvantage for one arm of a pair.
        time = ids_BT.shape[1]
        at_Td = positions_Cd[:time] if start is None else jax.lax.dynamic_slice_in_dim(positions_Cd, start, time)
        x_BTd = self.embed(ids_BT, bag).astype(jnp.float32)
        if self.input_scale != 1:
            x_BTd *= self.input_scale
        x_BTd += at_Td.astype(jnp.float32)
        x_BTd = sharding.constrain(x_BTd, ("batch", "time", "stream"), self.mesh)
        x_BTd = nn.Dropout(s.dropout, deterministic=not train)(x_BTd)
        block = nn.remat(Block, prevent_cse=not s.scan_layers) if s.remat else Block
        # One stacked layout, looped or unrolled, so that a checkpoint does not depend on how its layers were compiled.
        blocks = nn.scan(
            block,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=s.layers,
            unroll=1 if s.scan_layers else s.layers,
            metadata_params={nn.PARTITION_NAME: "layer"},
        )
        x_BTd, _ = blocks(s, train, self.mesh, name="blocks")(x_BTd, start)
        x_BTd = s.norm("final_norm")(x_BTd)
        if s.tie_head:
            table_Vd, scale = self.embed.output(bag)
            matrix_dV, x_BTd = table_Vd.T, scale * x_BTd  # cheaper than scaling the logits, V / d times as many
        else:
            head = declared.matrix(normal, "width", "vocab")
            matrix_dV = self.param("head", head, (s.d_model, s.padded_vocab), s.param_dtype)
        bias_V = self.head_bias and jnp.asarray(self.head_bias.value, jnp.float32)
        head = output_head.Head(matrix_dV, s.vocab_size, s.dtype, bias_V)
        return (x_BTd, head) if apart else head.logits(x_BTd)
