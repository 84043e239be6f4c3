"""Reads the files of finished runs.  Everything after training reads only these files."""

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from etils import epath

from kronecker.run import rundir, sinks
from kronecker.runtime import storage
from kronecker.schema import dotted

AT_END = 0.05  # of a run's steps
PREDICTED = "predicted_tokens"  # of a validation line
PARAMETER_GROUPS = ("input", "body", "head", "total")  # of params.json
# The fields, with their types, that each file must have; env.json's "data" is newer, and only open runs need it.
LOSSES = {"train_loss": float, "validation_loss": (float, type(None))}
NEEDED = {
    rundir.ENV: {"versions": dict, "python": str, "commit": (str, type(None)), "platform": str}
    | {"devices": list, "command": list, "started": str},
    rundir.PARAMS: dict.fromkeys(PARAMETER_GROUPS, int) | {"body_init_sha256": str},
    rundir.RESULT: LOSSES
    | dict.fromkeys(("step", "tokens"), int)
    | dict.fromkeys(("validation_bits_per_byte", "tokens_per_second", "peak_memory_bytes", "clip_share"), float)
    | dict.fromkeys(("data_fingerprint", "tokenizer_fingerprint"), str),
}
Content = TypeVar("Content")


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

    @property
    def loss_at_end(self) -> float:
        """The mean training loss of the last AT_END of the steps, by which settings are chosen, in nats per token."""
        steps, losses = self.train["step"], self.train["loss"]
        return float(np.mean(losses[steps >= (1 - AT_END) * steps[-1]]))


@dataclasses.dataclass(frozen=True)
class Diverged:
    """A run that ended because a loss was not finite; `arm`, `seed` and `config` are as of a Run."""

    folder: epath.Path
    config: Mapping[str, Any]
    reason: str

    arm, seed = Run.arm, Run.seed
    loss_at_end = math.inf


def gather(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Run], list[Diverged]]:
    """Returns the finished and the diverged runs at `paths` and one level below; otherwise as `find` and `read`."""
    folders, diverged = _search(paths)
    diverged += [folder for folder in folders if _reason(folder)]  # named itself, or of an earlier version
    found = [read(folder) for folder in folders if folder not in diverged]
    ended = [_diverged(folder) for folder in sorted(set(diverged), key=str)]
    if not found:
        raise ValueError(
            f"every run here diverged: {', '.join(str(run.folder) for run in ended)}; train them with a lower train.lr "
            "in other folders"
        )
    return found, ended


def find(paths: Iterable[str | os.PathLike[str]]) -> list[epath.Path]:
    """Returns the run folders among `paths` and the finished ones one level below, each once, in a stable order.

    Lists diverged and unfinished ones below on stderr, so that an unfinished sweep can be read.  Raises
    FileNotFoundError if a path does not exist; ValueError if there is no run at a path, or no finished one below it.
    """
    found, diverged = _search(paths)
    if not found:
        raise ValueError(f"no run here has finished, as all diverged: {', '.join(map(str, diverged))}")
    if diverged:
        print("skipped runs that diverged:", *diverged, sep="\n  ", file=sys.stderr)
    return found


