"""What a few paired differences resolve: their mean, its t interval, a verdict, and what n seeds could resolve."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import special

CONFIDENCE = 0.95
POWER = 0.8
BETTER, WORSE, NOT_RESOLVED = "better", "worse", "not resolved"


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
    def _standard_error(self) -> float:
        return float(np.std(self.values, ddof=1)) / math.sqrt(len(self.values))


def to_json(difference: Difference) -> dict[str, Any]:
    """Returns the difference for a file; nats per token."""
    return {
        "seeds": difference.seeds,
        "per_seed": difference.values,
        "mean": difference.mean,
        "half_interval": difference.half,
        "resolvable": difference.resolvable,
        "verdict": difference.verdict,
    }


def _t_quantile(degrees: int) -> float:
    return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))  # as scipy.stats.t.ppf, which takes a second to import
