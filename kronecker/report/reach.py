"""How much sooner one run of a pair reaches the other's final loss (the paper's 1.43 times fewer steps, section 6.6).

Between two evaluations the validation loss is taken as linear.  Both runs follow one schedule made for the whole
length, so the loss on the way is that of a learning rate not yet lowered: a run planned to be shorter would do better,
and the factor flatters neither arm.
"""

import dataclasses

import numpy as np

from kronecker.report import runs


@dataclasses.dataclass(frozen=True)
class Reach:
    """When the better run of a pair passed the worse one's final validation loss.

    Attributes:
      arm_ahead: whether the arm, not the baseline, is the better one.
      tokens: training tokens that the better one had seen by then.
      steps: its finished updates by then, interpolated too.
      factor: the whole run over that point, where the arm is ahead; that point over the whole run, where it is behind.
        So above 1 the arm needs fewer steps than the baseline, and 1.43 times fewer is 1.43.
    """

    arm_ahead: bool
    tokens: float
    steps: float
    factor: float


def reach(run: runs.Run, partner: runs.Run) -> Reach | None:
    """Returns when the better of an arm's run and the baseline's run of the same seed reached the other's final loss.

    None where nobody knows: the better run was evaluated at its end alone (eval.every=0), or its first evaluation was
    there already, as of a run whose partner ended where it began.
    """
    ahead = run.result["validation_loss"] <= partner.result["validation_loss"]
    better, worse = (run, partner) if ahead else (partner, run)
    curve, target = better.validation, worse.result["validation_loss"]
    if len(curve["step"]) < 2 or curve["loss"][0] <= target:
        return None
    tokens, steps = _first_below(curve, target, "tokens"), _first_below(curve, target, "step")
    share = steps / better.result["step"]
    return Reach(ahead, tokens, steps, 1 / share if ahead else share)


def _first_below(curve: dict[str, np.ndarray], target: float, column: str) -> float:
    loss, at = curve["loss"], curve[column]
    i = int(np.argmax(loss <= target))  # the last evaluation is the final loss, so there is one
    share = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))
