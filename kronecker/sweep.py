"""Sweeps: a config module's `sweep()` as a list of runs, and those runs one after another on this machine.

A run is a child process, so that one which fails takes no other with it.  What is finished is skipped, what was cut off
goes on, and running a sweep again is therefore always the right thing to do.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import ml_collections
from etils import epath
from rich import box, console, table

from kronecker import config as configs
from kronecker.report import runs
from kronecker.training import rundir

ARM, SEED = "embedding.arm", "seed"
EXAMPLE = 'def sweep(seeds): yield from ({"embedding.arm": "kronecker", "seed": seed} for seed in range(seeds))'


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
      name: unique within the sweep, and the name of its folder.
      folder: its directory.
      command: what runs it, or makes it go on.
    """

    name: str
    folder: Path
    command: tuple[str, ...]

    @property
    def state(self) -> str:
        """`finished`, `begun` or `new`, as its folder stands now."""
        folder = epath.Path(self.folder)
        return "finished" if runs.is_finished(folder) else "begun" if runs.is_run(folder) else "new"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a planned run.

    Attributes:
      name: its name.
      state: finished, skipped (it was finished before), failed, or stopped (by a signal to the sweep).
      seconds: wall time spent on it now.
      train_loss: its last logged training loss in nats per token, if it has finished.
      validation_loss: its final validation loss, likewise.
      exit_code: of the child; negative: the signal that ended it.  None if there was no child.
    """

    name: str
    state: str
    seconds: float = 0.0
    train_loss: float | None = None
    validation_loss: float | None = None
    exit_code: int | None = None


def plan(config: str, out: Path, seeds: int, overrides: Mapping[str, Any], train: Path) -> list[Planned]:
    """Returns the runs of a config's sweep, each with its config resolved once to show that it can work.

    Args:
      config: "PATH" or "PATH:key=value,..." of a config module with a function `sweep(seeds)`.
      out: the sweep's folder; each run gets a folder in it.
      seeds: handed to `sweep`.
      overrides: dotted keys that every run gets on top.
      train: the training script.

    Raises:
      ValueError: as `expand` does, or if a run's folder holds a run of another config.
    """
    planned = []
    for name, (settings, resolved) in expand(config, seeds, overrides).items():
        folder = out / name
        _check_folder(folder, resolved)
        flags = (f"--config.{key}={value}" for key, value in settings.items())
        command = (sys.executable, os.path.relpath(train), f"--config={config}", *flags, f"--workdir={folder}")
        planned.append(Planned(name, folder, command))
    return planned


def expand(
    config: str, seeds: int | None, overrides: Mapping[str, Any]
) -> dict[str, tuple[dict[str, Any], ml_collections.ConfigDict]]:
    """Returns of each run of a config's sweep, by its name, the keys that it sets and its resolved config.

    Args:
      config: "PATH" or "PATH:key=value,..." of a config module with a function `sweep(seeds)`.
      seeds: handed to `sweep`; None: as many as it yields unasked.
      overrides: dotted keys that every run gets on top.

    Raises:
      ValueError: if there is no sweep, a key is unknown or set twice, two runs would share a name, or a run's config
        cannot work.
    """
    path = config.partition(":")[0]
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds={seeds}: a sweep takes at least one seed")
    module = configs.load_module(path)
    if not hasattr(module, "sweep"):
        raise ValueError(f"--config={config}: {path} has no sweep(); add, for example: {EXAMPLE}")
    settings = list(module.sweep() if seeds is None else module.sweep(seeds))
    if not settings:
        raise ValueError(f"--config={config}: sweep({'' if seeds is None else seeds}) of {path} yields no runs")
    for setting in settings:
        _check_setting(path, setting, overrides)
    names = _names(settings)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice:
        raise ValueError(f"--config={config}: sweep() of {path} yields {twice} twice; let the two differ in a key")
    everything = ({**setting, **overrides} for setting in settings)
    return {name: (keys, _resolved(config, name, keys)) for name, keys in zip(names, everything, strict=True)}


def describe(planned: Sequence[Planned]) -> str:
    """Returns the runs with their state and command, as text for --dry_run."""
    lines = []
    for number, run in enumerate(planned, 1):
        command = shlex.join(("python", *run.command[1:]))
        lines.append(f"{_header(number, planned)} ({run.state})\n    {command}")
    return "\n".join(lines)


def execute(planned: Sequence[Planned], out: Path) -> int:
    """Runs what is not finished, in order, then prints a summary; returns the sweep's exit code.

    Returns:
      0 if every run is finished; 1 if one failed; 128 + the signal's number if SIGINT or SIGTERM ended the sweep.
    """
    outcomes = []
    with _only_sweep_in(out) as lock, _Children() as children:
        for number, run in enumerate(planned, 1):
            if run.state == "finished":
                print(f"{_header(number, planned)} (finished before)", flush=True)
                outcomes.append(Outcome(run.name, "skipped", **_losses(run)))
                continue
            print(_header(number, planned), flush=True)
            outcomes.append(_run(run, children, lock))
            if children.stopped_by:
                break
    _show(outcomes)
    if children.stopped_by:
        return 128 + children.stopped_by
    return int(any(outcome.state == "failed" for outcome in outcomes))


class _Children:
    """Starts one child at a time.  SIGINT and SIGTERM end the child first and then the sweep; a second one kills."""

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], lock: int) -> int:
        """Returns the exit code of `command`, which inherits the terminal and the sweep's lock."""
        if self.stopped_by:
            return -self.stopped_by
        self._child = subprocess.Popen(command, pass_fds=(lock,))
        if self.stopped_by:  # the signal came while the child was being born
            self._child.terminate()
        try:
            return self._child.wait()
        finally:
            self._child = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self.stopped_by = self.stopped_by is not None, number
        if self._child:
            self._child.send_signal(signal.SIGKILL if again else signal.SIGTERM)


