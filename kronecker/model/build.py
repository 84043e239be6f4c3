"""Builds an arm's model and bag from a config with its vocabulary."""

import dataclasses
import pkgutil
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from kronecker.embedding import bags, codec, implementations, linen
from kronecker.model import accounting, transformer
from kronecker.runtime import determinism, sharding
from kronecker.schema import arms, choices, resolution

IDS_AT_ONCE = 1024  # of a vocabulary whose embeddings are all computed


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """An arm ready to train."""

    model: transformer.Transformer  # the decoder around the arm's input embedding
    bag: bags.Bag | None  # `model`'s second argument, prepared for its implementation; None for a table
    codes: codec.ByteTable | None  # the vocabulary's bytes behind `bag`; None for a table


def build(
    config: ml_collections.ConfigDict,
    token_bytes: Sequence[bytes | None],
    mesh: Mesh | None = None,
    counts_V: np.ndarray | None = None,
    special: Collection[int] = (),
) -> Arm:
    """Returns the arm of a resolved config with its vocabulary.

    `token_bytes` of each id are from `Tokenizer.bytes_from` with embedding.byte_source.  The devices of `mesh` may be
    simulated; None: JAX's default device.  `counts_V`: how often each id occurs in the training text, which
    model.unigram_bias needs.  `special`: ids that no text encodes to, which a shuffled code needs.

    Raises ValueError for an unknown kind, an implementation that needs more memory than embedding.cache_limit_mb, an
    attention that the platform lacks, or a rank that is too high.
    """
    platform = sharding.platform(mesh)
    c, shape, kind = config.embedding, transformer.Shape.of(config.model, platform), arms.kind(config.embedding.kind)
    known = {"vocab": shape.padded_vocab, "rank": c.rank, "mesh": mesh}
    if "rank" in kind.takes and not c.rank:
        of_tokens = codec.byte_table(token_bytes, c.pos_dim, shape.padded_vocab, c.truncation)
        known["rank"] = resolution.rank(config, bags.rows_in_use(bags.kronecker_bag(of_tokens)))
    bag = codes = None
    if kind.bag:
        codes = codec.byte_table(token_bytes, c.pos_dim, shape.padded_vocab, c.truncation, special)
        gradient = determinism.gather_gradient(config)
        bag = make_bag(codes, c.kind, c.norm, draw(config))
        bag = implementations.prepare(
            bag, c.implementation, shape.dtype, c.cache_limit_mb, platform, shape.tie_head, gradient
        )
        std = c.init_std * (bag.rows**0.5 if c.norm == "z" else 1.0)  # of the initial embeddings
        # a tied head's initial logits then have the std of a learned table's
        known |= {"rows": bag.rows, "logit_scale": transformer.INIT_STD / std if shape.tie_head else 0.0}
    embed = pkgutil.resolve_name(kind.module)(
        features=shape.d_model,
        init_std=c.init_std,
        dtype=shape.dtype,
        param_dtype=shape.param_dtype,
        **{name: known[name] for name in kind.takes},
    )
    bias = _log_unigram(counts_V, shape) if config.model.unigram_bias else None
    return Arm(transformer.Transformer(shape, embed, mesh, c.scale, bias), bag, codes)


def _log_unigram(counts_V: np.ndarray | None, shape: transformer.Shape) -> transformer.Constant:
    """Returns log((count + 1) / sum of these) of each id, float32, 0 for the padding, whose logits are masked."""
    if counts_V is None:
        raise ValueError(
            "model.unigram_bias is True, but nothing here counts a training text; set model.unigram_bias to False"
        )
    more_V = counts_V.astype(np.float64) + 1
    bias_V = np.zeros(shape.padded_vocab, np.float32)
    bias_V[: shape.vocab_size] = np.log(more_V / more_V.sum())
    return transformer.Constant(bias_V)


