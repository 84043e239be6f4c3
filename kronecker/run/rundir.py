"""A run's folder: the names of its files, how they are written, and how a folder of another run is recognised.

    config.json     the resolved config            params.json    parameters by group, hash of the initial body
    env.json        versions, commit, devices      metrics.jsonl  one object per line
    checkpoints/    orbax                          result.json    written last: the run is complete

and token_losses.npz, held_out.json and input_use.json, which token_losses.py adds to a complete run, texts/, where
eval.py --data puts its losses on other texts, diverged.json if a loss was not finite, profile/ if log.profile_steps is
set, and damaged-checkpoints/, where a run that resumed from an older checkpoint has put newer ones.
"""

import contextlib
import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path  # noqa: TID251  for the lock, which is always local
from typing import Any, Self

import ml_collections
from etils import epath

from kronecker.runtime import locks, printing, storage
from kronecker.schema import dotted, keys

CONFIG, ENV, PARAMS, RESULT = "config.json", "env.json", "params.json", "result.json"
TOKEN_LOSSES, HELD_OUT, INPUT_USE = "token_losses.npz", "held_out.json", "input_use.json"
TEXTS, DIVERGED = "texts", "diverged.json"
CHECKPOINTS, DAMAGED = "checkpoints", "damaged-checkpoints"
COMMITTED = "commit_success.txt"  # orbax's name

# Keys that may change when a run resumes.
FREE_ON_RESUME = keys.having(keys.ROUNDING, keys.NOTHING)
_LATER = {name for name, key in keys.KEYS.items() if key.later}
_NAMES = {
    bool: "true or false",
    int: "a whole number up to 3.4e38",
    float: "a number up to 3.4e38",
    str: "text",
    dict: "an object",
    list: "a list of texts",
    type(None): "null",
}


def write_json(path: epath.Path, content: Any) -> None:
    """Writes a JSON file, completely or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with storage.writing(path) as file:
        file.write(text.encode())


def read_json(path: epath.Path, needed: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Returns the content of a JSON file, or None if there is none; `needed` as of `parsed`.

    Raises ValueError if it is damaged, or larger than storage.MOST_BYTES.
    """
    return parsed(storage.read_whole(path), str(path), needed or {}) if path.exists() else None


def parsed(
    text: bytes, where: str, needed: Mapping[str, Any], remedy: str = "restore it from a copy, or use a new folder"
) -> dict[str, Any]:
    """Returns a JSON object; `needed`: field -> its type, or types; float stands for any number.

    Raises ValueError with `where`, its file and line, and the remedy if it is something else, or a field is missing or
    of another type.
    """
    try:
        content = storage.parsed_json(text)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}): incomplete or edited; {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}: holds {_short(content)}, not a JSON object; {remedy}")
    check(content, where, needed, remedy)
    return content


def check(content: dict[str, Any], where: str, needed: Mapping[str, Any], remedy: str) -> None:
    """Raises ValueError as `parsed` does."""
    for name, kinds in needed.items():
        if name not in content:
            raise ValueError(f"{where}: lacks {name!r}; {remedy}")
        if not is_of(content[name], kinds):
            raise ValueError(f"{where}: {name!r} is {_short(content[name])}, not {_words(kinds)}; {remedy}")


def is_of(value: Any, kinds: Any) -> bool:
    """Returns whether a value of JSON has the type, or one of the types: lists hold texts only, numbers are finite."""
    kind, allowed = type(value), kinds if isinstance(kinds, tuple) else (kinds,)
    if kind in (int, float):
        return (kind in allowed or float in allowed) and abs(value) <= keys.FLOAT32[1]
    return kind in allowed and (kind is not list or all(isinstance(one, str) for one in value))