@contextlib.contextmanager
def _only_sweep_in(out: Path) -> Iterator[int]:
    """Holds the folder's lock.  A child holds it too: one that outlives a killed sweep is waited for, not doubled."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{out}: another sweep, or a run that one left behind, is at work here; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _run(run: Planned, children: _Children, lock: int) -> Outcome:
    start = time.monotonic()
    code = children.run(run.command, lock)
    finished = run.state == "finished"
    state = "finished" if finished else "stopped" if children.stopped_by else "failed"
    losses = _losses(run) if finished else {}
    return Outcome(run.name, state, time.monotonic() - start, exit_code=code, **losses)


def _losses(run: Planned) -> dict[str, float]:
    result = runs.read_json(epath.Path(run.folder), rundir.RESULT)
    return {name: result[name] for name in ("train_loss", "validation_loss")}


def _show(outcomes: Sequence[Outcome]) -> None:
    summary = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    summary.add_column("run", overflow="fold")
    summary.add_column("state")
    for header in ("seconds", "train loss", "val. loss", "exit code"):
        summary.add_column(header, justify="right")
    for outcome in outcomes:
        losses = ("" if loss is None else f"{loss:.4f}" for loss in (outcome.train_loss, outcome.validation_loss))
        code = "" if outcome.exit_code is None else str(outcome.exit_code)
        summary.add_row(outcome.name, outcome.state, f"{outcome.seconds:.0f}", *losses, code)
    console.Console(highlight=False, markup=False).print(summary)


def _header(number: int, planned: Sequence[Planned]) -> str:
    run = planned[number - 1]
    return f"[{number}/{len(planned)}] {run.name} -> {run.folder}"


def _check_setting(path: str, setting: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    for key in (ARM, SEED):
        if key not in setting:
            raise ValueError(f"{path}: sweep() yields a run without {key!r}; write, for example: {EXAMPLE}")
    for key in overrides:
        if key in setting:
            raise ValueError(f"--config.{key}: sweep() of {path} sets {key} itself; change it there")


def _resolved(config: str, name: str, settings: Mapping[str, Any]) -> ml_collections.ConfigDict:
    c = configs.load(config)
    for key in settings:
        configs.check_key(c, key)
    try:
        c.update_from_flattened_dict(settings)
        return configs.resolve(c)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def _check_folder(folder: Path, resolved: ml_collections.ConfigDict) -> None:
    if runs.is_run(epath.Path(folder)):
        vocabulary = runs.read_json(epath.Path(folder), rundir.CONFIG)["model"]["vocab_size"]
        rundir.check_same_run(epath.Path(folder), configs.with_vocabulary(resolved, vocabulary))


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = []
    unset = dict.fromkeys(key for setting in settings for key in setting)
    for setting in settings:
        alike = [unset | other for other in settings if other[ARM] == setting[ARM]]
        keys = [key for key in runs.varying(alike) if key != SEED]
        parts = [setting[ARM], *(f"{key.rpartition('.')[2]}{setting[key]}" for key in keys if key in setting)]
        names.append(re.sub(r"[^\w.+-]", "_", "-".join([*parts, f"seed{setting[SEED]}"])))
    return names
