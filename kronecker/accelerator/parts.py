"""The parts of a visit to an accelerator, and their shares of its minutes."""

import dataclasses
from collections.abc import Sequence

STUDY = "study"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a visit."""

    name: str  # as --parts takes it
    share: float  # of the minutes of all chosen parts; unused time goes to the parts after it
    what: str  # what it measures; short, as a column of a table


PARTS = (
    Part("check", 0.24, "correctness of values and losses"),
    Part("encoder", 0.2, "time of the input side"),
    Part("step", 0.18, "time of a training step of each arm"),
    Part("mfu", 0.2, "fastest settings, costliest kernels"),
    Part(STUDY, 0.18, "runs of configs/gpu_study.py"),
)


def choose(names: Sequence[str]) -> tuple[Part, ...]:
    """Returns the parts of these names in the order of PARTS, all if none is named; raises ValueError if unknown."""
    known = [part.name for part in PARTS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--parts={','.join(names)}: unknown part {unknown[0]!r}; allowed: {', '.join(known)}")
    return tuple(part for part in PARTS if part.name in names or not names)


def end_of_first(left: Sequence[Part], now: float, end: float) -> float:
    """Returns the time at which the first of the remaining parts must end, if the last ends at `end`; seconds."""
    return now + max(0.0, end - now) * left[0].share / sum(part.share for part in left)
