"""Sweeps in stages: a config module's `stages(loss)` yields runs, and reads their losses before it yields more."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from etils import epath

from kronecker.run import finished_runs
from kronecker.schema import config_files
from kronecker.sweep import planning

Loss = Callable[[str, Mapping[str, Any]], float | None]  # (stage, settings of a run) -> its loss; None: not finished
Key = tuple[str, frozenset[tuple[str, Any]]]


class Stage(Protocol):
    """What a config's stages(loss) yields: runs whose settings depend only on the losses of earlier stages."""

    name: str
    groups: Sequence[Sequence[Mapping[str, Any]]]  # the settings of each run, in groups of runs that are compared


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a stage."""

    stage: str
    settings: Mapping[str, Any]  # dotted key -> value
    planned: planning.Planned

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.planned.name}"

    @property
    def is_diverged(self) -> bool:
        return finished_runs.is_diverged(epath.Path(self.planned.folder)) and self.planned.is_own

    @property
    def is_settled(self) -> bool:
        """Whether it needs no more training: it is finished, or diverged."""
        return self.planned.state == "finished" or self.is_diverged

    @property
    def loss(self) -> float | None:
        """Its training loss at its end, nats per token: infinite if it diverged, None if it is unfinished."""
        if self.planned.state == "finished":
            return finished_runs.read(epath.Path(self.planned.folder)).loss_at_end
        return math.inf if self.is_diverged else None


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """Stages as planned runs, each stage with a folder of its own in `out`; otherwise as planning.plan."""

    stages: Callable[[Loss], Iterable[Stage]]
    config: str
    out: Path
    overrides: Mapping[str, Any]
    train: Path
    _members: dict[Key, Member] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __iter__(self) -> Iterator[tuple[str, list[list[Member]]]]:
        """Yields the name and the groups of each stage, as far as the losses of settled runs determine them.

        A stage may come again with more runs.  Raises ValueError as planning.plan does, or for what is no stage.
        """
        for stage in self._yielded():
            every = [settings for group in stage.groups for settings in group]
            if not every:
                continue
            runs = planning.named(self.config, every, self.overrides)
            planned = iter(planning.plan(self.config, self.out / stage.name, runs, self.train))
            groups = [[Member(stage.name, settings, next(planned)) for settings in group] for group in stage.groups]
            self._members.update({_key(stage.name, one.settings): one for group in groups for one in group})
            yield stage.name, groups

    def _yielded(self) -> Iterator[Stage]:
        path, made = self.config.partition(":")[0], None
        with config_files.faults_named(path, lambda: config_files.line_of(self.stages, made)):
            made = self.stages(self._loss)
            if not isinstance(made, Iterable):
                raise ValueError(f"stages() returns {made!r:.80}, no stages; yield tuning.Stage(name, groups)")
            for stage in made:
                name, groups = getattr(stage, "name", None), getattr(stage, "groups", None)
                named = isinstance(name, str) and re.fullmatch(r"\w[\w.+-]*", name)
                if not (named and _is_list(groups) and all(map(_is_list, groups))):
                    needs = "a name of letters, digits, and . _ + -, and groups, which are lists of dicts of keys"
                    raise ValueError(f"stages() yields {stage!r:.80}; a stage has {needs}")
                for setting in (setting for group in groups for setting in group):
                    planning.check_setting(path, setting, self.overrides, "stages()")
                yield stage

    def _loss(self, stage: str, settings: Mapping[str, Any]) -> float | None:
        member = self._members.get(_key(stage, settings))
        return member.loss if member else None


def of_config(config: str, out: Path, overrides: Mapping[str, Any], train: Path) -> Stages:
    """Returns the stages of a config, "PATH" or "PATH:key=value,..."; raises ValueError if it has none."""
    path = config.partition(":")[0]
    module = config_files.load_module(path)
    if not hasattr(module, "stages"):
        raise ValueError(f"--config={config}: {path} has no stages(); without --stages its sweep() runs")
    return Stages(module.stages, config, out, overrides, train)


def execute(stages: Stages, launch: Callable[[Sequence[planning.Planned], Path], int]) -> int:
    """Runs the stages in order by `launch(runs, folder)`; returns the exit code of the first that stays unsettled."""
    for name, groups in stages:
        members = [one for group in groups for one in group]
        settled = [one for one in members if one.is_settled]
        print(f"stage {name}: {len(settled)} of {len(members)} runs done", flush=True)
        if len(settled) == len(members):
            continue
        code = launch([one.planned for one in members if not one.is_diverged], stages.out / name)
        if not all(one.is_settled for one in members):
            return code
    return 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _key(stage: str, settings: Mapping[str, Any]) -> Key:
    return stage, frozenset(settings.items())
