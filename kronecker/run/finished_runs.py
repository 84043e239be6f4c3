"""What a run's files say.  Everything after training reads these files and nothing else."""

import collections
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from kronecker.run import rundir, sinks
from kronecker.runtime import storage
from kronecker.schema import dotted

# What a line of metrics.jsonl must hold to be read, by its kind.
COLUMNS = {
    "train": ("step", "tokens", "loss", "clip_share", "embedding_std", "tokens_per_second"),
    "validation": ("step", "tokens", "loss"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: epath.Path
    config: Mapping[str, Any]  # the resolved config, dotted key -> value
    env: Mapping[str, Any]  # versions, commit, devices and command
    params: Mapping[str, Any]  # parameter counts by group, and the hash of the initial body
    result: Mapping[str, Any]  # final losses, speed and fingerprints
    train: Mapping[str, np.ndarray]  # columns of the training lines, float64 (lines,) each; NaN where a line says null
    validation: Mapping[str, np.ndarray]  # columns of the validation lines, likewise

    @property
    def arm(self) -> str:
        return self.config["embedding.arm"]

    @property
    def seed(self) -> int:
        """What makes two runs a pair."""
        return self.config["seed"]


def find(paths: Iterable[str | os.PathLike[str]]) -> list[epath.Path]:
    """Returns the run folders among `paths` and the finished ones one level below, each once, in a stable order.

    Unfinished ones below are named on stderr: an interrupted sweep need not wait for its last run to be looked at.
    Raises FileNotFoundError if a path does not exist; ValueError if there is no run at a path, or none below it has
    finished.
    """
    found, unfinished = [], []
    for path in map(storage.open_path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such folder; give run folders, or a folder that holds them")
        folders = [path] if is_run(path) else sorted(filter(is_run, path.iterdir()))
        if not folders:
            raise ValueError(f"{path}: no run here (no config.json in it or one level below); give a folder of runs")
        cut_off = [folder for folder in folders if folder != path and not is_finished(folder)]
        if cut_off == folders:
            raise ValueError(f"{path}: no run here has finished; run the sweep's command again, it goes on")
        found += [folder for folder in folders if folder not in cut_off]
        unfinished += cut_off
    if unfinished:
        print(f"left out, not finished: {', '.join(map(str, dict.fromkeys(unfinished)))}", file=sys.stderr)
    return list(dict.fromkeys(found))


def is_run(folder: epath.Path) -> bool:
    """Returns whether a run was started in `folder`."""
    return (folder / rundir.CONFIG).exists()


def is_finished(folder: epath.Path) -> bool:
    """Returns whether the run in `folder` is complete: its result is written last."""
    return (folder / rundir.RESULT).exists()


def require_finished(folder: epath.Path) -> None:
    """Raises a ValueError if the run in `folder` is not complete."""
    if not is_finished(folder):
        raise ValueError(
            f"{folder}: the run has not finished (no {rundir.RESULT}); run its command again, it goes on, "
            "or leave the folder out"
        )


def read(folder: epath.Path) -> Run:
    """Returns the finished run in `folder`.

    Raises FileNotFoundError if one of a run's files is missing; ValueError if the run has not finished or diverged, or
    a file is not what a run writes.
    """
    require_finished(folder)
    result = read_json(folder, rundir.RESULT)
    loss = result["validation_loss"]
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        raise ValueError(
            f"{folder}: validation_loss is {result['validation_loss']} in {rundir.RESULT}; the run diverged, "
            "train it again with a lower train.lr or leave the folder out"
        )
    lines = _read_lines(folder)
    return Run(
        folder=folder,
        config=dotted.flat(rundir.completed(read_json(folder, rundir.CONFIG))),
        env=read_json(folder, rundir.ENV),
        params=read_json(folder, rundir.PARAMS),
        result=result,
        train=_columns(folder, lines, "train"),
        validation=_columns(folder, lines, "validation"),
    )


def read_json(folder: epath.Path, name: str) -> dict[str, Any]:
    """Returns the content of one of a run's files; a missing or damaged one raises an error that names it."""
    content = rundir.read_json(folder / name)
    if content is None:
        raise FileNotFoundError(f"{folder / name}: missing; {folder} is not a whole run")
    return content


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that have more than one value among `settings`, in order of appearance."""
    values = collections.defaultdict(set)
    for setting in settings:
        for key, value in setting.items():
            values[key].add(value)
    return [key for key, seen in values.items() if len(seen) > 1]


def _read_lines(folder: epath.Path) -> list[dict[str, Any]]:
    try:
        return sinks.read(folder)
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / sinks.METRICS}: not JSON lines ({error}); the file was edited") from None


def _columns(folder: epath.Path, lines: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    of_kind = [line for line in lines if line["kind"] == kind]
    missing = [name for name in COLUMNS[kind] for line in of_kind if name not in line]
    if missing:
        raise ValueError(f"{folder / sinks.METRICS}: a {kind} line lacks {missing[0]!r}; train again with this version")
    return {name: np.array([line[name] for line in of_kind], dtype=np.float64) for name in COLUMNS[kind]}
