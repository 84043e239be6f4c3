"""What a run will take, known before its first step: parameters, a device's memory, FLOPs, and the speed to expect."""

import os
import pathlib  # noqa: TID251  of this machine's own limits
from collections.abc import Iterator, Mapping

import jax
import ml_collections

from kronecker import config as configs
from kronecker import cost, storage
from kronecker.training import throughput

# Where a container's limit stands, by the version of control groups; a bare machine has neither.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def use_compilation_cache(folder: str) -> None:
    """Keeps what this process compiles in `folder`, on a disk or in a bucket, and takes from there what fits."""
    path = storage.open_path(folder, "compilation_cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def compile_step(lowered: jax.stages.Lowered, config: ml_collections.ConfigDict, devices: int) -> jax.stages.Compiled:
    """Returns the compiled training step.

    Args:
      lowered: from `step.lower_train_step`.
      config: resolved.
      devices: in all.

    Raises:
      ValueError: if the compiler or `limit` says that a device has too little memory for it; says what would help.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        words = f"the compiler finds no room for the training step: {str(error).splitlines()[0]}"
        raise ValueError(f"{words}; {remedy(config, devices)}") from None
    needed, there = memory(compiled), limit()
    if needed["total"] > there:
        raise ValueError(
            f"the training step needs {_mb(needed['total'])} of a device's {_mb(there)} ({_parts(needed)}); "
            f"{remedy(config, devices)}"
        )
    return compiled


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes that a compiled function holds on a device: arguments, results, temporaries, total.

    A result in the place of a donated argument counts once, as an argument.
    """
    stats = compiled.memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    parts = {"arguments": stats.argument_size_in_bytes, "results": results, "temporaries": stats.temp_size_in_bytes}
    return parts | {"total": sum(parts.values())}


def limit() -> int:
    """Returns the bytes that one device here may use; simulated ones share the machine's, or its container's."""
    device = jax.local_devices()[0]
    told = (device.memory_stats() or {}).get("bytes_limit")
    if told:
        return told
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = (pathlib.Path(name) for name in _LIMITS)
    container = (file.read_text().strip() for file in files if file.exists())
    return min([machine, *(int(text) for text in container if text.isdecimal())]) // jax.local_device_count()


def remedy(config: ml_collections.ConfigDict, devices: int) -> str:
    """Returns which keys would make the training step smaller, with values that can be."""
    keys = [f"--config.{key}={value}" for key, value in _smaller(config, devices)]
    return f"take less with {', '.join(keys)}" if keys else "take a smaller model, or devices with more memory"


def lines(
    compiled: jax.stages.Compiled, params: Mapping[str, int], config: ml_collections.ConfigDict, devices: int
) -> list[str]:
    """Returns what to tell whoever waits: parameters by group, memory of a device, FLOPs and speed.

    Args:
      compiled: the training step.
      params: as `accounting.count` gives them.
      config: resolved, with its vocabulary.
      devices: in all.
    """
    groups = ", ".join(f"{name} {size:,}" for name, size in params.items() if name != "total")
    needed, tokens = memory(compiled), config.train.batch * config.train.sequence
    flops = throughput.flops_per_token(config.model, config.train.sequence) * tokens
    kind = jax.devices()[0].device_kind
    peak = throughput.peak_flops(kind)
    speed = f"no peak is known of {kind}, hence no speed to expect"
    if peak:
        rate = devices * peak * cost.MFU * tokens / flops
        speed = f"{rate:,.0f} tokens/s at an assumed MFU of {100 * cost.MFU:.0f} % of {devices} x {kind}"
    return [
        f"parameters: {params['total']:,} ({groups})",
        f"memory of a device: {_mb(needed['total'])} of {_mb(limit())} ({_parts(needed)})",
        f"a step: {tokens:,} tokens, {flops:.3g} FLOPs; {speed}",
    ]


def _smaller(c: ml_collections.ConfigDict, devices: int) -> Iterator[tuple[str, object]]:
    data, fsdp, _ = configs.mesh_sizes(c.mesh, devices)
    whole = data * fsdp  # a micro-batch is a multiple of so many sequences
    more = (n for n in range(c.train.accumulate + 1, c.train.batch + 1) if c.train.batch % (n * whole) == 0)
    if accumulate := next(more, None):
        yield "train.accumulate", accumulate
    if not c.train.loss_chunk:
        yield "train.loss_chunk", min(1024, c.train.sequence)
    if not c.model.remat:
        yield "model.remat", True
    if c.mesh.data == -1 and fsdp == 1 < data and c.model.d_model % data == 0:
        yield "mesh.fsdp", data


def _parts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_mb(size)}" for name, size in sizes.items() if name != "total")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
