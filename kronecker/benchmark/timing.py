"""Comparable timings: contenders are timed in turns, so that other load on the machine affects all of them.

A round runs every case once, in a new random order.  Slow cases run only in some rounds, at least five, spread over the
whole run.
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
SETTLE_SECONDS = 0.005  # wait before each call, because PyTorch's threads spin for a while after their work
TRIAD_FLOATS = 1 << 26  # 256 MiB an array, larger than any last-level cache
SPREAD = (0.1, 0.9)  # quantiles reported with a median

Call = Callable[[int], Any]  # called with a round's number; returns when its work is finished


@dataclasses.dataclass(frozen=True)
class Samples:
    """One case's timings."""

    rounds: tuple[int, ...]  # in which it was timed, ascending
    seconds: tuple[float, ...]  # of each of them

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def of_one(self, turns: int) -> Self:
        """Returns the seconds of one turn, where each call ran `turns` of them back to back."""
        return dataclasses.replace(self, seconds=tuple(seconds / turns for seconds in self.seconds))

    def summary(self) -> dict[str, Any]:
        low, high = np.quantile(self.seconds, SPREAD).tolist()
        return {"median_seconds": self.median, "low": low, "high": high, **dataclasses.asdict(self)}


def interleave(
    cases: Mapping[Hashable, Call],
    rounds: int,
    seconds: float,
    show: Callable[[int, str], None] = lambda done, words: None,
) -> dict[Hashable, Samples]:
    """Returns the samples of each case, timed in turns after a warm-up, in at least LEAST_ROUNDS `rounds`.

    `seconds` is the budget of each case over all rounds; a slower case runs in fewer, at least LEAST_ROUNDS.  `show` is
    called with the number of finished rounds and the name of the next case.
    """
    shares = {}
    for name, call in cases.items():
        show(0, f"warming up {_label(name)}")
        warm = _timed(call, 0)
        if warm < seconds / LEAST_ROUNDS:
            warm = _timed(call, 0)  # the first call also allocates memory
        shares[name] = max(LEAST_ROUNDS, int(min(rounds, seconds / warm)))
    taken: dict[Hashable, list[tuple[int, float]]] = {name: [] for name in cases}
    rng = np.random.default_rng(0)
    for number in range(rounds):
        turn = [name for name, n in shares.items() if (number + 1) * n // rounds > number * n // rounds]
        for i in rng.permutation(len(turn)):
            show(number, _label(turn[i]))
            taken[turn[i]].append((number, _timed(cases[turn[i]], number)))
    return {name: Samples(*zip(*samples, strict=True)) for name, samples in taken.items()}


def ratio(slow: Samples, fast: Samples) -> dict[str, float]:
    """Returns the time of `slow` over that of `fast`.

    "median", "low" and "high" are median and quartiles of the ratios of the rounds that both have; "of_medians" is the
    ratio of the two medians.  Cases of `interleave` share its last round.
    """
    common = sorted(set(slow.rounds) & set(fast.rounds))
    above, below = (dict(zip(case.rounds, case.seconds, strict=True)) for case in (slow, fast))
    ratios = [above[number] / below[number] for number in common]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    of_medians = slow.median / fast.median
    return {"median": middle, "low": low, "high": high, "of_medians": of_medians, "rounds": len(common)}


def triad(turns: int = 1) -> tuple[Call, int]:
    """Returns a case that computes a += 2 b in place on large arrays, and the bytes that one of its turns moves."""

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
    """Returns how many threads a contender may use: one for each core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _timed(call: Call, number: int) -> float:
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


def _label(name: Hashable) -> str:
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
