"""Part `step`: training steps of all arms, timed in turns in one run."""

from typing import Any

from kronecker.accelerator.extents import Take, Task, arm_config
from kronecker.benchmark import step
from kronecker.schema.arms import BASELINE

FOR_THE_ROUNDS = 1 / 4  # share of the part's time that is kept for timing; the rest is for compiling


def session(task: Task) -> Take:
    """Returns a function that returns the numbers of all arms; an arm without time to compile is a fault."""
    extent = task.extent

    def measure(name: str) -> dict[str, Any]:
        del name
        least = FOR_THE_ROUNDS * task.seconds_left()
        arms = {arm: arm_config(arm, task.text, extent.whole) for arm in extent.arms}
        found = step.run(arms, extent.rounds, BASELINE, extent.turns, lambda: task.seconds_left() < least)
        left_out = ", ".join(found["left_out"])
        fault = f"no time to compile {left_out}; increase --minutes" if left_out else None
        return {"size": extent.whole["size"], "turns": extent.turns, **found, "fault": fault}

    return measure
