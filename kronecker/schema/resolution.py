"""A config resolved: what is derived from it, and what cannot work."""

import math
from collections.abc import Iterator
from typing import Any

import ml_collections

from kronecker.schema import arms, choices, dotted

AT_LEAST = {
    "data.shards": 0,
    "data.workers": 0,
    "model.layers": 1,
    "model.heads": 1,
    "model.d_model": 1,
    "model.context": 1,
    "model.vocab_multiple": 1,
    "model.vocab_size": 0,
    "embedding.pos_dim": 1,
    "embedding.rank": 0,
    "train.batch": 1,
    "train.sequence": 1,
    "train.steps": 0,
    "train.tokens": 1,
    "train.accumulate": 1,
    "train.loss_chunk": 0,
    "train.warmup_tokens": 0,
    "train.warmup_steps": 0,
    "eval.every": 0,
    "eval.batch": 0,
    "eval.sequences": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "checkpoint.keep_every": 0,
    "log.every": 1,
    "log.profile_steps": 0,
    "distributed.processes": 0,
    "distributed.index": -1,
    "distributed.timeout_seconds": 1,
    "distributed.heartbeat_seconds": 1,
    "mesh.cpu_devices": 1,
    "mesh.data": -1,
    "mesh.fsdp": -1,
    "mesh.tensor": -1,
    "seed": 0,
}
LARGEST_SEED = 2**32 - 1
POSITIVE = ("train.lr", "train.eps", "embedding.lr_mult", "embedding.cache_limit_mb", "checkpoint.grace_seconds")
NOT_NEGATIVE = ("train.weight_decay", "train.clip", "embedding.init_std")
SHARES = (
    "train.lr_final",
    "train.warmup_share",
    "train.beta1",
    "train.beta2",
    "model.dropout",
    "data.validation_fraction",
)


