"""The results of a kind of device, one JSON file each, and the key that decides whether a result is still valid."""

import datetime
import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from kronecker.run import rundir
from kronecker.runtime import machine
from kronecker.sweep import devices

ROOT = Path(__file__).parents[2]
CODE = ("kronecker", "configs", "train.py")  # files that a result depends on
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_NEEDED = {"name": str, "key": dict, "time": float, "error": (str, type(None)), "machine": dict}  # of a record
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu")


class Ledger:
    """The results of one kind of device, a file PART/NAME.json each; `facts` are from `facts_here`."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        # such as nvidia-h100-80gb-hbm3
        self.folder = folder / re.sub(r"[^a-z0-9]+", "-", facts["devices"][0].lower()).strip("-")
        self.facts = facts
        self.key = key(facts)

    def holds(self, part: str, name: str) -> bool:
        """Returns whether there is a result of this device, code and versions that has no error."""
        found = rundir.read_json(epath.Path(self._file(part, name)), _NEEDED)
        return bool(found) and found["key"] == self.key and found["error"] is None

    def write(self, part: str, name: str, seconds: float, result: Any, error: str | None = None) -> None:
        file = self._file(part, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "part": part,
            "name": name,
            "key": self.key,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "time": time.time(),
            "seconds": round(seconds, 3),
            "error": error,
            "result": result,
            "machine": self.facts,
        }
        rundir.write_json(epath.Path(file), record)

    def forget(self, part: str, name: str) -> None:
        self._file(part, name).unlink(missing_ok=True)

    def records(self, part: str) -> dict[str, dict[str, Any]]:
        """Returns all records of a part by name, oldest first, whatever their code and versions."""
        found = (rundir.read_json(epath.Path(file), _NEEDED) for file in (self.folder / part).glob("*.json"))
        return {record["name"]: record for record in sorted(found, key=lambda record: record["time"])}

    def _file(self, part: str, name: str) -> Path:
        return self.folder / part / f"{name}.json"


def key(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what must be equal for a result to be valid: devices, code, versions, and whether it is a rehearsal's.

    The code is compared by content, so a commit of other files changes nothing, and a dirty tree has its own key.
    """
    return {"devices": facts["devices"], "rehearsal": facts["rehearsal"], "code": facts["code"], **setup(facts)}


def setup(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the versions that two runs of a pair must share, from `facts_here` or a run's env.json."""
    return {"versions": {name: facts["versions"].get(name) for name in VERSIONS}}


def facts_here(rehearsal: bool, command: list[str], commit: str) -> dict[str, Any]:
    """Returns the machine, versions and code that are written to every result; initializes JAX's devices.

    `commit` is written if the code is in no git repository; "" writes null.
    """
    import jax  # here, as processes without the devices import this module too

    found = machine.facts()
    plugins = {name: version for name in PLUGINS if (version := machine.version(name))}
    return found | {
        "rehearsal": rehearsal,
        "command": machine.without_paths_outside(command),
        "commit": found["commit"] or commit or None,
        "code": code_version(),
        "versions": found["versions"] | plugins,
        "driver": next(iter(devices.nvidia_smi("driver_version")), None),
        "memory_bytes": (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"),
    }


def code_version(root: Path = ROOT) -> str:
    """Returns the first 12 digits of a sha256 over the names and contents of all Python files of CODE."""
    digest = hashlib.sha256()
    files = (file for name in CODE for file in [root / name, *(root / name).rglob("*.py")] if file.is_file())
    for file in sorted(files):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
