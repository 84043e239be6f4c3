"""Paired statistics of two arms on the same items: exact McNemar, Wilcoxon's signed ranks, a bootstrap interval.

Arms are compared item by item, B minus A, because items differ far more than arms do.  Only items are sampled: an
interval does not cover other seeds of the same arms.

Shapes: N items.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

RESAMPLES = 10_000
CONFIDENCE = 0.95
BLOCK = 2**22  # numbers drawn at a time


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity of two arms on the same items."""

    a: float  # mean of the first arm
    b: float  # mean of the second
    difference: float  # mean of B - A
    low: float  # of the 95 % bootstrap interval of the difference; NaN of one item
    high: float
    test: str  # the name of the test that gave `p`
    p: float  # two-sided


def compare(a_N: np.ndarray, b_N: np.ndarray, seed: int) -> Comparison:
    """Returns how B differs from A: by McNemar's test if both are bool, else by Wilcoxon's.

    `seed` is the bootstrap's.  Raises ValueError if there are no items, not as many in both, or an outcome is not
    finite.
    """
    a_N, b_N = np.asarray(a_N), np.asarray(b_N)
    if a_N.shape != b_N.shape or a_N.ndim != 1 or not len(a_N):
        raise ValueError(
            f"paired outcomes have shapes {a_N.shape} and {b_N.shape}; give two equal ones, (N,) with N > 0"
        )
    difference_N = b_N.astype(np.float64) - a_N.astype(np.float64)
    if not np.isfinite(difference_N).all():
        place = int(np.flatnonzero(~np.isfinite(difference_N))[0])
        raise ValueError(f"outcome {place} is {a_N[place]} and {b_N[place]}; paired statistics need finite numbers")
    if a_N.dtype == b_N.dtype == bool:
        test, p = "McNemar", mcnemar(a_N, b_N)
    else:
        test, p = "Wilcoxon", wilcoxon(difference_N)
    low, high = bootstrap(difference_N, seed)
    return Comparison(float(a_N.mean()), float(b_N.mean()), float(difference_N.mean()), low, high, test, p)


def mcnemar(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Returns the exact two-sided p of McNemar's test of two bool outcomes; 1 where no item tells the arms apart.

    If the arms are equal, each item on which they differ is A's with probability 1/2.
    """
    only_a, only_b = int((a_N & ~b_N).sum()), int((b_N & ~a_N).sum())
    total = only_a + only_b
    return float(stats.binomtest(only_a, total).pvalue) if total else 1.0


def wilcoxon(difference_N: np.ndarray) -> float:
    """Returns the two-sided p of Wilcoxon's signed-rank test, zero differences left out; 1 where all are zero.

    It tests whether differences are symmetric about zero, not whether their mean is zero.  It can disagree with an
    interval of the mean if a few large differences have the other sign than many small ones.
    """
    nonzero = difference_N[difference_N != 0]
    return float(stats.wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0


def bootstrap(values_N: np.ndarray, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the mean, items drawn with replacement; NaN of fewer than two items."""
    if len(values_N) < 2:
        return math.nan, math.nan
    found = stats.bootstrap(
        (values_N,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BLOCK // len(values_N)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
