"""On what a benchmark ran."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

from kronecker.run import rundir

AUTHOR_PACKAGE = ("kronecker-embeddings", "torch")  # what benchmarks compare with, where it is installed


def facts() -> dict[str, Any]:
    """Returns versions, commit, command, devices, cores, processor and load, ready for JSON."""
    found = rundir.environment()
    versions = found.pop("versions") | {name: _version(name) for name in AUTHOR_PACKAGE}
    own = {
        "versions": versions,
        "command": rundir.without_paths_outside(found["command"]),
        "cores": os.cpu_count(),
        "processor": processor(),
        "load_before": load(),
    }
    return found | own


def load() -> list[float]:
    """Returns the load averages over 1, 5 and 15 minutes; a benchmark alone on its machine starts near 0."""
    return [round(value, 2) for value in os.getloadavg()]


def device_peak_bytes() -> int | None:
    """Returns the most memory of the first device that this process held; None where the device does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def line(found: dict[str, Any]) -> str:
    """Returns the line under a benchmark that says what it ran on."""
    devices = ", ".join(found["devices"]) if found["platform"] != "cpu" else found["processor"]
    named = ("jax", "jaxlib", "flax", "optax", *AUTHOR_PACKAGE)
    versions = ", ".join(f"{name} {found['versions'][name] or 'not installed'}" for name in named)
    loads = f"load average at the start {found['load_before'][0]}"
    return f"{found['platform']}, {devices}, {found['cores']} cores, {loads}; Python {found['python']}, {versions}"


def processor() -> str:
    """Returns the processor's name, as Linux or else Python gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
