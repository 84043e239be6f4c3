"""A run's folder: the names of its files, how they are written, and how a folder of another run is recognised.

    config.json     the resolved config            params.json    parameters by group, hash of the initial body
    env.json        versions, commit, devices      metrics.jsonl  one object per line
    checkpoints/    orbax                          result.json    written last: the run is complete

and token_losses.npz, which token_losses.py adds to a complete run, and profile/ if log.profile_steps is set.
"""

import contextlib
import hashlib
import json
import sys
from pathlib import Path  # noqa: TID251  for the lock, which is always local
from typing import Any, Self

import ml_collections
from etils import epath

from kronecker.runtime import locks, storage
from kronecker.schema import dotted, keys

CONFIG, ENV, PARAMS, RESULT = "config.json", "env.json", "params.json", "result.json"
TOKEN_LOSSES = "token_losses.npz"
CHECKPOINTS = "checkpoints"
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


def config_sha256(config: ml_collections.ConfigDict) -> str:
    """Returns the hash of a config's fixed part, which checkpoints and result.json keep."""
    return hashlib.sha256(json.dumps(fixed(config), sort_keys=True).encode()).hexdigest()


class Lock:
    """The lock of a run's folder, with the config of its holder; a context that releases it.

    A folder that holds nothing else at the end is removed: a command that was refused leaves nothing.
    """

    MINE, TAKEN, REFUSED = range(3)

    def __init__(self, workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
        """Raises OSError if the folder cannot be written."""
        self.refusal, self._mine = "", False
        self._workdir, self._fixed = workdir, fixed(config)
        self._lock: locks.Lock | None = None
        self._seen: dict[str, Any] | None = None  # the holder at the last look
        self._told: dict[str, Any] | None = None  # the last holder that was printed
        if storage.is_remote(workdir):  # object stores have no locks
            return
        self._made = [folder for folder in (Path(workdir), *Path(workdir).parents) if not folder.exists()]
        try:
            self._lock = locks.Lock(Path(workdir) / locks.LOCK)
        except OSError as error:
            raise OSError(f"--workdir={workdir}: cannot be written ({error.strerror}); choose another folder") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        folder = Path(self._workdir)
        if self._mine and [child.name for child in folder.iterdir()] == [locks.LOCK]:
            (folder / locks.LOCK).unlink()
            with contextlib.suppress(OSError):  # another process has begun to use them
                for made in self._made:
                    made.rmdir()
        self._lock.__exit__()

    def ask(self) -> int:
        """Returns MINE if this process holds the lock now; TAKEN if another one does, to be asked again.

        REFUSED if its holder runs another config; `refusal` then names the difference.  A new holder is printed.
        """
        self._mine = self._lock is None or self._lock.take(facts={"config": self._fixed})
        if self._mine:
            return self.MINE
        seen, self._seen = self._seen, self._lock.holder()
        if self._seen != seen or self._seen == self._told:  # the first look may be at the record of the holder before
            return self.TAKEN
        self._told = self._seen
        words = f"--workdir={self._workdir}: {self._lock.holder_words()}"
        if differing := _differing(self._seen.get("config", self._fixed), self._fixed):
            self.refusal = f"{words} trains another config here ({differing}); choose another folder"
            return self.REFUSED
        print(f"{words} uses this folder; waiting for it", file=sys.stderr, flush=True)
        return self.TAKEN


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
    if differing := _differing(fixed(ml_collections.ConfigDict(saved)), fixed(config)):
        raise ValueError(f"--workdir={workdir}: holds a run of another config ({differing}); choose another folder")


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    return "; ".join(
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )


def has_checkpoint(workdir: epath.Path) -> bool:
    """Returns whether there is a complete checkpoint.

    On a disk orbax renames its folder to a number last; in a bucket, which cannot rename, it adds COMMITTED last.
    """
    folder = workdir / CHECKPOINTS
    steps = [child for child in folder.iterdir() if child.name.isdigit()] if folder.exists() else []
    return any(not storage.is_remote(step) or (step / COMMITTED).exists() for step in steps)


def _is_passing(name: str) -> bool:
    return name == locks.LOCK or name.endswith(".tmp")
