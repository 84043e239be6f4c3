"""A run's directory: the names of its files, how they are written, and what makes a folder another run's.

    config.json     the resolved config            params.json    parameters by group, hash of the initial body
    env.json        versions, commit, devices      metrics.jsonl  one object a line
    checkpoints/    orbax                          result.json    written last: the run is complete

and token_losses.npz, which token_losses.py adds to a complete run, and profile/ where log.profile_steps asks for it.
Everything downstream reads these files alone.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path  # noqa: TID251  of the lock, which a bucket has not
from typing import Any

import ml_collections
from etils import epath

from kronecker.runtime import locks, storage
from kronecker.schema import dotted, keys

CONFIG, ENV, PARAMS, RESULT = "config.json", "env.json", "params.json", "result.json"
TOKEN_LOSSES = "token_losses.npz"
CHECKPOINTS = "checkpoints"
COMMITTED = "commit_success.txt"  # orbax's name

# Keys that a resumed run may have otherwise.
FREE_ON_RESUME = keys.having(keys.ROUNDING, keys.NOTHING)
_LATER = {name: key.default for name, key in keys.KEYS.items() if key.later}


def write_json(path: epath.Path, content: Any) -> None:
    """Writes a JSON file, which is then whole or not there."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with storage.writing(path) as file:
        file.write(text.encode())


def read_json(path: epath.Path) -> Any:
    """Returns the content of a JSON file, or None if there is none; a damaged one raises a ValueError that names it."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); the file was cut or edited") from None


def completed(saved: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that a run has saved, with the keys that came later at their defaults."""
    for name, default in _LATER.items():
        group, _, last = name.rpartition(".")
        (saved.setdefault(group, {}) if group else saved).setdefault(last, default)
    return ml_collections.ConfigDict(saved)


def fixed(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the part of a config that decides a run's numbers, dotted key -> value."""
    return {
        key: value
        for key, value in dotted.flat(config).items()
        if key not in FREE_ON_RESUME and (key not in _LATER or value != _LATER[key])
    }


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Holds the run's folder against other processes of this machine; a second one waits and then finds it finished."""
    if storage.is_remote(workdir):  # object stores have no locks
        yield
        return
    with locks.locked(Path(workdir) / locks.LOCK):
        yield


def check_same_run(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError that names the differing keys if `workdir` holds a run of another config.

    A run with neither a checkpoint nor a result has nothing to lose, and may be started anew with any config.
    """
    saved = read_json(workdir / CONFIG)
    if saved is None:
        if workdir.exists() and any(not _is_passing(file.name) for file in workdir.iterdir()):
            raise ValueError(f"--workdir={workdir}: not empty and not a run (no {CONFIG}); choose another folder")
        return
    if not has_checkpoint(workdir) and not (workdir / RESULT).exists():
        return
    before, now = fixed(ml_collections.ConfigDict(saved)), fixed(config)
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(
            f"--workdir={workdir}: holds a run of another config ({'; '.join(differing)}); choose another folder"
        )


def has_checkpoint(workdir: epath.Path) -> bool:
    """Returns whether there is a whole checkpoint.

    On a disk orbax gives its folder a bare number last.  A bucket cannot rename one: there it adds COMMITTED last.
    """
    folder = workdir / CHECKPOINTS
    steps = [child for child in folder.iterdir() if child.name.isdigit()] if folder.exists() else []
    return any(not storage.is_remote(step) or (step / COMMITTED).exists() for step in steps)


def _is_passing(name: str) -> bool:
    return name == locks.LOCK or name.endswith(".tmp")