def draw(config: ml_collections.ConfigDict) -> int:
    """Returns the number of the draw of a run's code, where that is drawn."""
    return config.seed if config.embedding.redraw else 0


def make_bag(codes: codec.ByteTable, kind: str, norm: str, draw: int = 0) -> bags.Bag:
    """Returns the bag of embedding.kind `kind`, not prepared; raises ValueError if its row count is not `code_dim`."""
    known = arms.kind(kind)
    bag = pkgutil.resolve_name(known.bag)(codes, norm, *([draw] if known.drawn else []))
    if bag.rows != (rows := known.code_dim(codes.pos_dim)):
        raise ValueError(f"{known.bag} gives {bag.rows:,} rows, but kind {kind} has code_dim {rows:,}; make both equal")
    return bag


def with_table(arm: Arm, params: dict[str, Any]) -> tuple[Arm, dict[str, Any]]:
    """Returns the model with its input embedding as a table, E = K W, computed once for inference.

    Arms that are not a single bag stay as they are, as do tied ones.
    """
    embed = arm.model.embed
    if not isinstance(embed, linen.BagEmbed) or arm.model.shape.tie_head:
        return arm, params
    bag = implementations.prepare(arm.bag, "induced", platform=jax.default_backend())
    induced = jax.jit(lambda own, bag: embed.apply({"params": own}, bag, method="induced"))
    as_table = linen.TableEmbed(bag.vocab, embed.features, dtype=embed.dtype, param_dtype=embed.param_dtype)
    params = params | {accounting.INPUT: {"table": induced(params[accounting.INPUT], bag)}}
    return Arm(arm.model.clone(embed=as_table), None, arm.codes), params


def input_table(arm: Arm, params: dict[str, Any]) -> np.ndarray:
    """Returns the embedding of every id but the padding, (V, d), as the model computes it."""
    shape, embed = arm.model.shape, arm.model.embed
    ids = np.arange(-(-shape.vocab_size // IDS_AT_ONCE) * IDS_AT_ONCE).clip(max=shape.vocab_size - 1)

    def of(ids_N1: jax.Array, own: dict[str, Any], bag: bags.Bag | None) -> jax.Array:
        x_N1d = embed.apply({"params": own}, ids_N1, bag)
        return x_N1d if arm.model.input_scale == 1 else x_N1d.astype(jnp.float32) * arm.model.input_scale

    rows = jax.jit(lambda own, bag, ids: jax.lax.map(lambda ids_N1: of(ids_N1, own, bag), ids))(
        params[accounting.INPUT], arm.bag, ids.reshape(-1, IDS_AT_ONCE, 1)
    )
    return sharding.gathered(rows).reshape(-1, shape.d_model)[: shape.vocab_size]


def product_line(arm: Arm, config: ml_collections.ConfigDict, mesh: Mesh) -> str:
    """Returns a line with the implementation of a bag arm's embedding, and the reason for it."""
    why = "as configured"
    if config.embedding.implementation == choices.AUTO:
        tokens = tokens_a_device(config, mesh)
        why = f"auto on {sharding.platform(mesh)}, {tokens:,} tokens per device, vocabulary {arm.bag.vocab:,}"
    line = f"embedding.implementation: {implementations.describe(arm.bag)} ({why}), checked against the dense code"
    if arm.bag.implementation == "bag" and arm.bag.platform == "gpu":
        # From the compiled program of 16,384 tokens of real text at d = 768, not from a measurement.
        line += (
            "; on a GPU, bag launches hundreds of small kernels, an estimated 10 to 20 ms per step; gather launches one"
        )
    return line


def tokens_a_device(config: ml_collections.ConfigDict, mesh: Mesh | None = None) -> int:
    """Returns the number of tokens that a device embeds at a time in training: its part of a micro-batch."""
    parts = sharding.batch_shards(mesh) if mesh is not None else 1
    return config.train.batch * config.train.sequence // config.train.accumulate // parts
