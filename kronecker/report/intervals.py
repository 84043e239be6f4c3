"""What a few paired differences resolve: their mean, its t interval, a verdict, and what n seeds could resolve.

And how far a difference depends on the choice of held-out documents.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

CONFIDENCE = 0.95
POWER = 0.8
BETTER, WORSE, NOT_RESOLVED = "better", "worse", "not resolved"
RESAMPLES = 10_000
LEAST_DOCUMENTS = 10  # resampling fewer gives too narrow an interval
MOST_UNITS = 4096  # that are resampled; of more documents, neighbours are drawn together
AT_ONCE = 2**16  # draws, which stay in the cache of a processor


@dataclasses.dataclass(frozen=True)
class Difference:
    """Paired differences in nats per token, arm minus baseline: below zero, the arm won."""

    seeds: tuple[int, ...]  # (n,), rising
    values: tuple[float, ...]  # (n,), one difference a seed

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % t interval of the mean; None with one seed, which has no interval."""
        if len(self.values) == 1:
            return None
        return _t_quantile(len(self.values) - 1) * self._standard_error

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % t interval of the mean; None with one seed."""
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)

    @property
    def extent(self) -> tuple[float, float]:
        """The lowest and the highest of the values and the interval's ends."""
        everything = (*self.values, *(self.interval or ()))
        return min(everything), max(everything)

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval excludes zero, else `not resolved`."""
        if self.half is None or abs(self.mean) <= self.half:
            return NOT_RESOLVED
        return BETTER if self.mean < 0 else WORSE

    @property
    def resolvable(self) -> float | None:
        """The smallest true difference that as many seeds with this spread resolve four times in five.

        The noncentrality at which the two-sided 95 % t test has a power of 80 %, times the standard error (the far
        tail's share of that power is below 1e-4).  None with one seed.
        """
        n = len(self.values)
        if n == 1:
            return None
        return float(special.nctdtrinc(n - 1, 1 - POWER, _t_quantile(n - 1))) * self._standard_error

    @property
    def p_value(self) -> float | None:
        """The probability of a mean at least as far from zero if the true one is zero, by the two-sided t test.

        None with one seed.
        """
        n = len(self.values)
        if n == 1:
            return None
        if not self._standard_error:
            return float(self.mean == 0)
        return float(2 * special.stdtr(n - 1, -abs(self.mean) / self._standard_error))

    @property
    def _standard_error(self) -> float:
        return float(np.std(self.values, ddof=1)) / math.sqrt(len(self.values))


def holm(differences: Sequence[Difference], family: int = 0) -> list[str]:
    """Returns the verdicts after Holm's correction: the chance that any of them is wrong is at most 5 %.

    `family` is the number of planned differences; those that are not yet there count as if their p were 1.
    """
    verdicts = [NOT_RESOLVED] * len(differences)
    several = [i for i, difference in enumerate(differences) if difference.p_value is not None]
    for rank, i in enumerate(sorted(several, key=lambda i: differences[i].p_value)):
        if differences[i].p_value > (1 - CONFIDENCE) / (max(family, len(several)) - rank):
            break
        verdicts[i] = differences[i].verdict
    return verdicts


def over_documents(nats_AD: np.ndarray, tokens_D: np.ndarray) -> list[tuple[float, float]] | None:
    """Returns the 95 % interval of each of A differences per token if other documents were drawn; None: too few.

    `nats_AD` are the differences in nats summed over a document's tokens, mean over seeds; `tokens_D` counts these.
    A percentile bootstrap: RESAMPLES times, as many documents are drawn with replacement, the same for all A.
    """
    if len(tokens_D) < LEAST_DOCUMENTS:
        return None
    sums = np.stack([*nats_AD, tokens_D]).astype(np.float64)
    if len(tokens_D) > MOST_UNITS:
        sums = np.add.reduceat(sums, np.linspace(0, len(tokens_D), MOST_UNITS, endpoint=False).astype(int), axis=1)
    units, rng, drawn = sums.shape[1], np.random.default_rng(0), []
    for first in range(0, RESAMPLES, size := max(AT_ONCE // units, 1)):
        chosen = rng.integers(0, units, (min(size, RESAMPLES - first), units))
        chosen += units * np.arange(len(chosen))[:, None]  # so that one count serves every resample
        drawn.append(np.bincount(chosen.reshape(-1), minlength=chosen.size).reshape(-1, units) @ sums.T)
    nats, tokens = np.split(np.concatenate(drawn), [-1], axis=1)
    low, high = np.quantile(nats / tokens, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def to_json(difference: Difference) -> dict[str, Any]:
    """Returns the difference for a file; nats per token."""
    return {
        "seeds": difference.seeds,
        "per_seed": difference.values,
        "mean": difference.mean,
        "half_interval": difference.half,
        "resolvable": difference.resolvable,
        "p_value": difference.p_value,
        "verdict": difference.verdict,
    }


def _t_quantile(degrees: int) -> float:
    return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))  # as scipy.stats.t.ppf, which takes a second to import
