"""From a config with its vocabulary to the model of its arm and the bag that the arm's code is."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from kronecker.embedding import bags, codec, controls, implementations, linen
from kronecker.model import accounting, transformer
from kronecker.runtime import determinism, sharding
from kronecker.schema import choices


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """An arm ready to train."""

    model: transformer.Transformer  # the decoder around the arm's input embedding
    bag: bags.Bag | None  # what `model` takes as its second argument, prepared for its implementation; None for a table
    codes: codec.ByteTable | None  # the vocabulary's bytes behind `bag`; None for a table


def build(config: ml_collections.ConfigDict, token_bytes: Sequence[bytes | None], mesh: Mesh | None = None) -> Arm:
    """Returns the arm that a resolved config, its vocabulary filled in, describes.

    Args:
      token_bytes: of each id, as `Tokenizer.bytes_from` gives them for the config's embedding.byte_source.
      mesh: of the devices that it will run on, there or not; None: one of JAX's own.

    Raises:
      ValueError: if the implementation asked for would keep more memory than embedding.cache_limit_mb, or the
        platform does not have the attention asked for.
    """
    platform = sharding.platform(mesh)
    c, shape = config.embedding, transformer.Shape.of(config.model, platform)
    common = {
        "features": shape.d_model,
        "init_std": c.init_std,
        "dtype": shape.dtype,
        "param_dtype": shape.param_dtype,
    }
    if c.kind == "table":
        embed = linen.TableEmbed(vocab=shape.padded_vocab, **common)
        return Arm(transformer.Transformer(shape, embed, mesh), None, None)
    if c.kind == "factorized":
        embed = linen.FactorizedEmbed(vocab=shape.padded_vocab, rank=c.rank, **common)
        return Arm(transformer.Transformer(shape, embed, mesh), None, None)
    codes = codec.byte_table(token_bytes, c.pos_dim, shape.padded_vocab, c.truncation)
    bag = make_bag(codes, c.kind, c.norm)
    implementation = c.implementation
    if implementation == choices.AUTO:
        implementation = implementations.choose(platform)
    gradient = determinism.gather_gradient(config)
    bag = implementations.prepare(
        bag, implementation, shape.dtype, c.cache_limit_mb, platform, shape.tie_head, gradient
    )
    std = c.init_std * (bag.rows**0.5 if c.norm == "z" else 1.0)  # of an initial embedding
    tied_scale = transformer.INIT_STD / std if shape.tie_head else 0.0  # the logits then start at a learned table's
    embed = linen.BagEmbed(rows=bag.rows, logit_scale=tied_scale, mesh=mesh, **common)
    return Arm(transformer.Transformer(shape, embed, mesh), bag, codes)


def make_bag(codes: codec.ByteTable, kind: str, norm: str) -> bags.Bag:
    if kind == "hash_ngram":  # has one norm
        return controls.hash_ngram_bag(codes)
    makers = {
        "kronecker": bags.kronecker_bag,
        "head_tail": controls.head_tail_bag,
        "random_code": controls.random_code_bag,
    }
    return makers[kind](codes, norm)


def with_table(arm: Arm, params: dict[str, Any]) -> tuple[Arm, dict[str, Any]]:
    """Returns the same model with its input embedding as a table, E = K W, built once: what inference looks up.

    An arm that is no bag alone stays as it is, and so does an induced table that is the head too.
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
    """Returns one line that says how the product of a bag arm is computed, and why."""
    why = "as configured"
    if config.embedding.implementation == choices.AUTO:
        tokens = tokens_a_device(config, mesh)
        why = f"auto on {sharding.platform(mesh)}, {tokens:,} tokens a device, vocabulary {arm.bag.vocab:,}"
    line = f"product: {implementations.describe(arm.bag)} ({why}), checked against the dense code"
    if arm.bag.implementation == "bag" and arm.bag.platform == "gpu":
        # From the compiled program of 16,384 tokens of real text at d = 768: nothing of it was timed.
        line += (
            "; bag on a GPU launches hundreds of small kernels, an estimated 10 to 20 ms a step: gather is one kernel"
        )
    return line


def tokens_a_device(config: ml_collections.ConfigDict, mesh: Mesh | None = None) -> int:
    """Returns how many tokens a device embeds at a time in training: a micro-batch's share."""
    parts = sharding.batch_shards(mesh) if mesh is not None else 1
    return config.train.batch * config.train.sequence // config.train.accumulate // parts
