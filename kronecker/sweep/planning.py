"""Sweeps: a config module's `sweep()` as a list of runs, each with its folder and its command.

`local` and `slurm` run them: they skip finished runs and resume interrupted ones.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from kronecker.run import finished_runs, rundir, sinks
from kronecker.runtime import printing, progress
from kronecker.schema import config_files, dotted, keys, resolution

ARM, SEED = "embedding.arm", "seed"
MOST_RUNS = 10_000
Runs = dict[str, tuple[dict[str, Any], ml_collections.ConfigDict]]  # name -> the keys that it sets, its resolved config
EXAMPLE = 'def sweep(seeds): yield from ({"embedding.arm": "kronecker", "seed": seed} for seed in range(seeds))'


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run of a sweep."""

    name: str  # unique within the sweep, and the name of its folder
    folder: Path
    command: tuple[str, ...]  # starts or resumes it
    grace_seconds: float = 0.0  # its checkpoint.grace_seconds; 0: unknown
    tokens: int = 0  # its train.tokens; 0: unknown
    resolved: ml_collections.ConfigDict | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def state(self) -> str:
        """`finished`, `started` or `new`, from its folder."""
        folder = epath.Path(self.folder)
        finished = finished_runs.is_finished(folder) and self.is_own
        return "finished" if finished else "started" if finished_runs.is_run(folder) else "new"

    @property
    def is_own(self) -> bool:
        """Whether the folder has no run of another config, which may have come there since the sweep was planned."""
        try:
            return self.resolved is None or not _check_folder(self.folder, self.resolved)
        except ValueError:  # which its command says
            return False


def plan(config: str, out: Path, runs: Runs, train: Path) -> list[Planned]:
    """Returns runs of a config, each with a folder in `out`; raises ValueError if one cannot work there."""
    planned = []
    for name, (settings, resolved) in runs.items():
        folder = out / name
        _check_folder(folder, resolved)
        flags = (f"--config.{key}={value}" for key, value in settings.items())
        command = (sys.executable, os.path.relpath(train), f"--config={config}", *flags, f"--workdir={folder}")
        lasts = resolved.checkpoint.grace_seconds, resolved.train.tokens
        planned.append(Planned(name, folder, command, *lasts, resolved))
    _tell_renamed(planned, out)
    return planned


def _tell_renamed(planned: Sequence[Planned], out: Path) -> None:
    """Prints which new runs are in `out` under a name that is none of the sweep's."""
    names = {run.name for run in planned}

    @functools.cache  # few vocabularies, and perhaps many folders
    def new(vocab: int) -> dict[str, str]:
        configs = ((run.name, resolution.with_vocabulary(run.resolved, vocab)) for run in planned if run.state == "new")
        return {rundir.config_sha256(config): name for name, config in configs}

    for folder in sorted(out.iterdir()) if out.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):  # what is damaged, or no run, is not the sweep's
            saved = folder.name not in names and rundir.read_config(epath.Path(folder / rundir.CONFIG))
            if saved and (name := new(saved.model.vocab_size).get(rundir.config_sha256(saved))):
                printing.say(
                    f"{folder} is the run {name}, before other keys varied; give it that name to keep its work"
                )


def expand(config: str, seeds: int | None, overrides: Mapping[str, Any]) -> Runs:
    """Returns the runs of a config's sweep.

    `config` is "PATH" or "PATH:key=value,..." of a config module with a function `sweep(seeds)`; `seeds` None is its
    default; `overrides` are dotted keys of all runs.  Raises ValueError if there is no sweep, a key is unknown or set
    twice, two runs have one name, or a run's config cannot work.
    """
    path = config.partition(":")[0]
    if seeds is not None and not 1 <= seeds <= MOST_RUNS:
        raise ValueError(f"--seeds={seeds}: it must be from 1 to {MOST_RUNS:,}")
    module = config_files.load_module(path)
    if not hasattr(module, "sweep"):
        raise ValueError(f"--config={config}: {path} has no sweep(); add, for example: {EXAMPLE}")
    made, settings = None, []
    with config_files.faults_named(path, lambda: config_files.line_of(module.sweep, made)):
        made = module.sweep() if seeds is None else module.sweep(seeds)
        if not isinstance(made, Iterable):
            raise ValueError(f"sweep() returns {made!r:.80}, no runs; write, for example: {EXAMPLE}")
        for setting in made:
            check_setting(path, setting, overrides)
            settings.append({**setting})  # the next one may be the same dict, changed
            if len(settings) > MOST_RUNS:
                raise ValueError(f"sweep() yields more than {MOST_RUNS:,} runs; yield fewer")
    if not settings:
        raise ValueError(f"--config={config}: sweep({'' if seeds is None else seeds}) of {path} yields no run; add one")
    return named(config, settings, overrides)