def mesh_sizes(mesh: ml_collections.ConfigDict, devices: int) -> tuple[int, ...]:
    """Returns the sizes of choices.MESH_AXES that the group `mesh` asks for on so many devices.

    Raises:
      ValueError: if they do not make up that number, or more than one is to be the rest.
    """
    sizes = {axis: mesh[axis] for axis in choices.MESH_AXES}
    told = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    rest = [axis for axis, size in sizes.items() if size == -1]
    if 0 in sizes.values() or len(rest) > 1:
        raise ValueError(f"{told}: each is a number of devices from 1 up, and one at most is -1 for the rest")
    given = math.prod(size for size in sizes.values() if size != -1)
    if devices % given or (not rest and devices != given):
        raise ValueError(
            f"{told}: {'no multiple of ' if rest else ''}{given} devices, there are {devices}; let the product be "
            f"{devices}, with -1 for the rest"
        )
    return tuple(devices // given if size == -1 else size for size in sizes.values())


def resolve(config: ml_collections.ConfigDict, devices: int | None = None) -> ml_collections.ConfigDict:
    """Returns a copy of `config` with everything derived that needs no data.

    The vocabulary is filled in later, by `with_vocabulary`, when the tokenizer is known.

    Args:
      config: every key of configs/base.py.
      devices: over all hosts, for `check_devices`; None: not known yet.

    Raises:
      ValueError: one message that lists every unknown enum, value out of range and inconsistent pair.
    """
    c = config.copy_and_resolve_references()
    if faults := [*_value_faults(dotted.flat(c)), *_pair_faults(c)]:
        raise ValueError("; ".join(faults))
    tokens_a_step = c.train.batch * c.train.sequence
    c.train.steps = c.train.steps or max(1, math.ceil(c.train.tokens / tokens_a_step))
    c.train.tokens = c.train.steps * tokens_a_step
    warmup_tokens = c.train.warmup_tokens or c.train.warmup_share * c.train.tokens
    c.train.warmup_steps = c.train.warmup_steps or min(math.ceil(warmup_tokens / tokens_a_step), c.train.steps - 1)
    c.train.warmup_tokens = c.train.warmup_steps * tokens_a_step
    c.eval.batch = c.eval.batch or c.train.batch // c.train.accumulate
    if not c.embedding.init_std:
        c.embedding.init_std = arms.derived_init_std(dotted.flat(c))
    if devices is not None:
        check_devices(c, devices)
    return c


def check_devices(config: ml_collections.ConfigDict, devices: int) -> None:
    """Raises a ValueError if a resolved config's mesh and batches do not fit so many devices, over all hosts."""
    if faults := [*_device_faults(config, devices)]:
        raise ValueError("; ".join(faults))


def with_vocabulary(config: ml_collections.ConfigDict, vocab_size: int) -> ml_collections.ConfigDict:
    """Returns a copy of a resolved config with the model's vocabulary filled in from the tokenizer's.

    Raises:
      ValueError: if model.vocab_size was set and is not the tokenizer's, or the rank of a factorized table is not low.
    """
    c = config.copy_and_resolve_references()
    if c.model.vocab_size not in (0, vocab_size):
        raise ValueError(
            f"model.vocab_size is {c.model.vocab_size:,} but tokenizer {c.tokenizer} has {vocab_size:,} ids; "
            "leave model.vocab_size at 0, model.vocab_multiple pads it"
        )
    c.model.vocab_size = vocab_size
    c.model.padded_vocab = math.ceil(c.model.vocab_size / c.model.vocab_multiple) * c.model.vocab_multiple
    has_rank = "rank" in arms.kind(c.embedding.kind).takes
    if has_rank and not c.embedding.rank:
        projection = arms.byte_grid(c.embedding.pos_dim) * c.model.d_model
        c.embedding.rank = max(1, round(projection / (c.model.padded_vocab + c.model.d_model)))
    full = min(c.model.padded_vocab, c.model.d_model)
    if has_rank and c.embedding.rank >= full:
        raise ValueError(
            f"embedding.rank is {c.embedding.rank}, no low rank for a table of {c.model.padded_vocab:,} x "
            f"{c.model.d_model}; set it below {full}, or a smaller embedding.pos_dim whose projection it matches"
        )
    return c


def _value_faults(values: dict[str, Any]) -> Iterator[str]:
    for key, allowed in choices.ALLOWED.items():
        if values[key] not in allowed:
            yield f"{key} is {values[key]!r}; allowed: {', '.join(allowed)}"
    for key, least in AT_LEAST.items():
        if values[key] < least:
            yield f"{key} is {values[key]}; it must be at least {least}"
    if values["seed"] > LARGEST_SEED:
        yield f"seed is {values['seed']}; it must be at most {LARGEST_SEED}"
    for key in POSITIVE:
        if not values[key] > 0:
            yield f"{key} is {values[key]}; it must be above 0"
    for key in NOT_NEGATIVE:
        if not values[key] >= 0:
            yield f"{key} is {values[key]}; it must not be negative"
    for key in SHARES:
        if not 0 <= values[key] < 1:
            yield f"{key} is {values[key]}; it must be in [0, 1)"


def _device_faults(c: ml_collections.ConfigDict, devices: int) -> Iterator[str]:
    data, fsdp, _ = mesh_sizes(c.mesh, devices)
    parts, micro = data * fsdp, c.train.batch // c.train.accumulate
    told = f"{parts} parts of a batch (mesh.data {data} x mesh.fsdp {fsdp})"
    if micro % parts:
        yield (
            f"train.batch {c.train.batch} / train.accumulate {c.train.accumulate} leaves {micro} sequences, not "
            f"divisible by {told}; change either"
        )
    if c.eval.batch % parts and c.eval.batch != micro:  # else it is the same fault
        yield f"eval.batch is {c.eval.batch}, not divisible by {told}"


def _pair_faults(c: ml_collections.ConfigDict) -> Iterator[str]:
    m, t = c.model, c.train
    if m.heads > 0 and m.d_model % m.heads:
        yield f"model.heads is {m.heads}, which does not divide model.d_model {m.d_model}; choose a divisor"
    if t.sequence > m.context:
        yield f"train.sequence is {t.sequence}, longer than model.context {m.context}; shorten it or raise that"
    if t.deterministic and c.embedding.gather_gradient == "scatter":
        yield "embedding.gather_gradient is scatter, which train.deterministic does not allow; set it to auto or onehot"
    if t.accumulate > 0 and t.batch % t.accumulate:
        yield f"train.batch is {t.batch}, not divisible by train.accumulate {t.accumulate}"
    yield from arms.faults(dotted.flat(c))
    if t.steps and t.warmup_steps >= t.steps:
        yield f"train.warmup_steps is {t.warmup_steps}, not below train.steps {t.steps}; lower it or train longer"
    if c.checkpoint.keep_every % max(1, c.checkpoint.every):
        yield (
            f"checkpoint.keep_every is {c.checkpoint.keep_every}, no multiple of checkpoint.every "
            f"{c.checkpoint.every}, so most of those steps are never saved"
        )
    if m.padded_vocab:
        yield f"model.padded_vocab is {m.padded_vocab}; it is derived, set model.vocab_multiple instead"
