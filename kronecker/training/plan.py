"""What a run needs, known before its first step: parameters, a device's memory, FLOPs, and an estimate of speed."""

import dataclasses
import math
import os
import pathlib  # noqa: TID251  of this machine's own limits
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import ml_collections

from kronecker.model import accounting
from kronecker.runtime import allocator, distributed, hardware
from kronecker.schema import resolution

# Files with a container's memory limit, by version of control groups; a machine without containers has neither.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MOST_OF_STATE = 1 / 4  # of a device's memory, for parameters and optimizer, before they are split over more devices
STATE_COPIES = 3  # the parameters and AdamW's two moments
LOSS_CHUNK = 1024  # tokens of a device: enough for an efficient matrix product


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device's memory that a compiled function needs."""

    arguments: int  # of a training step: parameters, optimizer, bag and batch
    outputs: int  # the new state and the metrics
    aliased: int  # outputs in the memory of arguments
    temporaries: int
    code: int  # the program

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> Self:
        stats = compiled.memory_analysis()
        return cls(
            arguments=stats.argument_size_in_bytes,
            outputs=stats.output_size_in_bytes,
            aliased=stats.alias_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
            code=stats.generated_code_size_in_bytes,
        )

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    def to_json(self) -> dict[str, int]:
        return dataclasses.asdict(self) | {"total": self.total}

    def __str__(self) -> str:
        results = self.outputs - self.aliased
        parts = f"arguments {_mb(self.arguments)}, results {_mb(results)}, temporaries {_mb(self.temporaries)}"
        return f"{parts}, program {_mb(self.code)}" if self.code else parts


