"""A run's directory: the names of its files, how they are written, and what makes a folder another run's.

    config.json     the resolved config            params.json    parameters by group, hash of the initial body
    env.json        versions, commit, devices      metrics.jsonl  one object a line
    checkpoints/    orbax                          result.json    written last: the run is complete

Everything downstream reads these files alone.
"""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from kronecker import config as configs

CONFIG, ENV, PARAMS, RESULT = "config.json", "env.json", "params.json", "result.json"

# Keys that a resumed run may have otherwise: they say what is written and where work happens, not which numbers.
FREE_ON_RESUME = ("checkpoint.", "data.folder", "data.workers", "eval.", "log.", "mesh.", "model.remat")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "tiktoken")


def write_json(path: epath.Path, content: Any) -> None:
    """Writes a JSON file by rename, so that it is whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: epath.Path) -> Any:
    """Returns the content of a JSON file, or None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def check_same_run(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError that names the differing keys if `workdir` holds a run of another config."""
    saved = read_json(workdir / CONFIG)
    if saved is None:
        if workdir.exists() and any(not file.name.endswith(".tmp") for file in workdir.iterdir()):
            raise ValueError(f"--workdir={workdir}: not empty and not a run (no {CONFIG}); choose another folder")
        return
    before, now = configs.flat(ml_collections.ConfigDict(saved)), configs.flat(config)
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    if differing:
        raise ValueError(
            f"--workdir={workdir}: holds a run of another config ({'; '.join(differing)}); choose another folder"
        )


def environment() -> dict[str, Any]:
    """Returns what env.json says: versions, commit, devices, command, start time in UTC."""
    import jax  # reading a run's files should not wait for it

    return {
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "commit": _commit(),
        "platform": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
