"""What each arm's input embedding uses, and how far a step moves it, from the input_use.json of its first run."""

from typing import Any

from kronecker.report import compare, losses_by_token
from kronecker.run import finished_runs, rundir
from kronecker.runtime.printing import Table

_NUMBER = (float, type(None))
FIELDS = {
    "training_step": int,
    "validation_loss": float,
    **dict.fromkeys(("rows_in_use", "rows"), int),
    "effective_rank": _NUMBER,
    **dict.fromkeys(("read_share", "std", "step", "peak_step_over_std"), float),
    **dict.fromkeys(("trained_share", "rare_moment_over_eps", "median_moment_over_eps"), _NUMBER),
}
HEADERS = (
    *("arm", "rows\nin use", "of", "effective\nrank", "read", "trained", "initial\nstd", "step /\nstd"),
    *("√v / ε:\nrare", "√v / ε:\nmedian"),
)


def read(run: finished_runs.Run) -> dict[str, Any] | None:
    """Returns the content of a run's input_use.json, or None if it has none; raises as `losses_by_token.record`."""
    exists = (run.folder / rundir.INPUT_USE).exists()
    return losses_by_token.record(run, rundir.INPUT_USE, FIELDS) if exists else None


def table(comparison: compare.Comparison) -> Table:
    """Returns the table of the arms whose first run has an input_use.json."""
    found = ((arm.name, read(arm.runs[0])) for arm in comparison.arms)
    return Table(HEADERS, [_row(name, use) for name, use in found if use], ("arm",))


def _row(name: str, use: dict[str, Any]) -> tuple[str, ...]:
    def shown(key: str, form: str, scale: int = 1) -> str:
        return "" if use[key] is None else format(scale * use[key], form)

    return (
        *(name, shown("rows_in_use", ","), shown("rows", ","), shown("effective_rank", ",.1f")),
        *(f"{shown('read_share', '.1f', 100)} %", f"{shown('trained_share', '.1f', 100)} %"),
        *(shown("std", ".3g"), shown("peak_step_over_std", ".3g")),
        *(shown("rare_moment_over_eps", ",.0f"), shown("median_moment_over_eps", ",.0f")),
    )