def device_limit() -> int | None:
    """Returns the bytes that each device of the run may use; None: unknown.  All processes must call it.

    Simulated devices and the processes of one machine share the memory of the machine or its container.
    """
    # one limit for all, in KiB: with its own limit, one machine could refuse a run that the others start
    least = min(distributed.told_by_all(min(_own_limit() // 1024, 2**32 - 1)))
    return least * 1024 or None


def check_state(state: Any, limit: int | None, advice: Callable[[], str]) -> None:
    """Raises ValueError, without waiting for a compiler, if parameters and optimizer alone do not fit a device."""
    needed = bytes_of_a_device(state)
    if limit and needed > limit:
        raise ValueError(
            f"out of memory: parameters and optimizer need {_mb(needed)}, a device has {_mb(limit)}; {advice()}"
        )


def compiled(
    lowered: jax.stages.Lowered,
    what: str,
    limit: int | None,
    advice: Callable[[], str],
    options: Mapping[str, bool] | None = None,
    reserved: int = 0,
) -> jax.stages.Compiled:
    """Returns a compiled program: `what` of a run it is, for errors.

    `limit` is from `device_limit`, of which `reserved` bytes are the optimizer's; `options` are the compiler's.  Raises
    ValueError, with the result of `advice`, if the program needs more memory than the compiler or `limit` allows.
    """
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if allocator.OUT_OF_MEMORY not in str(error):
            raise
        words = f"out of memory while compiling the {what}: {str(error).splitlines()[0]}"
        raise ValueError(f"{words}; {advice()}") from None
    needed = Memory.of(program)
    if limit and needed.total + reserved > limit:
        parts = f"{needed}, optimizer {_mb(reserved)}" if reserved else str(needed)
        raise ValueError(
            f"out of memory: the {what} needs {_mb(needed.total + reserved)} ({parts}), a device has {_mb(limit)}; "
            f"{advice()}"
        )
    return program


def bytes_of_a_device(tree: Any) -> int:
    """Returns the bytes of arrays, or of their shapes, types and shardings, on the device that holds most."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def remedy(config: ml_collections.ConfigDict, devices: int, limit: int | None, has_checkpoint: bool = False) -> str:
    """Returns keys, with allowed values, that reduce the training step's memory, without keys that a checkpoint fixes.

    `config` is resolved, with its vocabulary; `devices` is their number in the run; `limit` is from `device_limit`.
    """
    c = config
    found: dict[str, object] = {}
    data, fsdp, tensor = resolution.mesh_sizes(c.mesh, devices)
    parts = data * fsdp  # a micro-batch is a multiple of these, in sequences
    more = (n for n in range(c.train.accumulate + 1, c.train.batch + 1) if c.train.batch % (n * parts) == 0)
    accumulate = None if has_checkpoint else next(more, None)
    if accumulate:
        found["train.accumulate"] = accumulate
    found |= _smaller_chunk(c.train, math.ceil(c.train.batch / (accumulate or c.train.accumulate) / parts))
    if not c.model.remat:
        found["model.remat"] = True
    if wider := fewest_fsdp(c.model, c.model.padded_vocab, limit, devices // tensor, above=fsdp):
        if c.mesh.tensor == -1:
            found["mesh.tensor"] = tensor
        if c.mesh.data != -1:
            found["mesh.data"] = -1
        found["mesh.fsdp"] = wider
    return _advice(found)


def remedy_of_evaluation(config: ml_collections.ConfigDict, devices: int) -> str:
    """Returns keys, with allowed values, that reduce the evaluation's memory; arguments as in `remedy`."""
    data, fsdp, _ = resolution.mesh_sizes(config.mesh, devices)
    sequences = config.eval.batch // (data * fsdp)  # of a device
    half = max(sequences // 2, 1)
    batch = {"eval.batch": half * data * fsdp} if half < sequences else {}
    return _advice(batch | _smaller_chunk(config.train, half))


def fewest_fsdp(
    model: ml_collections.ConfigDict, vocab: int, limit: int | None, devices: int, above: int = 0
) -> int | None:
    """Returns the smallest mesh.fsdp with which parameters and optimizer fit a device, else the largest allowed one.

    `model` is the config's group, `vocab` is V, and `devices` are those that data and fsdp share.  `limit` is bytes of
    a device; None if unknown: then no size is considered safe.  The result exceeds `above`; None: no allowed size does.
    """
    params = 12 * model.layers * model.d_model**2 + 2 * vocab * model.d_model
    state = params * STATE_COPIES * (2 if model.param_dtype == "bfloat16" else 4)
    allowed = [n for n in range(above + 1, devices + 1) if devices % n == 0 and model.d_model % n == 0]
    roomy = (n for n in allowed if limit and state / n <= MOST_OF_STATE * limit)
    return next(roomy, allowed[-1] if allowed else None)


def lines(
    step: jax.stages.Compiled,
    params: Mapping[str, int],
    config: ml_collections.ConfigDict,
    devices: int,
    limit: int | None,
) -> list[str]:
    """Returns lines for the user: parameters by group, memory of a device, FLOPs and speed.

    `step` is the training step, `params` are from `accounting.count`, the rest as in `remedy`.
    """
    groups = ", ".join(f"{name} {size:,}" for name, size in params.items() if name != "total")
    needed, tokens = Memory.of(step), config.train.batch * config.train.sequence
    flops = accounting.flops_per_token(config.model, config.train.sequence) * tokens
    kind = jax.devices()[0].device_kind
    peak = hardware.peak_flops(kind)
    speed = f"peak FLOP/s unknown for {kind}; no speed estimate yet"
    if peak:
        rate = devices * peak * hardware.MFU * tokens / flops
        speed = f"{rate:,.0f} tokens/s at an assumed MFU of {100 * hardware.MFU:.0f} % on {devices} x {kind}"
    there = _mb(limit) if limit else "an unknown limit"
    return [
        f"parameters: {params['total']:,} ({groups})",
        f"memory needed per device: {_mb(needed.total)} of {there} ({needed})",
        f"a step: {tokens:,} tokens, {flops:.3g} FLOPs; {speed}".replace("e+", "e"),
    ]


def _own_limit() -> int:
    """Returns the bytes that a device of this process may use; 0: unknown."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit", 0)
    processes = distributed.processes_here()
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = map(pathlib.Path, _LIMITS)
    container = (file.read_text(encoding="utf-8").strip() for file in files if file.exists())
    whole = min([machine, *(int(text) for text in container if text.isdecimal())])
    return whole // (processes * jax.local_device_count())


def _advice(keys: Mapping[str, object]) -> str:
    settings = " ".join(f"--config.{key}={value}" for key, value in keys.items())
    return f"to need less, add {settings}" if settings else "use a smaller model, or more or larger devices"


def _smaller_chunk(train: ml_collections.ConfigDict, sequences: int) -> dict[str, object]:
    """Returns a smaller train.loss_chunk, if there is one, for `sequences` at a time on a device."""
    tokens = sequences * train.sequence
    most = min(tokens, train.loss_chunk or tokens)
    return {"train.loss_chunk": min(LOSS_CHUNK, most // 2)} if most > 1 else {}


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
