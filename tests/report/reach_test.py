"""How much sooner one run of a pair reaches the other's final loss, interpolated by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from run_folders import LINES, STEPS_A_LINE, TOKENS_A_STEP, write_run

from kronecker.report import compare, reach, tables
from kronecker.run import finished_runs

STEPS = LINES * STEPS_A_LINE
TOKENS_A_UPDATE = 1000
STEPS_EVALUATED, CURVE = (0, 100, 200, 300, 400), (10.0, 6.0, 4.0, 3.5, 3.0)


def run(losses: Sequence[float], steps: Sequence[int] = STEPS_EVALUATED) -> finished_runs.Run:
    at = np.array(steps, np.float64)
    return finished_runs.Run(
        folder=None,
        config={},
        env={},
        params={},
        result={"validation_loss": losses[-1], "step": steps[-1], "tokens": steps[-1] * TOKENS_A_UPDATE},
        train={},
        validation={"step": at, "tokens": at * TOKENS_A_UPDATE, "loss": np.array(losses)},
    )


def ending_at(loss: float) -> finished_runs.Run:
    return run((10.0, loss), (0, 400))


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        (5.0, 150.0),  # half-way from 6 at step 100 to 4 at step 200
        (3.25, 350.0),  # half-way from 3.5 at step 300 to 3 at step 400
        (8.0, 50.0),  # half-way from the first evaluation to the second
        (4.0, 200.0),  # an evaluation's own loss
        (3.0, 400.0),  # the same final loss
    ],
)
class TestOfAStraightLineBetweenEvaluations:
    def test_an_arm_that_is_ahead_needs_so_many_times_fewer_steps(self, target: float, steps: float):
        found = reach.reach(run(CURVE), ending_at(target))
        assert found == reach.Reach(True, pytest.approx(1000 * steps), pytest.approx(steps), pytest.approx(400 / steps))

    def test_an_arm_that_is_behind_is_told_what_share_of_its_steps_the_baseline_needs(
        self, target: float, steps: float
    ):
        found = reach.reach(ending_at(target), run(CURVE))
        ahead = target == CURVE[-1]  # a tie counts as reached
        expected = 1.0 if ahead else steps / 400
        assert (found.arm_ahead, found.factor) == (ahead, pytest.approx(expected))
        assert (found.steps, found.tokens) == (pytest.approx(steps), pytest.approx(1000 * steps))


def test_the_last_passing_counts_where_the_loss_rises_again():
    found = reach.reach(run((10.0, 4.0, 6.0, 3.5, 3.0)), ending_at(5.5))
    assert found.steps == pytest.approx(220.0)  # .5 of the 2.5 nats between steps 200 and 300


def test_the_first_evaluation_of_a_plateau_at_the_other_loss_counts():
    assert reach.reach(run((10.0, 4.0, 4.0, 3.5, 3.0)), ending_at(4.0)).steps == pytest.approx(100.0)


def test_a_run_that_was_evaluated_only_at_its_end_tells_nothing():
    assert reach.reach(run((2.0,), (400,)), run(CURVE)) is None


def test_evaluations_too_far_apart_tell_nothing():
    assert reach.reach(run((10.0, 6.0, 3.0), (0, 200, 400)), ending_at(7.0)) is None
    assert reach.reach(run((10.0, 6.0, 3.0), (0, 100, 400)), ending_at(7.0)).steps == pytest.approx(75.0)


def test_it_is_the_better_run_whose_evaluations_matter():
    found = reach.reach(run((5.0,), (400,)), run(CURVE))
    assert found.steps == pytest.approx(150.0)


@pytest.mark.parametrize("target", [10.0, 11.0], ids=["at the first evaluation", "above it"])
@pytest.mark.parametrize("arm_ahead", [True, False])
def test_a_loss_that_the_better_run_had_before_training_tells_nothing(arm_ahead: bool, target: float):
    pair = run(CURVE), ending_at(target)
    assert reach.reach(*(pair if arm_ahead else reversed(pair))) is None


def write_evaluations(folder: Path, *evaluations: tuple[int, float]) -> None:
    """Gives a run these validation losses, (step, loss) each."""
    lines = [
        {"kind": "validation", "step": step, "tokens": step * TOKENS_A_STEP, "loss": loss, "bits_per_byte": loss / 2}
        for step, loss in evaluations
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_curve(folder: Path, arm: str, seed: int, middle: float, last: float) -> None:
    """Writes a run evaluated at every fifth of a half, on straight lines from 9 to `middle` to `last`."""
    written = write_run(folder / f"{arm}-seed{seed}", arm, seed, last)
    steps = range(0, STEPS + 1, STEPS // 10)
    write_evaluations(
        written, *((at, float(np.interp(at, (0, STEPS / 2, STEPS), (9.0, middle, last)))) for at in steps)
    )


def comparison(folder: Path) -> compare.Comparison:
    return compare.compare([finished_runs.read(found) for found in finished_runs.find([folder])])


@pytest.fixture
def ahead_and_behind(tmp_path: Path) -> Path:
    """Seed 0: the arm is where the baseline ends after half its steps; seed 1: the baseline after an eighth."""
    write_curve(tmp_path, "table_untied", 0, 5.0, 4.0)
    write_curve(tmp_path, "kronecker", 0, 4.0, 3.0)
    write_curve(tmp_path, "table_untied", 1, 5.0, 4.0)
    write_curve(tmp_path, "kronecker", 1, 8.5, 8.0)  # 9 to 5 in half the steps, so 8 after an eighth
    return tmp_path


def test_factors_of_seeds_are_averaged_geometrically(ahead_and_behind: Path):
    (arm,) = comparison(ahead_and_behind).others
    assert [found.factor for found in arm.reaches] == pytest.approx([2.0, 0.125])
    assert arm.reach_factor == pytest.approx(0.5)


def test_the_verdict_table_shows_the_factor_and_none_for_the_baseline(ahead_and_behind: Path):
    shown = tables.verdicts(comparison(ahead_and_behind))
    column = shown.headers.index("sooner\n×")
    assert [row[column] for row in shown.rows] == ["", "0.50"]


def test_the_json_holds_every_seeds_point(ahead_and_behind: Path):
    written = json.loads(json.dumps(compare.to_json(comparison(ahead_and_behind))))["arms"]["kronecker"]["reach"]
    assert written["mean_factor"] == pytest.approx(0.5)
    assert [(found["arm_ahead"], found["steps"]) for found in written["per_seed"]] == [
        (True, pytest.approx(STEPS / 2)),
        (False, pytest.approx(STEPS / 8)),
    ]


@pytest.mark.parametrize(
    "evaluations",
    [
        [(STEPS, 3.0)],  # eval.every=0
        [(0, 3.5), (STEPS, 3.0)],  # better from the start than the baseline in the end
    ],
    ids=["evaluated only at the end", "below from the start"],
)
def test_one_seed_that_tells_nothing_leaves_the_cell_of_the_factor_empty(
    ahead_and_behind: Path, evaluations: list[tuple[int, float]]
):
    write_evaluations(ahead_and_behind / "kronecker-seed0", *evaluations)
    compared = comparison(ahead_and_behind)
    assert compared.others[0].reach_factor is None
    shown = tables.verdicts(compared)
    assert shown.rows[1][shown.headers.index("sooner\n×")] == ""
