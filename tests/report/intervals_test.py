"""What paired differences resolve: intervals from a printed table, power and false alarms by simulation."""

import json
import math

import numpy as np
import pytest
from scipy import special, stats

from kronecker.report import intervals

SAMPLES = 10_000  # the standard error of a share of .8 is then .004
# Student's t at .975 with n - 1 degrees of freedom, from a printed table.
T_QUANTILE = {2: 12.7062, 3: 4.302653, 5: 2.776445}


def difference(*values: float) -> intervals.Difference:
    return intervals.Difference(tuple(range(len(values))), values)


def with_spread(n: int, deviation: float) -> intervals.Difference:
    """Returns n values around zero whose sample standard deviation is `deviation`."""
    values = np.arange(n) - (n - 1) / 2
    return difference(*(values * deviation / values.std(ddof=1)).tolist())


def share_resolved(n: int, true_mean: float, deviation: float, verdict: str) -> float:
    drawn = np.random.default_rng(n).normal(true_mean, deviation, (SAMPLES, n))
    return float(np.mean([difference(*values).verdict == verdict for values in drawn.tolist()]))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_is_the_t_interval_of_the_printed_table(n: int):
    measured = with_spread(n, 0.3)
    expected = T_QUANTILE[n] * 0.3 / math.sqrt(n)
    assert measured.half == pytest.approx(expected, rel=1e-5)
    assert measured.interval == pytest.approx((-expected, expected), rel=1e-5)


@pytest.mark.parametrize(("sign", "verdict"), [(-1, "better"), (1, "worse")])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_resolvable_difference_is_resolved_four_times_in_five(n: int, sign: int, verdict: str):
    resolvable = with_spread(n, 0.02).resolvable
    assert share_resolved(n, sign * resolvable, 0.02, verdict) == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_test_of_the_printed_table_misses_a_resolvable_difference_one_time_in_five(n: int):
    noncentrality = with_spread(n, 0.02).resolvable / (0.02 / math.sqrt(n))
    assert special.nctdtr(n - 1, noncentrality, T_QUANTILE[n]) == pytest.approx(0.2, abs=1e-5)


def test_the_extent_holds_the_values_and_the_interval():
    low, high = difference(-0.1, 0.1).interval
    assert difference(-0.1, 0.1).extent == (low, high)
    assert difference(*[0.0] * 99, 1.0).extent == (difference(*[0.0] * 99, 1.0).interval[0], 1.0)
    assert difference(0.25).extent == (0.25, 0.25)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_difference_is_called_resolved_one_time_in_twenty(n: int):
    wrong = sum(share_resolved(n, 0.0, 0.02, verdict) for verdict in ("better", "worse"))
    assert wrong == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_what_is_resolvable_depends_on_the_spread_and_not_on_the_mean(n: int):
    measured = with_spread(n, 0.02)
    moved = difference(*(7.0 + value for value in measured.values))
    wider = with_spread(n, 0.06)
    assert moved.resolvable == pytest.approx(measured.resolvable, rel=1e-9)
    assert wider.resolvable == pytest.approx(3 * measured.resolvable, rel=1e-9)


def test_one_seed_has_a_mean_and_resolves_nothing():
    lonely = difference(-3.0)
    assert lonely.mean == -3.0
    assert (lonely.half, lonely.interval, lonely.resolvable) == (None, None, None)
    assert lonely.verdict == "not resolved"


@pytest.mark.parametrize(("value", "verdict"), [(-0.5, "better"), (0.5, "worse"), (0.0, "not resolved")])
def test_seeds_that_agree_to_the_last_bit_resolve_anything_but_zero(value: float, verdict: str):
    measured = difference(value, value, value)
    assert (measured.half, measured.resolvable) == (0.0, 0.0)
    assert measured.interval == (value, value)
    assert measured.verdict == verdict


@pytest.mark.parametrize(
    ("spread", "verdict"),
    [(1.0, "not resolved"), (0.999, "better"), (1.001, "not resolved")],
    ids=["touches zero", "just excludes zero", "just holds zero"],
)
def test_an_interval_that_only_touches_zero_resolves_nothing(spread: float, verdict: str):
    # n = 2: half = t * |a - b| / 2, so a mean of -t lies `spread` of its own half from zero.
    t = intervals.Difference((0, 1), (-1.0, 1.0)).half
    assert difference(-t - spread, -t + spread).verdict == verdict


def test_a_file_gets_every_number_and_null_for_what_one_seed_lacks():
    written = json.loads(json.dumps(intervals.to_json(intervals.Difference((4, 9), (-0.01, -0.03)))))
    half = pytest.approx(T_QUANTILE[2] * 0.01, rel=1e-5)
    assert written["seeds"] == [4, 9]
    assert written["per_seed"] == [-0.01, -0.03]
    assert (written["mean"], written["half_interval"]) == (pytest.approx(-0.02), half)
    assert written["verdict"] == "not resolved"
    lonely = json.loads(json.dumps(intervals.to_json(difference(0.1))))
    assert (lonely["half_interval"], lonely["resolvable"]) == (None, None)


def test_the_p_value_is_that_of_scipys_paired_t_test():
    for values in ((-0.03, -0.01, -0.02), (0.2, -0.1, 0.05, 0.01), (0.031, 0.029, 0.03)):
        own = intervals.Difference(tuple(range(len(values))), values).p_value
        assert own == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert intervals.Difference((0,), (-1.0,)).p_value is None
    assert intervals.Difference((0, 1), (-0.1, -0.1)).p_value == 0
    assert intervals.Difference((0, 1), (0.0, 0.0)).p_value == 1


def test_holms_correction_compares_the_smallest_p_value_with_the_number_of_arms():
    def with_p(p: float, sign: int = 1) -> intervals.Difference:
        """A difference of two seeds; with one degree of freedom t = 1 / tan(pi p / 2)."""
        t = 1 / math.tan(math.pi * p / 2)
        return intervals.Difference((0, 1), (sign * (t - 1), sign * (t + 1)))

    assert with_p(0.03).p_value == pytest.approx(0.03)
    # 0.01 <= .05 / 4, 0.016 <= .05 / 3, 0.03 > .05 / 2: 0.04 is not looked at any more
    differences = [with_p(0.04), with_p(0.016, -1), with_p(0.03), with_p(0.01)]
    assert [one.verdict for one in differences] == ["worse", "better", "worse", "worse"]
    assert intervals.holm(differences) == ["not resolved", "better", "not resolved", "worse"]
    one_seed = intervals.Difference((0,), (-1.0,))
    assert intervals.holm([one_seed, with_p(0.04)]) == ["not resolved", "worse"]
    assert intervals.holm([]) == []
    # Of twelve planned: 0.004 <= .05 / 12, 0.0044 <= .05 / 11, but 0.0051 > .05 / 10
    planned = [with_p(0.0051), with_p(0.004), with_p(0.0044)]
    assert intervals.holm(planned, 12) == ["not resolved", "worse", "worse"]
    assert intervals.holm(planned, 2) == ["worse"] * 3
