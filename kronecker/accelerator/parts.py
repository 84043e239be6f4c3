"""The parts of a visit to an accelerator, and how its minutes are split among them."""

import dataclasses
from collections.abc import Sequence

STUDY = "study"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a visit."""

    name: str  # as --parts takes it
    # of the minutes; parts that are not chosen leave theirs to the others, and so does time that is not used
    share: float
    what: str  # the question it answers


PARTS = (
    Part("check", 0.24, "is everything right here"),
    Part("encoder", 0.2, "what the input side costs, against a table"),
    Part("step", 0.18, "what a whole step of each arm costs"),
    Part("mfu", 0.2, "which settings use the device best, and where the time goes"),
    Part(STUDY, 0.18, "the GPU study, as far as the minutes reach"),
)


def choose(names: Sequence[str]) -> tuple[Part, ...]:
    """Returns the parts of these names, in the order of PARTS, or all; raises ValueError if there is no such part."""
    known = [part.name for part in PARTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--parts={','.join(names)}: there is no part {unknown[0]!r}; allowed: {', '.join(known)}")
    return tuple(part for part in PARTS if part.name in names or not names)


def end_of_first(left: Sequence[Part], now: float, end: float) -> float:
    """Returns when the first of the parts that are left has to end, all of them ending at `end`; seconds."""
    return now + max(0.0, end - now) * left[0].share / sum(part.share for part in left)
