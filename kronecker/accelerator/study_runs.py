"""Part `study`: trains the runs of configs/gpu_study.py's plan, a group at a time.

Each stage depends on the results of finished runs of earlier stages.  The checkpoints of a finished run are deleted.
"""

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from kronecker.accelerator import extents, parts
from kronecker.accelerator.children import Children
from kronecker.accelerator.ledger import ROOT, Ledger, setup
from kronecker.run import rundir
from kronecker.runtime import locks
from kronecker.runtime.printing import say
from kronecker.schema import config_files
from kronecker.sweep import stages

RUNS = "runs"  # in the part's folder; holds a folder for each stage
FIRST_GUESS = 0.0  # seconds per token, before a run has finished


class Study:
    """The plan's runs on one kind of device."""

    def __init__(self, extent: extents.Extent, text: extents.Text, ledger: Ledger, logs: Path) -> None:
        module = config_files.load_module(str(ROOT / extents.STUDY_CONFIG))
        self._of_plan = functools.partial(module.stages, plan=dataclasses.replace(module.PLAN, **extent.plan))
        # checkpoints only on SIGTERM and at the end
        overrides = {**text.keys, "checkpoint.every": 10**9, **extent.study}
        source, out = os.path.relpath(ROOT / extents.STUDY_CONFIG), ledger.folder / parts.STUDY / RUNS
        self._stages = stages.Stages(self._of_plan, source, out, overrides, ROOT / "train.py")
        self._ledger, self._folder = ledger, logs

    def groups(self) -> Iterator[list[stages.Member]]:
        """Yields the groups of runs, finished or not, as far as finished runs determine them."""
        for _, groups in self._stages:
            yield from groups

    def left(self) -> tuple[int, bool]:
        """Returns how many of the known runs are unfinished, and whether later stages depend on them."""
        known = list(self._stages)
        unfinished = sum(not one.is_settled for _, groups in known for group in groups for one in group)
        return unfinished, len(known) < sum(any(stage.groups) for stage in self._of_plan(lambda *_: 0.0))

    def run(self, children: Children, end: float) -> None:
        """Trains missing runs in order, while there is time for a complete group.

        The last run must finish before `end`, seconds since 1970.
        """
        out = self._ledger.folder / parts.STUDY / RUNS
        with locks.locked(out / locks.LOCK):
            for group in self.groups():
                missing = self._missing(group)
                need = self._seconds_a_token() * sum(one.settings["train.tokens"] for one in missing)
                if missing and (children.stopped_by or time.time() + need > end):
                    say(f"study: {len(missing)} runs, about {need:.0f} s, are left; run the same command again")
                    break
                for one in missing:
                    if children.stopped_by or time.time() > end:
                        break
                    self._train(one, children, end)
        (out / locks.LOCK).unlink()

    def _missing(self, group: list[stages.Member]) -> list[stages.Member]:
        """Returns the missing runs of a group; if any, finished runs of other devices or versions are trained again."""
        if all(one.is_settled for one in group):
            return []
        for one in group:
            if one.is_settled and not self._is_alike(one):
                say(f"study: {one.name} was trained on other devices or versions than this group; training it again")
                shutil.rmtree(one.planned.folder)
        return [one for one in group if not one.is_settled]

    def _train(self, one: stages.Member, children: Children, end: float) -> None:
        say(f"study: training {one.name}")
        began, folder, log = time.monotonic(), one.planned.folder, self._folder / f"{one.name}.log"
        code = children.run(one.planned.command, log, lambda: time.time() > end)
        seconds, found = time.monotonic() - began, rundir.read_json(epath.Path(folder / rundir.RESULT))
        described = {"stage": one.stage, "settings": dict(one.settings), "command": list(one.planned.command[1:])}
        if found:
            shutil.rmtree(folder / rundir.CHECKPOINTS, ignore_errors=True)
            (folder / locks.LOCK).unlink(missing_ok=True)
            self._ledger.write(parts.STUDY, one.name, seconds, described | {"diverged": False, **found})
        elif one.is_diverged:
            self._ledger.write(parts.STUDY, one.name, seconds, described | {"diverged": True})
        elif code is None or children.stopped_by:
            say(f"study: {one.name} was stopped; the same command resumes it from its checkpoint")
        else:
            last = [*log.read_text(encoding="utf-8", errors="replace").splitlines(), "it printed nothing"][-2:][0]
            self._ledger.write(parts.STUDY, one.name, seconds, None, f"train.py exited with {code}: {last}")

    def _is_alike(self, one: stages.Member) -> bool:
        """Returns whether a run is of this kind of device and these versions; its code may differ."""
        env = rundir.read_json(epath.Path(one.planned.folder / rundir.ENV))
        facts = self._ledger.facts
        return not env or (env["devices"], setup(env)) == (facts["devices"], setup(facts))

    def _seconds_a_token(self) -> float:
        """Returns the seconds per token of the slowest run on these devices, including its start."""
        records = self._ledger.records(parts.STUDY).values()
        taken = [
            record["seconds"] / record["result"]["settings"]["train.tokens"]
            for record in records
            if record["key"]["devices"] == self._ledger.key["devices"] and record["error"] is None
        ]
        return max(taken, default=FIRST_GUESS)
