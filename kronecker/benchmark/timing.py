"""Timings that can be compared: contenders take turns, so what else the machine does meets all of them.

A round runs every case once, in an order drawn anew.  A case too slow for that takes part in some of the rounds, spread
over the whole run, never in fewer than five.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Self

import jax
import numpy as np

LEAST_ROUNDS = 5
SETTLE_SECONDS = 0.005  # before each call: PyTorch's threads spin for a while after their work is done
TRIAD_FLOATS = 1 << 26  # 256 MiB an array, beyond every last-level cache
SPREAD = (0.1, 0.9)  # the quantiles beside a median

Call = Callable[[int], Any]  # takes a round's number; returns when its work is finished


@dataclasses.dataclass(frozen=True)
class Samples:
    """One case's timings."""

    rounds: tuple[int, ...]  # that it took part in, rising
    seconds: tuple[float, ...]  # of each of them

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def quantiles(self, *levels: float) -> list[float]:
        return np.quantile(self.seconds, levels).tolist()

    def of_one(self, turns: int) -> Self:
        """Returns the timings of one of the `turns` that each call took back to back."""
        return dataclasses.replace(self, seconds=tuple(seconds / turns for seconds in self.seconds))

    def summary(self) -> dict[str, Any]:
        low, high = self.quantiles(*SPREAD)
        return {"median_seconds": self.median, "low": low, "high": high, **dataclasses.asdict(self)}


def interleave(
    cases: Mapping[Hashable, Call],
    rounds: int,
    seconds: float,
    show: Callable[[int, str], None] = lambda done, words: None,
    seed: int = 0,
) -> dict[Hashable, Samples]:
    """Returns the samples of each case, timed in turns after a warm-up of each.

    Args:
      cases: what to time; each is called with the round's number.
      rounds: in all; at least LEAST_ROUNDS.
      seconds: that one case may take over all rounds; a slower one takes part in fewer, at least LEAST_ROUNDS.
      show: called with the rounds done and a few words.
    """
    shares = {}
    for name, call in cases.items():
        show(0, f"warming up {_label(name)}")
        warm = _timed(call, 0)
        if warm < seconds / LEAST_ROUNDS:
            warm = _timed(call, 0)  # the first call also finds its memory
        shares[name] = max(LEAST_ROUNDS, int(min(rounds, seconds / warm)))
    taken: dict[Hashable, list[tuple[int, float]]] = {name: [] for name in cases}
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        turn = [name for name, n in shares.items() if (number + 1) * n // rounds > number * n // rounds]
        for i in rng.permutation(len(turn)):
            show(number, _label(turn[i]))
            taken[turn[i]].append((number, _timed(cases[turn[i]], number)))
    return {name: Samples(*zip(*samples, strict=True)) for name, samples in taken.items()}


def ratio(slow: Samples, fast: Samples) -> dict[str, float]:
    """Returns how much longer `slow` takes over the rounds that both took part in.

    Of the ratios of single rounds the median and quartiles, low and high; of_medians is that of the two medians.
    Raises ValueError if they share no round.
    """
    common = sorted(set(slow.rounds) & set(fast.rounds))
    if not common:
        raise ValueError("two cases share no round, so they cannot be compared; raise --rounds")
    above, below = (dict(zip(case.rounds, case.seconds, strict=True)) for case in (slow, fast))
    ratios = [above[number] / below[number] for number in common]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    of_medians = slow.median / fast.median
    return {"median": middle, "low": low, "high": high, "of_medians": of_medians, "rounds": len(common)}


def triad(turns: int = 1) -> tuple[Call, int]:
    """Returns a case that streams through memory, a += 2 b in place, and the bytes that one of its turns moves."""

    @functools.partial(jax.jit, donate_argnums=0)
    def add(a, b):
        return a + 2.0 * b

    a, b = jax.numpy.zeros(TRIAD_FLOATS), jax.numpy.ones(TRIAD_FLOATS)

    def call(_: int) -> None:
        nonlocal a
        for _ in range(turns):
            a = add(a, b)
        jax.block_until_ready(a)

    return call, 3 * a.nbytes


def threads() -> int:
    """Returns how many threads a contender may use: a core each."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _timed(call: Call, number: int) -> float:
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


def _label(name: Hashable) -> str:
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