def _words(kinds: Any) -> str:
    return " or ".join(_NAMES[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_config(path: epath.Path) -> ml_collections.ConfigDict | None:
    """Returns the config that a run has saved, or None if there is none; newer keys get what they were in older runs.

    Raises ValueError with the file and the key if one is missing or of another type.
    """
    saved = read_json(path)
    return None if saved is None else completed(saved, str(path))


def completed(saved: dict[str, Any], where: str = CONFIG) -> ml_collections.ConfigDict:
    """Returns a saved config as `read_config` does; `where` is its file."""
    values: dict[str, Any] = {}
    for name, key in keys.KEYS.items():
        group, _, last = name.rpartition(".")
        of_group = saved.setdefault(group, {}) if group else saved
        if not isinstance(of_group, dict):
            raise ValueError(
                f"{where}: {group} is {_short(of_group)}, not a group of keys; restore the file from a copy"
            )
        if key.later:
            of_group.setdefault(last, key.in_older_runs(values))
        if last not in of_group:
            raise ValueError(f"{where}: lacks {name}; restore the file from a copy, or train again with this version")
        if not is_of(of_group[last], type(key.default)):
            wrong = f"{name} is {_short(of_group[last])}, not {_words(type(key.default))}"
            raise ValueError(f"{where}: {wrong}; restore the file from a copy")
        values[name] = of_group[last]
    try:
        config = ml_collections.ConfigDict(saved)
        if found := [name for name, value in dotted.flat(config).items() if isinstance(value, list)]:
            raise ValueError(f"{found[0]} is a list")
        return config
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:  # names of unknown keys
        raise ValueError(f"{where}: not a config ({error}); restore the file from a copy") from None


def fixed(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the part of a config that determines a run's numbers, dotted key -> value."""
    values = dotted.flat(config)
    return {
        name: value
        for name, value in values.items()
        if name not in FREE_ON_RESUME and not (name in _LATER and value == keys.KEYS[name].in_older_runs(values))
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
        if isinstance(theirs := self._seen.get("config"), dict) and (differing := _differing(theirs, self._fixed)):
            self.refusal = f"{words} trains another config here ({differing}); choose another folder"
            return self.REFUSED
        printing.say(f"{words} uses this folder; waiting for it")
        return self.TAKEN


def check_same_run(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError with the differing keys if `workdir` holds a run of another config.

    A run without checkpoint, result and record of why it diverged has nothing to lose, and may start with any config.
    """
    if not (workdir / CONFIG).exists():
        names = [file.name for file in workdir.iterdir()] if workdir.exists() else []
        if any(name != locks.LOCK and not name.endswith(".tmp") for name in names):
            raise ValueError(f"--workdir={workdir}: not empty and not a run (no {CONFIG}); choose another folder")
        return
    if not has_checkpoint(workdir) and not (workdir / RESULT).exists() and not (workdir / DIVERGED).exists():
        return
    if differing := _differing(fixed(read_config(workdir / CONFIG)), fixed(config)):
        raise ValueError(f"--workdir={workdir}: holds a run of another config ({differing}); choose another folder")


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    return "; ".join(
        f"{key} was {_value(before, key)!r}, is {_value(now, key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )


def _value(of_fixed: dict[str, Any], key: str) -> Any:
    """Returns a key's value, also of a later key that `fixed` leaves out; None of a key of another version."""
    if key in of_fixed or key not in keys.KEYS:
        return of_fixed.get(key)
    return keys.KEYS[key].in_older_runs(of_fixed)


def has_checkpoint(workdir: epath.Path) -> bool:
    """Returns whether there is a checkpoint, be it damaged; an empty folder is none."""
    folders = (workdir / CHECKPOINTS / str(step) for step in saved_steps(workdir))
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def saved_steps(workdir: epath.Path) -> list[int]:
    """Returns the steps whose checkpoints were completed, the newest first; they may be damaged.  A step is an int32.

    On a disk orbax renames its folder to a number last; in a bucket, which cannot rename, it adds COMMITTED last.
    Raises OSError for a link that leads nowhere, as to a disk that is not mounted: nothing is lost then.
    """
    folder = workdir / CHECKPOINTS
    found = list(folder.iterdir()) if folder.exists() else []
    for path in (folder, *found):
        storage.check_leads(path)
    saved = [child for child in found if re.fullmatch("0|[1-9][0-9]*", child.name) and int(child.name) < 2**31]
    complete = (step for step in saved if not storage.is_remote(step) or (step / COMMITTED).exists())
    return sorted((int(step.name) for step in complete), reverse=True)
