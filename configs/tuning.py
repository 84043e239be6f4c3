"""Stages of a study, and the search for an arm's learning rate and the multiplier of its input's (embedding.lr_mult).

The search runs a point and its neighbours, half and twice the rate, and the multipliers below and above.  It moves to
the point with the lowest training loss until that has no neighbour left to run.  So the best point has a worse one on
each side, in the rate and in the multiplier, unless it is at an end of RATES or MULTIPLIERS.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

RATE, MULTIPLIER = "train.lr", "embedding.lr_mult"
RATES = tuple(1e-3 * 2.0**power for power in range(-4, 7))  # 0.0000625 to 0.064
MULTIPLIERS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)

Settings = dict[str, Any]  # dotted key -> value, of one run
Point = tuple[float, float]  # of RATES and MULTIPLIERS


@dataclasses.dataclass(frozen=True)
class Stage:
    """Runs whose settings depend only on the losses of earlier stages."""

    name: str
    groups: tuple[tuple[Settings, ...], ...]  # runs of one group are compared, so one session trains all of them


def search(loss: Callable[[Point], float | None], start: Point) -> tuple[list[Point], Point | None]:
    """Returns the points to run, the finished ones included, and the best once none of them is missing.

    `loss` is a point's training loss: infinite if it diverged, None if it is unfinished.

    Raises ValueError if all points diverged.
    """
    points = cross(start)
    while True:
        losses = {point: loss(point) for point in points}
        finished = {point: one for point, one in losses.items() if one is not None}
        if len(finished) < len(points):
            return points, None
        best = min(finished, key=finished.__getitem__)
        if math.isinf(finished[best]):
            raise ValueError(f"all points of a search diverged: {points}; begin it at a lower rate")
        more = [point for point in cross(best) if point not in losses]
        if not more:
            return points, best
        points += more


def cross(point: Point) -> list[Point]:
    """Returns a point and its neighbours."""
    rate, multiplier = (allowed.index(value) for allowed, value in zip((RATES, MULTIPLIERS), point, strict=True))
    places = [
        (rate, multiplier),
        *((rate + by, multiplier) for by in (-1, 1)),
        *((rate, multiplier + by) for by in (-1, 1)),
    ]
    return [
        (RATES[rate], MULTIPLIERS[multiplier])
        for rate, multiplier in places
        if rate in range(len(RATES)) and multiplier in range(len(MULTIPLIERS))
    ]