def _search(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[epath.Path], list[epath.Path]]:
    """Returns the folders of `find`, and those of diverged runs below `paths`."""
    found, ended, unfinished = [], [], []
    for path in map(storage.open_path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such folder; give folders of runs, or a folder that holds them")
        folders = [path] if is_run(path) else sorted(filter(is_run, path.iterdir()))
        below = [] if folders == [path] or storage.is_remote(path) else sorted(path.iterdir())
        if closed := [one for one in below if one.is_dir() and not os.access(one, os.X_OK, effective_ids=True)]:
            print("skipped folders without the right to read them:", *closed, sep="\n  ", file=sys.stderr)
        if not folders:
            raise ValueError(
                f"{path}: no run here (no config.json in it or one level below); give a folder of runs, "
                "such as runs/demo after make pair"
            )
        incomplete = [folder for folder in folders if folder != path and not is_finished(folder)]
        diverged = [folder for folder in incomplete if is_diverged(folder)]
        if incomplete == folders and not diverged:
            raise ValueError(
                f"{path}: no run here has finished; run the sweep's command again, or for the first run: "
                f"{command(folders[0])}"
            )
        found += [folder for folder in folders if folder not in incomplete]
        ended += diverged
        unfinished += [folder for folder in incomplete if folder not in diverged]
    if unfinished:
        lines = (f"{folder}\n    {command(folder)}" for folder in dict.fromkeys(unfinished))
        print("skipped unfinished runs; these commands finish them:", *lines, sep="\n  ", file=sys.stderr)
    return list(dict.fromkeys(found)), list(dict.fromkeys(ended))


def command(folder: epath.Path) -> str:
    """Returns the command that resumes a run, in the folder where it was first given."""
    env = rundir.read_json(folder / rundir.ENV) or {}
    given = env.get("command")
    return shlex.join(["python", *given]) if rundir.is_of(given, list) else "train.py with its --config and --workdir"


def is_run(folder: epath.Path) -> bool:
    return (folder / rundir.CONFIG).exists() or is_finished(folder)  # else one that lost its config would be left out


def is_finished(folder: epath.Path) -> bool:
    return (folder / rundir.RESULT).exists()  # written last


def is_diverged(folder: epath.Path) -> bool:
    return (folder / rundir.DIVERGED).exists() and not is_finished(folder)


def _reason(folder: epath.Path) -> str:
    """Returns why a run has no loss; empty if it has one, or may still get one."""
    if is_finished(folder):
        loss = read_json(folder, rundir.RESULT, {}).get("validation_loss", 0)
        is_none = loss is None or (isinstance(loss, float) and not math.isfinite(loss))
        return f"validation_loss is {loss} in {rundir.RESULT}" if is_none else ""
    found = rundir.read_json(folder / rundir.DIVERGED, {"reason": str})
    return found["reason"] if found else ""


def _diverged(folder: epath.Path) -> Diverged:
    config = _present(folder / rundir.CONFIG, rundir.read_config(folder / rundir.CONFIG))
    return Diverged(folder, dotted.flat(config), _reason(folder))


def require_finished(folder: epath.Path) -> None:
    if is_diverged(folder):
        raise ValueError(
            f"{folder}: the run diverged ({_diverged(folder).reason}); train it with a lower train.lr in another "
            "folder, or leave this one out"
        )
    if not is_finished(folder):
        raise ValueError(
            f"{folder}: the run is not finished (no {rundir.RESULT}); resume it, {command(folder)}, "
            "or leave the folder out"
        )


def read(folder: epath.Path) -> Run:
    """Returns a finished run.

    Prints which metrics were lost while it trained.  Raises FileNotFoundError if a file is missing; ValueError if the
    run is unfinished or diverged, or a file is bad or not of this run.
    """
    require_finished(folder)
    if reason := _reason(folder):
        raise ValueError(
            f"{folder}: {reason}: the run diverged; train it again with a lower train.lr, or leave the folder out"
        )
    env, params, result = (read_json(folder, name, needed) for name, needed in NEEDED.items())
    config = _present(folder / rundir.CONFIG, rundir.read_config(folder / rundir.CONFIG))
    if result.get("config_sha256", rundir.config_sha256(config)) != rundir.config_sha256(config):
        raise ValueError(
            f"{folder / rundir.CONFIG}: not the config of {rundir.RESULT} beside it (their hashes differ); restore it, "
            "or leave the folder out"
        )
    if "metrics_gaps" in result and result.get("params") != params:  # else of an earlier version
        raise ValueError(f"{folder / rundir.PARAMS}: differs from params in {rundir.RESULT} beside it; restore it")
    lines = _lines(folder, result)
    return Run(
        folder=folder,
        config=dotted.flat(config),
        env=env,
        params=params,
        result=result,
        train=_columns(lines, "train"),
        validation=_columns(lines, "validation"),
    )


def read_json(folder: epath.Path, name: str, needed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a file that must be there; `needed` as of `rundir.parsed`."""
    return _present(folder / name, rundir.read_json(folder / name, needed))


def _present(path: epath.Path, content: Content | None) -> Content:
    if content is None:
        raise FileNotFoundError(f"{path}: missing; restore it, or train the run again in a new folder")
    return content


def _lines(folder: epath.Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; raises ValueError if some were lost since the run ended, or are another's."""
    path, lines = folder / sinks.METRICS, sinks.read(folder)
    if "metrics_gaps" not in result:  # of an earlier version
        if not lines:
            raise ValueError(f"{path}: has no lines; restore it, or leave the folder out")
        return lines
    gaps = sinks.gaps(lines, result["step"])
    if gaps and gaps != result["metrics_gaps"]:
        raise ValueError(f"{path}: lacks lines {sinks.words(gaps)}; restore it, or leave the folder out")
    validation = [line["loss"] for line in lines if line["kind"] == "validation"]
    if validation[-1:] != [result["validation_loss"]]:
        raise ValueError(
            f"{path}: its last validation loss is {(validation or [None])[-1]}, but {rundir.RESULT} has "
            f"{result['validation_loss']}; restore it, or leave the folder out"
        )
    if gaps:
        print(f"{path}: lacks lines {sinks.words(gaps)}; curves and speed are of the others", file=sys.stderr)
    return lines


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that have more than one value among `settings`, or that some of them lack, in order."""
    every = list(settings)
    keys = dict.fromkeys(key for setting in every for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in every}) > 1]


def _columns(lines: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    of_kind = [line for line in lines if line["kind"] == kind]
    columns = {name: np.array([line[name] for line in of_kind], dtype=np.float64) for name in sinks.FIELDS[kind]}
    if kind == "validation":  # a field that very old lines lack
        counts = (line.get(PREDICTED) for line in of_kind)
        counted = [count if rundir.is_of(count, int) else math.nan for count in counts]
        columns[PREDICTED] = np.array(counted, dtype=np.float64)
    return columns
