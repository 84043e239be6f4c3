"""A run's folder: the names of its files, how they are written, and how a folder of another run is recognised.

    config.json     the resolved config            params.json    parameters by group, hash of the initial body
    env.json        versions, commit, devices      metrics.jsonl  one object per line
    checkpoints/    orbax                          result.json    written last: the run is complete

and token_losses.npz, which token_losses.py adds to a complete run, profile/ if log.profile_steps is set, and
damaged-checkpoints/, where a run that resumed from an older checkpoint has put newer ones.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path  # noqa: TID251  for the lock, which is always local
from typing import Any

import ml_collections
from etils import epath

from kronecker.runtime import locks, storage
from kronecker.schema import dotted, keys

CONFIG, ENV, PARAMS, RESULT = "config.json", "env.json", "params.json", "result.json"
TOKEN_LOSSES = "token_losses.npz"
CHECKPOINTS, DAMAGED = "checkpoints", "damaged-checkpoints"
COMMITTED = "commit_success.txt"  # orbax's name

# Keys that may change when a run resumes.
FREE_ON_RESUME = keys.having(keys.ROUNDING, keys.NOTHING)
_LATER = {name: key.default for name, key in keys.KEYS.items() if key.later}


def write_json(path: epath.Path, content: Any) -> None:
    """Writes a JSON file, completely or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with storage.writing(path) as file:
        file.write(text.encode())


def read_json(path: epath.Path) -> Any:
    """Returns the content of a JSON file, or None if there is none; raises ValueError if it is damaged."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}): incomplete or edited; restore it or use a new folder") from None


def completed(saved: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that a run has saved; newer keys, which it lacks, get their defaults."""
    for name, default in _LATER.items():
        group, _, last = name.rpartition(".")
        (saved.setdefault(group, {}) if group else saved).setdefault(last, default)
    return ml_collections.ConfigDict(saved)


def fixed(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the part of a config that determines a run's numbers, dotted key -> value."""
    return {
        key: value
        for key, value in dotted.flat(config).items()
        if key not in FREE_ON_RESUME and (key not in _LATER or value != _LATER[key])
    }


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Locks the run's folder; a second process of this machine waits, and then finds the run finished."""
    if storage.is_remote(workdir):  # object stores have no locks
        yield
        return
    with locks.locked(Path(workdir) / locks.LOCK):
        yield


def check_same_run(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError with the differing keys if `workdir` holds a run of another config.

    A run without checkpoint and result has nothing to lose, and may start again with any config.
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
    """Returns whether there is a checkpoint, be it damaged; an empty folder is none."""
    folders = (workdir / CHECKPOINTS / str(step) for step in saved_steps(workdir))
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def saved_steps(workdir: epath.Path) -> list[int]:
    """Returns the steps whose checkpoints were completed, the newest first; they may be damaged.

    On a disk orbax renames its folder to a number last; in a bucket, which cannot rename, it adds COMMITTED last.
    """
    folder = workdir / CHECKPOINTS
    saved = (
        [child for child in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", child.name)] if folder.exists() else []
    )
    complete = (step for step in saved if not storage.is_remote(step) or (step / COMMITTED).exists())
    return sorted((int(step.name) for step in complete), reverse=True)


def _is_passing(name: str) -> bool:
    return name == locks.LOCK or name.endswith(".tmp")
