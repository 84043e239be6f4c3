"""How much sooner one run of a pair reaches the other's final loss (the paper's 1.43 times fewer steps, section 6.6).

The validation loss is interpolated linearly between two evaluations; curves are convex, so the point is somewhat late.
At an intermediate step the learning rate is not yet at its final value.  A run planned for fewer steps would reach a
lower loss there, so the factor is not the compute that would be saved.
"""

import dataclasses

import numpy as np

from kronecker.run import finished_runs

COARSEST = 1 / 4  # of a run between two evaluations; interpolation over a wider gap is too imprecise


@dataclasses.dataclass(frozen=True)
class Reach:
    """When the better run of a pair passed the worse one's final validation loss."""

    arm_ahead: bool  # whether the arm, not the baseline, is the better one
    tokens: float  # training tokens that the better one had seen by then
    steps: float  # its finished updates by then, interpolated too
    # all steps of a run over `steps` where the arm is ahead, else `steps` over all steps: above 1 the arm needs fewer
    # steps than the baseline
    factor: float


def reach(run: finished_runs.Run, partner: finished_runs.Run) -> Reach | None:
    """Returns when the better of an arm's run and the baseline's run of the same seed reached the other's final loss.

    That is where its validation loss falls below it for good.  None if the evaluations do not show it: they are further
    apart there than COARSEST of the run, or the first one is below already.
    """
    own, other = run.validation["loss"], partner.validation["loss"]
    if not len(own) or not len(other):
        return None
    ahead = bool(own[-1] <= other[-1])
    better, target = (run, other[-1]) if ahead else (partner, own[-1])
    curve, total = better.validation, better.result["step"]
    if own[-1] == other[-1]:
        return Reach(ahead, float(better.result["tokens"]), float(total), 1.0)
    above = np.flatnonzero(curve["loss"] > target)
    if not len(above):
        return None
    last = int(above[-1])
    if curve["step"][last + 1] - curve["step"][last] > COARSEST * total:
        return None
    around = [last + 1, last]  # by rising loss
    tokens, steps = (
        float(np.interp(target, curve["loss"][around], curve[column][around])) for column in ("tokens", "step")
    )
    return Reach(ahead, tokens, steps, total / steps if ahead else steps / total)
