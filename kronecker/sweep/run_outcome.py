"""What became of a sweep's runs: the table that a sweep ends in, and its exit code."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from kronecker.run import finished_runs, rundir
from kronecker.runtime import preemption, printing
from kronecker.runtime.printing import Table
from kronecker.sweep import planning

STOPPED = preemption.EXIT_CODE  # of train.py, after a signal made it save and leave


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a planned run."""

    name: str
    # finished, skipped (it was finished before), failed, or stopped (by a signal, to the sweep or to itself)
    state: str
    seconds: float = 0.0  # wall time spent on it now
    train_loss: float | None = None  # its last logged training loss in nats per token, if it has finished
    validation_loss: float | None = None  # its final validation loss, likewise
    exit_code: int | None = None  # of the child; negative: the signal that ended it.  None if there was no child


def skipped(run: planning.Planned) -> Outcome:
    return Outcome(run.name, "skipped", **_losses(run))


def ended(run: planning.Planned, seconds: float, exit_code: int | None, stopped: bool) -> Outcome:
    """Returns the outcome of a run that is no longer at work, finished or not as its folder says.

    `exit_code` is of its process, where it is known; `stopped`: a signal has ended the sweep.
    """
    finished = run.state == "finished"
    state = "finished" if finished else "stopped" if stopped or exit_code == STOPPED else "failed"
    return Outcome(run.name, state, seconds, exit_code=exit_code, **(_losses(run) if finished else {}))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Returns 1 if a run has failed, 143 if one was stopped, 0 if all are finished."""
    states = {outcome.state for outcome in outcomes}
    return 1 if "failed" in states else STOPPED if "stopped" in states else 0


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints the table of a sweep: a row a run."""
    rows = []
    for outcome in outcomes:
        losses = ("" if loss is None else f"{loss:.4f}" for loss in (outcome.train_loss, outcome.validation_loss))
        code = "" if outcome.exit_code is None else str(outcome.exit_code)
        rows.append((outcome.name, outcome.state, f"{outcome.seconds:,.0f}", *losses, code))
    headers = ("run", "state", "seconds", "train\nloss", "val.\nloss", "exit\ncode")
    printing.show(Table(headers, rows, ("run", "state")))


def _losses(run: planning.Planned) -> dict[str, float]:
    result = finished_runs.read_json(epath.Path(run.folder), rundir.RESULT)
    return {name: result[name] for name in ("train_loss", "validation_loss")}
