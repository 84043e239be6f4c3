"""The outcomes of a sweep's runs: the table at the end of a sweep, and its exit code."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from kronecker.run import finished_runs, rundir
from kronecker.runtime import preemption, printing
from kronecker.runtime.printing import Table
from kronecker.sweep import planning

STOPPED = preemption.TERMINATED  # of train.py, after SIGTERM made it save and exit
_TOLD = [128 + number for number in preemption.SIGNALS]  # exit codes of runs that a signal made save and exit


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a planned run."""

    name: str
    state: str  # finished, skipped (was finished before), failed, or stopped (by a signal to the sweep or to itself)
    seconds: float = 0.0  # wall time in this sweep
    train_loss: float | None = None  # the last one of a finished run, in nats per token
    validation_loss: float | None = None  # the final one of a finished run, likewise
    exit_code: int | None = None  # of the child; negative: the signal that ended it; None: no child


def skipped(run: planning.Planned) -> Outcome:
    return Outcome(run.name, "skipped", **_losses(run))


def ended(run: planning.Planned, seconds: float, exit_code: int | None, stopped: bool) -> Outcome:
    """Returns the outcome of a run that has ended; `exit_code`: its process's, `stopped`: a signal ended the sweep."""
    finished = run.state == "finished"
    state = "finished" if finished else "stopped" if stopped or exit_code in _TOLD else "failed"
    return Outcome(run.name, state, seconds, exit_code=exit_code, **(_losses(run) if finished else {}))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Returns 1 if a run has failed, 143 if one was stopped, 0 if all are finished."""
    states = {outcome.state for outcome in outcomes}
    return 1 if "failed" in states else STOPPED if "stopped" in states else 0


def show(outcomes: Sequence[Outcome]) -> None:
    rows = []
    for outcome in outcomes:
        losses = ("" if loss is None else f"{loss:.4f}" for loss in (outcome.train_loss, outcome.validation_loss))
        code = "" if outcome.exit_code is None else str(outcome.exit_code)
        rows.append((outcome.name, outcome.state, f"{outcome.seconds:,.0f}", *losses, code))
    headers = ("run", "state", "seconds", "train\nloss", "val.\nloss", "exit\ncode")
    printing.show(Table(headers, rows, ("run", "state")))


def _losses(run: planning.Planned) -> dict[str, float]:
    result = finished_runs.read_json(epath.Path(run.folder), rundir.RESULT, finished_runs.LOSSES)
    return {name: result[name] for name in finished_runs.LOSSES}
