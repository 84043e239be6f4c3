"""The paper's numbers on training (section 6.6), computed from runs: gap, speed, lead, drift of the input's scale."""

import math
import shlex
from collections.abc import Iterable, Sequence

from kronecker.report import compare, figures, held_out, intervals
from kronecker.run import finished_runs, measured_on, result

TABLE, KRONECKER, UNTIED = "table_tied", "kronecker", compare.BASELINE
GAP = "{} minus kronecker, final validation loss, nats/token"
RELATIVE = "the same in % of the table's loss"
SOONER = "kronecker reaches the table's final loss in how many times fewer steps"
CELLS = "evaluations at which kronecker is ahead, all seeds"
DRIFT_TABLE, DRIFT_PROJECTION = "std of the table at the end, times its start", "std of the projection, likewise"
PAPER = (
    (GAP.format("tied table"), 0.083, 0.007, ""),
    (RELATIVE, 2.5, 0.2, ""),
    (SOONER, 1.43, None, ""),
    (CELLS, 18, None, "of 18"),
    (DRIFT_TABLE, 1.3, None, "about"),
    (DRIFT_PROJECTION, 1.0, None, "about"),
)
PAPER_CONDITIONS = measured_on.PAPER | {"seeds": "3", "learning rate": "not published"}


def pair(found: Sequence[finished_runs.Run]) -> compare.Comparison:
    """Returns the paper's comparison, `table_tied` against `kronecker`, and `table_untied` if it was trained.

    Each arm may have a learning rate of its own.  Raises ValueError if one of the paper's two is missing, or the runs
    are not pairs.
    """
    arms = {run.arm for run in found}
    if missing := [arm for arm in (TABLE, KRONECKER) if arm not in arms]:
        raise ValueError(
            f"the paper compares {TABLE} with {KRONECKER}, but there is no finished run of {' or of '.join(missing)}; "
            f"train it first, for example: make pair"
        )
    chosen = [run for run in found if run.arm in (TABLE, KRONECKER, UNTIED)]
    by_name = compare.by_name(chosen, (*compare.COMPARED, *compare.TUNED))
    if versions := [name for name in by_name if name not in (TABLE, KRONECKER, UNTIED)]:
        of_arm = {run.arm: of_name for of_name in reversed(by_name.values()) for run in of_name}
        folders = shlex.join(str(run.folder) for of_name in of_arm.values() for run in of_name)
        raise ValueError(
            f"there are several versions of one arm: {', '.join(versions)}; name the runs of one version each, for "
            f"example: scripts/report.py --paper {folders}"
        )
    return held_out.compared(chosen, TABLE, compare.TUNED)


def probed(comparison: compare.Comparison) -> list[finished_runs.Run]:
    """Returns the runs for the probes: those of the lowest seed, `kronecker` last."""
    arms = sorted(comparison.arms, key=lambda arm: arm.name == KRONECKER)
    return [arm.runs[0] for arm in arms]


def measure(comparison: compare.Comparison) -> result.Result:
    """Returns the numbers of section 6.6, one a row: value, half a 95 % t interval over seeds, a remark.

    Arms other than the paper's two add rows that the paper does not have.
    """
    table, arms = comparison.baseline, {arm.name: arm for arm in comparison.arms}
    kronecker = arms[KRONECKER]
    gaps = {name: compare.difference(arms[name], kronecker) for name in (TABLE, UNTIED) if name in arms}
    relative = (100 * gap / loss for gap, loss in zip(gaps[TABLE].values, table.losses, strict=True))
    rows = [
        _gap(TABLE, gaps[TABLE]),
        (RELATIVE, *_mean(table, relative), ""),
        *(_gap(UNTIED, gap) for name, gap in gaps.items() if name == UNTIED),
        _sooner(kronecker),
        _cells(comparison),
    ]
    for quantity, arm in ((DRIFT_TABLE, table), (DRIFT_PROJECTION, kronecker)):
        rows.append((quantity, *_mean(arm, (float(run.train["embedding_std"][-1]) for run in arm.runs)), ""))
    rates = dict.fromkeys(f"{arm.runs[0].config['train.lr']:g}" for arm in (table, kronecker))
    return result.Result(
        name="training",
        title="A table against a Kronecker input, in training",
        source="6.6",
        conditions=measured_on.merged(
            measured_on.of_run(run.config, run.result["step"]) for run in (*table.runs, *kronecker.runs)
        )
        | {"seeds": str(len(table.runs)), "learning rate": " and ".join(rates)},
        columns=("quantity", "value", "± 95 %", "remark"),
        rows=rows,
        paper=PAPER,
        notes=(
            "Where a difference is above zero, kronecker has the lower loss. The paper's table is tied to the head; "
            "its kronecker arm has a head of its own, so more parameters. The untied table, which the paper does not "
            "have, has a head of its own too.",
            "One seed has no interval." if len(table.runs) == 1 else "Intervals are over seeds.",
            held_out.sentences(comparison)[0],
        ),
        paper_conditions=PAPER_CONDITIONS,
    )


def _mean(arm: compare.Arm, values: Iterable[float]) -> tuple[float, float | None]:
    found = intervals.Difference(tuple(run.seed for run in arm.runs), tuple(values))
    return found.mean, found.half


def _gap(arm: str, difference: intervals.Difference) -> tuple[result.Cell, ...]:
    of_table = {"better": "kronecker is behind", "worse": "kronecker is ahead"}
    verdict = of_table.get(difference.verdict, difference.verdict)
    return (GAP.format(arm.replace("table_", "") + " table"), difference.mean, difference.half, verdict)


def _sooner(kronecker: compare.Arm) -> tuple[result.Cell, ...]:
    """Returns the geometric mean over seeds, and half the width of its interval: exp of the logarithms' t interval."""
    mean = kronecker.reach_factor
    if mean is None:
        return (SOONER, None, None, "the evaluations do not show it")
    _, half = _mean(kronecker, (math.log(one.factor) for one in kronecker.reaches))
    return (SOONER, mean, None if half is None else mean * math.sinh(half), "")


def _cells(comparison: compare.Comparison) -> tuple[result.Cell, ...]:
    panel = next(panel for panel in figures.PANELS if panel.name == "validation_difference")
    curve = next(curve for curve in figures.curves(comparison, panel) if curve.arm == KRONECKER)
    after_the_start = curve.values[:, curve.tokens > 0]  # the evaluation at step 0 is before training
    return (CELLS, int((after_the_start < 0).sum()), None, f"of {after_the_start.size:,}")
