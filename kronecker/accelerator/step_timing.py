"""Part `step`: whole training steps of all arms in one interleaved run."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kronecker.accelerator.extents import BASELINE, Extent, Text, arm_config
from kronecker.benchmark import step

FOR_THE_ROUNDS = 1 / 4  # of the part's seconds; in the others arms are compiled


@contextlib.contextmanager
def session(
    extent: Extent, text: Text, wanted: Sequence[str], folder: Path, seconds_left: Callable[[], float]
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Yields a function that returns the numbers of all arms; the arguments are `correctness.session`'s."""
    del wanted, folder

    def measure(name: str) -> dict[str, Any]:
        del name
        least = FOR_THE_ROUNDS * seconds_left()
        arms = {arm: arm_config(arm, text, extent.whole) for arm in extent.arms}
        found = step.run(arms, extent.rounds, BASELINE, extent.turns, lambda: seconds_left() < least)
        return {"size": extent.whole["size"], "turns": extent.turns, **found}

    yield measure


def faults(result: dict[str, Any]) -> str | None:
    """Returns which arms the time did not reach: all arms belong in one run, so it is taken again; None if none."""
    left_out = ", ".join(result["left_out"])
    return f"no time to compile {left_out}; give the part more minutes" if left_out else None
