"""A config resolved: what is derived from it, and what cannot work."""

import math
from collections.abc import Iterator

import ml_collections

from kronecker.schema import arms, choices, dotted, keys


def mesh_sizes(mesh: ml_collections.ConfigDict, devices: int) -> tuple[int, ...]:
    """Returns the sizes of choices.MESH_AXES that the group `mesh` of a resolved config asks for on so many devices.

    Raises ValueError if they do not make up that number.
    """
    sizes = [mesh[axis] for axis in choices.MESH_AXES]
    rest, given = -1 in sizes, math.prod(size for size in sizes if size != -1)
    if devices % given or (not rest and devices != given):
        raise ValueError(
            f"{_told(mesh)}: {'no multiple of ' if rest else ''}{given} devices, there are {devices}; let the product "
            f"be {devices}, with -1 for the rest"
        )
    return tuple(devices // given if size == -1 else size for size in sizes)


def resolve(config: ml_collections.ConfigDict, devices: int | None = None) -> ml_collections.ConfigDict:
    """Returns a copy of `config` with everything derived that needs no data.

    The vocabulary is filled in later, by `with_vocabulary`, when the tokenizer is known.  `config` has every key of
    `keys.KEYS`; `devices` are over all hosts, for `check_devices`, None if not known yet.  Raises one ValueError that
    lists every value that is not allowed and every inconsistent pair.
    """
    c = config.copy_and_resolve_references()
    values = dotted.flat(c)
    faults = [*filter(None, (keys.fault(name, values[name]) for name in keys.KEYS)), *_pair_faults(c)]
    if faults:
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

    Raises ValueError if model.vocab_size was set and is another, or the rank of a factorized table is not low.
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
    if [c.mesh[axis] for axis in choices.MESH_AXES].count(-1) > 1:
        yield f"{_told(c.mesh)}: one at most is -1, for the rest of the devices"
    for axis, key, size in (("fsdp", "model.d_model", m.d_model), ("tensor", "model.heads", m.heads)):
        if c.mesh[axis] > 0 and size % c.mesh[axis]:
            yield f"mesh.{axis} is {c.mesh[axis]}, which does not divide {key} {size}; choose a divisor"
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
    kind, _, size = c.tokenizer.partition(":")
    if kind == "bpe" and size and not (size.isdecimal() and int(size) > arms.CHAR_DIM):
        yield f"tokenizer is {c.tokenizer!r}; write bpe:SIZE with at least {arms.CHAR_DIM + 1} ids, as bpe:8192"
    kind = c.data.source.partition(":")[0]
    if c.data.split_field and kind in ("stdlib", "text"):
        yield f"data.split_field is {c.data.split_field!r}, but data.source={kind} has no fields; leave it empty"
    if m.padded_vocab:
        yield f"model.padded_vocab is {m.padded_vocab}; it is derived, set model.vocab_multiple instead"


def _told(mesh: ml_collections.ConfigDict) -> str:
    return ", ".join(f"mesh.{axis}={mesh[axis]}" for axis in choices.MESH_AXES)