def named(config: str, settings: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any]) -> Runs:
    """Returns runs as `expand` does, for `settings`, the keys of each run, in place of the config's sweep()."""
    path = config.partition(":")[0]
    names = _names(settings)
    twice, count = collections.Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"--config={config}: {path} yields {twice} twice; make the two differ in a key")
    everything = ({**setting, **overrides} for setting in settings)
    return {name: (own, _resolved(config, name, own)) for name, own in zip(names, everything, strict=True)}


def describe(planned: Sequence[Planned]) -> str:
    lines = []
    for number, run in enumerate(planned, 1):
        command = shlex.join(("python", *run.command[1:]))
        lines.append(f"{header(number, planned)} ({run.state})\n    {command}")
    return "\n".join(lines)


def describe_time(planned: Sequence[Planned], parallel: int) -> str:
    """Returns a line with the time of the unfinished runs, `parallel` at a time, at the speed of the runs so far."""
    unfinished = [run for run in planned if run.state != "finished"]
    if not unfinished:
        return "time: every run has finished"
    logged = {run: [line for line in sinks.read(run.folder) if line["kind"] == "train"] for run in planned}
    speeds = [lines[-1]["tokens_per_second"] for lines in logged.values() if lines]
    if not speeds:
        return "time: unknown until a run here has trained; each run prints an estimate after its first steps"
    tokens = sum(run.tokens - (logged[run][-1]["tokens"] if logged[run] else 0) for run in unfinished)
    took = progress.duration(tokens / statistics.median(speeds) / min(parallel, len(unfinished)))
    return f"time: about {took} for {len(unfinished)} unfinished runs at {statistics.median(speeds):,.0f} tokens/s"


def header(number: int, planned: Sequence[Planned]) -> str:
    return f"[{number}/{len(planned)}] {planned[number - 1].name}"


def check_setting(path: str, setting: Any, overrides: Mapping[str, Any], of: str = "sweep()") -> None:
    """Raises ValueError if `setting`, which `of` of a config yields, is not the keys of a run, or sets an override."""
    if not isinstance(setting, Mapping):
        raise ValueError(f"{of} yields {setting!r:.80}, no dict of keys; write, for example: {EXAMPLE}")
    for key, value in setting.items():
        if key not in keys.KEYS:
            dotted.check_key(dotted.defaults(), str(key))
        if fault := keys.fault(key, value):
            raise ValueError(fault)
    for key in (ARM, SEED):
        if key not in setting:
            raise ValueError(f"{path}: {of} yields a run without {key!r}; write, for example: {EXAMPLE}")
    for key in overrides:
        if key in setting:
            raise ValueError(f"--config.{key}: {of} of {path} sets {key} itself; change it there")


def _resolved(config: str, name: str, settings: Mapping[str, Any]) -> ml_collections.ConfigDict:
    c = config_files.load(config)
    try:
        c.update_from_flattened_dict(settings)
        return resolution.resolve(c)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def _check_folder(folder: Path, resolved: ml_collections.ConfigDict) -> None:
    saved = rundir.read_config(epath.Path(folder / rundir.CONFIG))
    config = resolution.with_vocabulary(resolved, saved.model.vocab_size) if saved else resolved
    rundir.check_same_run(epath.Path(folder), config)


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names, varying = [], {}
    unset = dict.fromkeys(key for setting in settings for key in setting)
    for arm in dict.fromkeys(setting[ARM] for setting in settings):
        alike = [unset | setting for setting in settings if setting[ARM] == arm]
        varying[arm] = [key for key in finished_runs.varying(alike) if key != SEED]
    for setting in settings:
        told = (key for key in varying[setting[ARM]] if key in setting)
        parts = [setting[ARM], *(f"{key.rpartition('.')[2]}{setting[key]}" for key in told)]
        names.append(re.sub(r"[^\w.+-]", "_", "-".join([*parts, f"seed{setting[SEED]}"])))
    return names
