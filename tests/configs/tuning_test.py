"""The search for a rate and a multiplier, on losses whose lowest point is known, and the stages built on it."""

import itertools
import math
import re
from pathlib import Path

import pytest

from configs import tuned_study, tuned_study_technical, tuning


def bowl(best: tuning.Point, tilt: float = 0.0):
    """A loss with its lowest value at `best`; a `tilt` makes a good multiplier depend on the rate."""

    def loss(point: tuning.Point) -> float:
        rate, multiplier = (math.log(one / lowest) for one, lowest in zip(point, best, strict=True))
        return rate**2 + (multiplier + tilt * rate) ** 2

    return loss


def run_all(loss, start: tuning.Point) -> tuple[dict[tuning.Point, float], tuning.Point]:
    """Runs what the search asks for until it has a best point."""
    finished: dict[tuning.Point, float] = {}
    for _ in range(100):
        points, best = tuning.search(finished.get, start)
        if best:
            return finished, best
        finished |= {point: loss(point) for point in points}
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("tilt", [0.0, 0.8])
@pytest.mark.parametrize("best", [(4e-3, 30.0), (1e-3, 0.3), (0.016, 1.0)])
def test_the_best_point_has_a_worse_neighbour_on_each_side(best: tuning.Point, tilt: float):
    loss = bowl(best, tilt)
    finished, found = run_all(loss, (4e-3, 1.0))
    assert found == min(finished, key=loss)
    around = tuning.cross(found)
    assert len(around) == 5
    assert all(finished[point] > finished[found] for point in around if point != found)
    if not tilt:
        assert found == best
    assert len(finished) < 25


def test_a_search_ends_at_the_ends_of_what_is_allowed_and_never_at_a_diverged_point():
    _, found = run_all(lambda point: -point[0] - point[1], (4e-3, 1.0))
    assert found == (tuning.RATES[-1], tuning.MULTIPLIERS[-1])
    finished, found = run_all(lambda point: math.inf if point[0] > 4e-3 else -point[0], (4e-3, 1.0))
    assert found[0] == 4e-3
    assert math.inf in finished.values()


def test_a_search_of_which_every_point_diverged_has_no_best_point():
    with pytest.raises(ValueError, match=r"all points of a search diverged: \[\(0\.004, 1\.0\), .*; begin"):
        tuning.search(lambda point: math.inf, (4e-3, 1.0))


def test_the_study_tunes_every_arm_then_trains_each_at_its_best_with_new_seeds():
    every = [arm for batch in tuned_study.BATCHES for arm in batch]
    best = {arm: tuning.RATES[1 + i % 9] for i, arm in enumerate(every)}

    def loss(_: str, settings: tuning.Settings) -> float:
        return bowl((best[settings["embedding.arm"]], 3.0))((settings[tuning.RATE], settings[tuning.MULTIPLIER]))

    *tuned_and_final, longer, variants = tuned_study.stages(loss)
    assert [name for name, _ in itertools.groupby(stage.name for stage in tuned_and_final)] == ["tuning", "finals"] * 3
    for name in ("tuning", "finals"):
        for earlier, later in itertools.pairwise(stage for stage in tuned_and_final if stage.name == name):
            assert {str(run) for of in earlier.groups for run in of} < {str(run) for of in later.groups for run in of}
    *_, last_tuning, finals = tuned_and_final
    runs = [run for group in finals.groups for run in group]
    assert {(run["embedding.arm"], run[tuning.RATE], run[tuning.MULTIPLIER]) for run in runs} == {
        (arm, rate, 3.0) for arm, rate in best.items()
    }
    seeds = {arm: sorted(run["seed"] for run in runs if run["embedding.arm"] == arm) for arm in best}
    assert {len(of) for of in seeds.values()} == {5}
    assert not {seed for of in seeds.values() for seed in of} & {run["seed"] for of in last_tuning.groups for run in of}
    assert [stage.name for stage in (longer, variants)] == ["longer", "variants"]


@pytest.mark.parametrize("study", [tuned_study, tuned_study_technical])
def test_a_study_waits_for_the_losses_of_its_first_batch(study):
    first, *more = study.stages(lambda *_: None)
    assert not more
    assert first.name == "tuning"
    assert {run["embedding.arm"] for of in first.groups for run in of} == {*tuned_study.PRIMARY}


def test_the_protocols_command_has_the_comparisons_of_its_table_and_these_have_final_runs():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(\w+)` − `(\w+)` \|$", page, re.MULTILINE)
    commanded = [pair for line in re.findall(r"^[A-Z]+=(.*)$", page, re.MULTILINE) for pair in line.split(",")]
    assert sorted(f"{arm}:{baseline}" for arm, baseline in listed) == sorted(commanded)
    assert len(listed) == 12
    assert {arm for pair in listed for arm in pair} <= {arm for batch in tuned_study.BATCHES for arm in batch}
