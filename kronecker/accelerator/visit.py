"""A visit: the parts that were chosen, in processes that are watched, then what came of them."""

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
from kronecker.accelerator.worker import AGAIN, GRACE, PREPARING, Job, say
from kronecker.run import rundir

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"  # of a rehearsal, whose times mean nothing


def run(
    chosen: Sequence[parts.Part], minutes: float, extent: extents.Extent, text: extents.Text, out: Path, commit: str
) -> int:
    """Takes what is missing of the chosen parts, prints and writes what is there, and returns the exit code.

    It is 0; 1 if a result is wrong or could not be had; 128 + the signal's number if a signal ended the visit. Raises
    ValueError if there is no accelerator and this is no rehearsal; ChildProcessError if JAX does not start.
    """
    if extent.rehearsal:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}".strip()
    end = time.time() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="kronecker-accelerator-") as name, Children() as children:
        folder = Path(name)
        facts = _measure(chosen, end, extent, text, out, commit, folder, children)
        if facts is None:
            return 128 + children.stopped_by
        if facts["platform"] == "cpu" and not extent.rehearsal:
            raise ValueError("JAX finds no accelerator here, only a CPU; --rehearse tries all parts at toy size on it")
        ledger, waiting = Ledger(out, facts), {}
        names = [part.name for part in chosen]
        if parts.STUDY in names:
            waiting[parts.STUDY] = _study(Study(extent, text, ledger, folder), ledger, children, end)
        for part, all_names in extents.names(extent).items():
            if part in names:
                waiting[part] = sum(not ledger.holds(part, one) for one in all_names), False
    failed = summary.show(ledger, names, waiting)
    page = summary.write(ledger, waiting)
    say(f"written: {page}, and a JSON file for each result in the folders beside it")
    return 128 + children.stopped_by if children.stopped_by else int(failed)


def _study(study: Study, ledger: Ledger, children: Children, end: float) -> tuple[int, bool]:
    """Trains runs of the study and returns what is left of it; that it cannot be trained is kept as its failure."""
    ledger.forget(parts.STUDY, PREPARING)
    try:
        study.run(children, end)
        return study.left()
    except (ValueError, OSError) as fault:  # a run's folder that is of another config, say
        ledger.write(parts.STUDY, PREPARING, 0.0, None, f"{type(fault).__name__}: {fault}")
        return 0, True


def _measure(
    chosen: Sequence[parts.Part],
    end: float,
    extent: extents.Extent,
    text: extents.Text,
    out: Path,
    commit: str,
    folder: Path,
    children: Children,
) -> dict[str, Any] | None:
    """Takes the results of all parts but the study; returns the facts of this machine, None if told to stop before."""
    facts, at_work, began = folder / "facts.json", folder / "at_work.json", time.time()
    names = [part.name for part in chosen]
    job = Job(
        rehearsal=extent.rehearsal,
        text=dataclasses.asdict(text),
        parts=[name for name in names if name != parts.STUDY],
        also=[name for name in names if name == parts.STUDY],
        end=end,
        out=str(out.resolve()),
        facts=str(facts),
        at_work=str(at_work),
        avoid=[],
        command=["python", *sys.argv],
        commit=commit,
    )

    def is_over() -> bool:
        until = (rundir.read_json(epath.Path(at_work)) or {}).get("until", end + GRACE)
        return time.time() > min(until, end + GRACE)

    while True:
        file = folder / "job.json"
        file.write_text(json.dumps(dataclasses.asdict(job)))
        command = [sys.executable, "-m", Job.__module__, str(file)]
        code = children.run(command, folder / "worker.log", is_over)
        found = rundir.read_json(epath.Path(facts))
        if code == 0 or children.stopped_by:
            return found
        if found is None:
            raise ChildProcessError(f"the process that was to use the devices ended with {code} before it found them")
        interrupted = rundir.read_json(epath.Path(at_work))
        if code is None and interrupted is None:  # its time was over between two results
            return found
        if code != AGAIN and interrupted is None:
            raise ChildProcessError(f"the process that has the devices ended with {code}, at work on no result")
        if code != AGAIN:
            _write_interrupted(Ledger(out, found), interrupted, code)
            at_work.unlink()
        failed = _failed_since(Ledger(out, found), job.parts, began)
        job = dataclasses.replace(job, avoid=failed)


def _write_interrupted(ledger: Ledger, interrupted: dict[str, Any], code: int | None) -> None:
    """Keeps that a result ended its process, or was stopped as its time was over."""
    seconds = time.time() - interrupted["began"]
    why = f"its process ended with {code}" if code is not None else f"stopped after {seconds:.0f} s, its time was over"
    say(f"{interrupted['part']}: {interrupted['name']}, FAILED: {why}")
    ledger.write(interrupted["part"], interrupted["name"], seconds, None, why)


def _failed_since(ledger: Ledger, names: Sequence[str], began: float) -> list[list[str]]:
    return [
        [part, record["name"]]
        for part in names
        for record in ledger.records(part).values()
        if record["error"] is not None and record["time"] >= began
    ]
