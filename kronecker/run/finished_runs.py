"""Reads the files of finished runs.  Everything after training reads only these files."""

import collections
import dataclasses
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

# The keys that each kind of line in metrics.jsonl must have.
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
        """Equal in the two runs of a pair."""
        return self.config["seed"]


def find(paths: Iterable[str | os.PathLike[str]]) -> list[epath.Path]:
    """Returns the run folders among `paths` and the finished ones one level below, each once, in a stable order.

    Lists unfinished ones below on stderr, so that an unfinished sweep can be read.  Raises FileNotFoundError if a path
    does not exist; ValueError if there is no run at a path, or no finished one below it.
    """
    found, unfinished = [], []
    for path in map(storage.open_path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such folder; give folders of runs, or a folder that holds them")
        folders = [path] if is_run(path) else sorted(filter(is_run, path.iterdir()))
        if not folders:
            raise ValueError(f"{path}: no run here (no config.json in it or one level below); give a folder of runs")
        incomplete = [folder for folder in folders if folder != path and not is_finished(folder)]
        if incomplete == folders:
            raise ValueError(f"{path}: no run here has finished; run the sweep's command again to resume it")
        found += [folder for folder in folders if folder not in incomplete]
        unfinished += incomplete
    if unfinished:
        print("skipped unfinished runs:", *dict.fromkeys(unfinished), sep="\n  ", file=sys.stderr)
    return list(dict.fromkeys(found))


def is_run(folder: epath.Path) -> bool:
    return (folder / rundir.CONFIG).exists()


def is_finished(folder: epath.Path) -> bool:
    return (folder / rundir.RESULT).exists()  # written last


def require_finished(folder: epath.Path) -> None:
    if not is_finished(folder):
        raise ValueError(
            f"{folder}: the run is not finished (no {rundir.RESULT}); run its command again to resume it, "
            "or leave the folder out"
        )


def read(folder: epath.Path) -> Run:
    """Returns a finished run.

    Raises FileNotFoundError if a file is missing; ValueError if the run is unfinished or diverged, or a file is bad.
    """
    require_finished(folder)
    result = read_json(folder, rundir.RESULT)
    loss = result["validation_loss"]
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        raise ValueError(
            f"{folder}: validation_loss is {result['validation_loss']} in {rundir.RESULT}: the run diverged; "
            "train it again with a lower train.lr, or leave the folder out"
        )
    lines = sinks.read(folder)
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
    content = rundir.read_json(folder / name)
    if content is None:
        raise FileNotFoundError(f"{folder / name}: missing; restore it, or train the run again in a new folder")
    return content


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that have more than one value among `settings`, in order of appearance."""
    values = collections.defaultdict(set)
    for setting in settings:
        for key, value in setting.items():
            values[key].add(value)
    return [key for key, seen in values.items() if len(seen) > 1]


def _columns(folder: epath.Path, lines: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    of_kind = [line for line in lines if line["kind"] == kind]
    missing = [name for name in COLUMNS[kind] for line in of_kind if name not in line]
    if missing:
        raise ValueError(
            f"{folder / sinks.METRICS}: a {kind} line lacks {missing[0]!r}; train the run again with this version"
        )
    return {name: np.array([line[name] for line in of_kind], dtype=np.float64) for name in COLUMNS[kind]}
