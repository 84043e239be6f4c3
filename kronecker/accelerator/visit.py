"""A visit: one call of scripts/accelerator.py.  Runs the chosen parts in processes, then prints their results."""

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from kronecker.accelerator import extents, parts, summary
from kronecker.accelerator.children import Children
from kronecker.accelerator.ledger import Ledger
from kronecker.accelerator.study_runs import Study
from kronecker.accelerator.worker import AGAIN, GRACE, PREPARING, Job
from kronecker.run import rundir
from kronecker.runtime.printing import say

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"  # for a rehearsal, whose times mean nothing


def run(
    chosen: Sequence[parts.Part], minutes: float, extent: extents.Extent, text: extents.Text, out: Path, commit: str
) -> int:
    """Computes missing results of the chosen parts, prints and writes all results, and returns the exit code.

    It is 0; 1 if a result is wrong or failed; 128 + the signal's number if a signal ended the visit.  Raises ValueError
    if there is no accelerator and this is no rehearsal; ChildProcessError if JAX does not start.
    """
    if extent.rehearsal:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}".strip()
    end = time.time() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="kronecker-accelerator-") as name, Children() as children:
        folder = Path(name)
        names = [part.name for part in chosen]
        job = Job(
            rehearsal=extent.rehearsal,
            text=dataclasses.asdict(text),
            parts=names,
            end=end,
            out=str(out.resolve()),
            facts=str(folder / "facts.json"),
            at_work=str(folder / "at_work.json"),
            avoid=[],
            command=["python", *sys.argv],
            commit=commit,
        )
        facts = _measure(job, folder, children)
        if facts is None:
            return 128 + children.stopped_by
        if facts["platform"] == "cpu" and not extent.rehearsal:
            raise ValueError("JAX finds no accelerator, only a CPU; --rehearse runs all parts on it at toy size")
        ledger, waiting = Ledger(out, facts), {}
        if parts.STUDY in names:
            waiting[parts.STUDY] = _study(Study(extent, text, ledger, folder), ledger, children, end)
        for part, all_names in extents.names(extent).items():
            if part in names:
                waiting[part] = sum(not ledger.holds(part, one) for one in all_names), False
    failed = summary.show(ledger, names, waiting)
    page = summary.write(ledger, waiting)
    say(f"written: {page}; the JSON file of each result is in a folder beside it")
    return 128 + children.stopped_by if children.stopped_by else int(failed)


def _study(study: Study, ledger: Ledger, children: Children, end: float) -> tuple[int, bool]:
    """Trains runs of the study and returns what is left; an error is recorded as the study's failure."""
    ledger.forget(parts.STUDY, PREPARING)
    try:
        study.run(children, end)
        return study.left()
    except (ValueError, OSError) as fault:  # for example a run folder with another config
        ledger.write(parts.STUDY, PREPARING, 0.0, None, f"{type(fault).__name__}: {fault}")
        return 0, True


def _measure(job: Job, folder: Path, children: Children) -> dict[str, Any] | None:
    """Computes the results of all parts but the study; returns this machine's facts, None if stopped before."""
    at_work, began = epath.Path(job.at_work), time.time()

    def is_over() -> bool:
        until = (rundir.read_json(at_work) or {}).get("until", job.end + GRACE)
        return time.time() > min(until, job.end + GRACE)

    while True:
        file = folder / "job.json"
        file.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
        command = [sys.executable, "-m", Job.__module__, str(file)]
        code = children.run(command, folder / "worker.log", is_over)
        found = rundir.read_json(epath.Path(job.facts))
        if code == 0 or children.stopped_by:
            return found
        if found is None:
            raise ChildProcessError(f"the measuring process exited with {code} at its start; its output is above")
        interrupted = rundir.read_json(at_work)
        if code is None and interrupted is None:  # stopped at the time limit between two results
            return found
        if code != AGAIN and interrupted is None:
            raise ChildProcessError(f"the measuring process exited with {code} between results; run the command again")
        ledger = Ledger(Path(job.out), found)
        if code != AGAIN:
            _write_interrupted(ledger, interrupted, code)
            at_work.unlink()
        records = (record for part in job.parts for record in ledger.records(part).values())
        failed = [one for one in records if one["error"] is not None and one["time"] >= began]
        job = dataclasses.replace(job, avoid=[[one["part"], one["name"]] for one in failed])


def _write_interrupted(ledger: Ledger, interrupted: dict[str, Any], code: int | None) -> None:
    """Records that computing a result ended its process, or was stopped at its time limit."""
    if ledger.holds(interrupted["part"], interrupted["name"]):  # the process ended just after it wrote the result
        return
    seconds = time.time() - interrupted["began"]
    why = "stopped at its time limit; increase --minutes" if code is None else f"its process exited with {code}"
    say(f"{interrupted['part']}: {interrupted['name']}, FAILED: {why}")
    ledger.write(interrupted["part"], interrupted["name"], seconds, None, why)
