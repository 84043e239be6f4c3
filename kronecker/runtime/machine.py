"""What a process runs on, for records: versions, commit, devices, command, processor."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

AUTHOR_PACKAGE = ("kronecker-embeddings", "torch")  # benchmarks compare with it, where installed
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "tiktoken")
CHANGING = ("versions", "python", "commit", "platform", "devices")  # while a run goes on
# Of the environment: they change how a device rounds, so a pair that differs in one is named as for another version.
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION")


def environment() -> dict[str, Any]:
    """Returns the content of env.json: versions, commit, devices, command, start time in UTC."""
    import jax  # here, as it is slow to import, and readers of records do not need it

    return {
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES}
        | {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
        "python": platform.python_version(),
        "commit": _commit(),
        "platform": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def after(before: Any, now: Any) -> Any:
    """Returns a part of the record of a run that goes on under `now`: what differs has both, as "0.10, then 0.11"."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {name: after(before.get(name, "none"), now.get(name, "none")) for name in before | now}
    if isinstance(before, list) and isinstance(now, list):
        return before + [one for one in now if one not in before]
    return before if f", then {before}".endswith(f", then {now}") else f"{before}, then {now}"


def without_paths_outside(command: Sequence[str]) -> list[str]:
    """Returns a command for published records: a path outside its working directory keeps its base name only."""
    return [re.sub(r"(?<![^:=,])(?:\.\.)?/(?:[^/:=,]+/)*", "", word) for word in command]


def facts() -> dict[str, Any]:
    """Returns versions, commit, command, devices, cores, processor and load, ready for JSON."""
    found = environment()
    versions = found.pop("versions") | {name: version(name) for name in AUTHOR_PACKAGE}
    own = {
        "versions": versions,
        "command": without_paths_outside(found["command"]),
        "cores": os.cpu_count(),
        "processor": processor(),
        "load_before": load(),
    }
    return found | own


def load() -> list[float]:
    """Returns the load averages over 1, 5 and 15 minutes; a benchmark alone on its machine starts near 0."""
    return [round(value, 2) for value in os.getloadavg()]


def device_peak_bytes() -> int | None:
    """Returns this process's peak memory on the first device; None: the device does not report it."""
    import jax  # slow, as above

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def line(found: dict[str, Any]) -> str:
    """Returns the line below a benchmark about its machine and versions."""
    devices = ", ".join(found["devices"]) if found["platform"] != "cpu" else found["processor"]
    named = ("jax", "jaxlib", "flax", "optax", *AUTHOR_PACKAGE)
    versions = ", ".join(f"{name} {found['versions'][name] or 'not installed'}" for name in named)
    loads = f"load average at the start {found['load_before'][0]}"
    return f"{found['platform']}, {devices}, {found['cores']} cores, {loads}; Python {found['python']}, {versions}"


def processor() -> str:
    """Returns the processor's name, as Linux or else Python gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
