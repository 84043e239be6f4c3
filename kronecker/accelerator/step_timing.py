"""Part `step`: whole training steps of all arms in one interleaved run."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kronecker.accelerator.extents import Take, Task, arm_config
from kronecker.benchmark import step
from kronecker.schema.arms import BASELINE

FOR_THE_ROUNDS = 1 / 4  # of the part's seconds; in the others arms are compiled


@contextlib.contextmanager
def session(task: Task) -> Iterator[Take]:
    """Yields a function that returns the numbers of all arms, which belong in one run: it is a fault to reach few."""
    extent = task.extent

    def measure(name: str) -> dict[str, Any]:
        del name
        least = FOR_THE_ROUNDS * task.seconds_left()
        arms = {arm: arm_config(arm, task.text, extent.whole) for arm in extent.arms}
        found = step.run(arms, extent.rounds, BASELINE, extent.turns, lambda: task.seconds_left() < least)
        left_out = ", ".join(found["left_out"])
        fault = f"no time to compile {left_out}; give the part more minutes" if left_out else None
        return {"size": extent.whole["size"], "turns": extent.turns, **found, "fault": fault}

    yield measure
