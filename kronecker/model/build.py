"""Builds an arm's model and bag from a config with its vocabulary."""

import dataclasses
import pkgutil
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from kronecker.embedding import bags, codec, implementations, linen
from kronecker.model import accounting, transformer
from kronecker.runtime import determinism, sharding
from kronecker.schema import arms, choices


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """An arm ready to train."""

    model: transformer.Transformer  # the decoder around the arm's input embedding
    bag: bags.Bag | None  # `model`'s second argument, prepared for its implementation; None for a table
    codes: codec.ByteTable | None  # the vocabulary's bytes behind `bag`; None for a table


def build(config: ml_collections.ConfigDict, token_bytes: Sequence[bytes | None], mesh: Mesh | None = None) -> Arm:
    """Returns the arm of a resolved config with its vocabulary.

    `token_bytes` of each id are from `Tokenizer.bytes_from` with embedding.byte_source.  The devices of `mesh` may be
    simulated; None: JAX's default device.  Raises ValueError for an unknown kind, an implementation that needs more
    memory than embedding.cache_limit_mb, or an attention that the platform lacks.
    """
    platform = sharding.platform(mesh)
    c, shape, kind = config.embedding, transformer.Shape.of(config.model, platform), arms.kind(config.embedding.kind)
    known = {"vocab": shape.padded_vocab, "rank": c.rank, "mesh": mesh}
    bag = codes = None
    if kind.bag:
        codes = codec.byte_table(token_bytes, c.pos_dim, shape.padded_vocab, c.truncation)
        gradient = determinism.gather_gradient(config)
        bag = make_bag(codes, c.kind, c.norm)
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
    return Arm(transformer.Transformer(shape, embed, mesh), bag, codes)


def make_bag(codes: codec.ByteTable, kind: str, norm: str) -> bags.Bag:
    """Returns the bag of embedding.kind `kind`, not prepared; raises ValueError if its row count is not `code_dim`."""
    known = arms.kind(kind)
    bag = pkgutil.resolve_name(known.bag)(codes, norm)
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
