"""Resolves a config: derives values and refuses what cannot work."""

import math
from collections.abc import Iterator

import ml_collections

from kronecker.schema import arms, choices, dotted, keys

MOST_OF_BPE = 2**20  # ids; its trainer takes memory for all of them at once


def mesh_sizes(mesh: ml_collections.ConfigDict, devices: int) -> tuple[int, ...]:
    """Returns the size of each of choices.MESH_AXES, from the group `mesh` of a resolved config.

    Raises ValueError if their product is not the number of devices.
    """
    sizes = [mesh[axis] for axis in choices.MESH_AXES]
    rest, given = -1 in sizes, math.prod(size for size in sizes if size != -1)
    if devices % given or (not rest and devices != given):
        fault = "which does not divide" if rest else "not"
        raise ValueError(
            f"{_axes(mesh)}: the axes multiply to {given}, {fault} {devices} devices; make the product {devices}, or "
            f"set one axis to -1 and the product of the others to a divisor of {devices}"
        )
    return tuple(devices // given if size == -1 else size for size in sizes)


def resolve(config: ml_collections.ConfigDict, devices: int | None = None) -> ml_collections.ConfigDict:
    """Returns a copy of `config`, which has every key of `keys.KEYS`, with every value derived that needs no data.

    `with_vocabulary` fills in the vocabulary later, from the tokenizer.  `devices`: the number of devices over all
    hosts, for `check_devices`; None if unknown.  Raises one ValueError that lists every fault.
    """
    dotted.check_complete(config)
    c = config.copy_and_resolve_references()
    values = dotted.flat(c)
    faults = [*filter(None, (keys.fault(name, values[name]) for name in keys.KEYS)), *_pair_faults(c)]
    _refuse(faults)
    tokens_a_step = c.train.batch * c.train.sequence
    c.train.steps = c.train.steps or max(1, math.ceil(c.train.tokens / tokens_a_step))
    c.train.tokens = c.train.steps * tokens_a_step
    by_share = min(math.ceil(c.train.warmup_share * c.train.tokens / tokens_a_step), c.train.steps - 1)
    by_tokens = math.ceil(c.train.warmup_tokens / tokens_a_step)
    c.train.warmup_steps = c.train.warmup_steps or by_tokens or by_share
    if c.train.warmup_steps >= c.train.steps:
        named = f"train.warmup_steps is {config.train.warmup_steps}"
        if not config.train.warmup_steps:
            named = f"train.warmup_tokens is {config.train.warmup_tokens:,}, {c.train.warmup_steps:,} steps,"
        raise ValueError(f"{named} but must be below train.steps {c.train.steps:,}; lower it, or train for longer")
    c.train.warmup_tokens = c.train.warmup_steps * tokens_a_step
    c.eval.batch = c.eval.batch or c.train.batch // c.train.accumulate
    if not c.embedding.init_std:
        c.embedding.init_std = arms.derived_init_std(dotted.flat(c))
    if devices is not None:
        check_devices(c, devices)
    return c


def check_devices(config: ml_collections.ConfigDict, devices: int) -> None:
    """Raises a ValueError if the mesh and batches of a resolved config do not fit so many devices, over all hosts."""
    _refuse([*_device_faults(config, devices)])


def with_vocabulary(config: ml_collections.ConfigDict, vocab_size: int) -> ml_collections.ConfigDict:
    """Returns a copy of a resolved config with the vocabulary and the rank filled in from the tokenizer's size.

    Raises ValueError if model.vocab_size is set to another size, or the rank of a factorized table is too high.
    """
    c = config.copy_and_resolve_references()
    if c.model.vocab_size not in (0, vocab_size):
        raise ValueError(
            f"model.vocab_size is {c.model.vocab_size:,} but tokenizer {c.tokenizer} has {vocab_size:,} ids; "
            "set model.vocab_size to 0, so that it is derived"
        )
    c.model.vocab_size = vocab_size
    c.model.padded_vocab = math.ceil(c.model.vocab_size / c.model.vocab_multiple) * c.model.vocab_multiple
    if "rank" in arms.kind(c.embedding.kind).takes and (c.embedding.rank or c.embedding.rank_rows == "all"):
        c.embedding.rank = rank(c, arms.byte_grid(c.embedding.pos_dim))
    return c


def rank(config: ml_collections.ConfigDict, rows: int) -> int:
    """Returns embedding.rank, or if it is 0, that of a table with the parameters of so many rows of a projection.

    `config` has its vocabulary.  Raises ValueError if the rank is too high.
    """
    vocab, width = config.model.padded_vocab, config.model.d_model
    found = config.embedding.rank or max(1, round(rows * width / (vocab + width)))
    if found >= (full := min(vocab, width)):
        raise ValueError(
            f"embedding.rank is {found} but must be below min(V, d) = {full}; lower it, or if it is derived "
            "(set to 0), lower embedding.pos_dim"
        )
    return found


def _device_faults(c: ml_collections.ConfigDict, devices: int) -> Iterator[str]:
    data, fsdp, _ = mesh_sizes(c.mesh, devices)
    parts, micro = data * fsdp, c.train.batch // c.train.accumulate
    split = f"not divisible by the {parts} devices that split a batch (mesh.data {data} x mesh.fsdp {fsdp})"
    if micro % parts:
        yield (
            f"train.batch {c.train.batch} / train.accumulate {c.train.accumulate} = {micro} sequences, {split}; "
            f"set train.batch to a multiple of {c.train.accumulate * parts}"
        )
    if c.eval.batch % parts and c.eval.batch != micro:  # if equal, one fault is enough
        yield f"eval.batch is {c.eval.batch} sequences, {split}; set it to a multiple of {parts}"


def _pair_faults(c: ml_collections.ConfigDict) -> Iterator[str]:
    m, t = c.model, c.train
    if m.heads > 0 and m.d_model % m.heads:
        yield f"model.heads is {m.heads}, which does not divide model.d_model {m.d_model}; choose a divisor"
    if t.sequence > m.context:
        yield f"train.sequence is {t.sequence}, longer than model.context {m.context}; lower it or raise model.context"
    if t.deterministic and c.embedding.gather_gradient == "scatter":
        yield "embedding.gather_gradient is scatter, which train.deterministic does not allow; set it to auto or onehot"
    if [c.mesh[axis] for axis in choices.MESH_AXES].count(-1) > 1:
        yield f"{_axes(c.mesh)}: only one axis may be -1 (all remaining devices); set the others"
    for axis, key, size in (("fsdp", "model.d_model", m.d_model), ("tensor", "model.heads", m.heads)):
        if c.mesh[axis] > 0 and size % c.mesh[axis]:
            yield f"mesh.{axis} is {c.mesh[axis]}, which does not divide {key} {size}; choose a divisor"
    if t.accumulate > 0 and t.batch % t.accumulate:
        yield f"train.batch is {t.batch}, not divisible by train.accumulate {t.accumulate}; make it a multiple"
    yield from arms.faults(dotted.flat(c))
    if c.checkpoint.keep_every % max(1, c.checkpoint.every):
        yield (
            f"checkpoint.keep_every is {c.checkpoint.keep_every}, not a multiple of checkpoint.every "
            f"{c.checkpoint.every}, so most of the checkpoints to keep are never written; choose a multiple"
        )
    kind, _, size = c.tokenizer.partition(":")
    if kind == "bpe" and size and not (size.isdecimal() and arms.CHAR_DIM < int(size[:20]) <= MOST_OF_BPE):
        words = f"SIZE from {arms.CHAR_DIM + 1} to {MOST_OF_BPE:,}, e.g. bpe:8192"
        yield f"tokenizer is {c.tokenizer!r:.80}; write bpe:SIZE with {words}"
    kind = c.data.source.partition(":")[0]
    if c.data.split_field and kind in ("stdlib", "text"):
        yield f"data.split_field is {c.data.split_field!r}, but data.source={kind} has no fields; leave it empty"
    if m.padded_vocab:
        yield f"model.padded_vocab is {m.padded_vocab}; it is derived: leave it at 0 and set model.vocab_multiple"


def _refuse(faults: list[str]) -> None:
    if len(faults) > 1:
        faults = [f"({number}) {fault}" for number, fault in enumerate(faults, 1)]
    if faults:
        raise ValueError(" ".join(faults))


def _axes(mesh: ml_collections.ConfigDict) -> str:
    return ", ".join(f"mesh.{axis}={mesh[axis]}" for axis in choices.MESH_AXES)
