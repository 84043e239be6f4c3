"""What it costs that two ids share a code: the loss on the token after such an input, against matched inputs.

An arm's difference to the baseline, which tells all ids apart, is taken at every held-out token.  Its mean after inputs
that share their code is compared with its mean after inputs whose code is their own, within strata of equal length in
bytes, equal order of magnitude (base 2) of their number in the training text, and whether they begin with a space.
The strata are weighted by their number of collided inputs; those without enough of either kind are left out.

Shapes: N held-out predictions, V vocabulary, S strata.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kronecker.report import breakdown, compare, statistics

LEAST_OF_A_KIND = 20  # predictions after collided, and after other inputs, for a stratum to count


@dataclasses.dataclass(frozen=True)
class Damage:
    """What collisions cost one arm.

    Attributes:
      arm: whose.
      ids: how many ids share their code with another.
      tokens: held-out tokens after such an id.
      share: of all held-out tokens.
      matched: share of `tokens` that lie in strata with controls.
      difference: extra nats per token after a collided input, arm against baseline, collided against matched inputs;
        None where no stratum has enough of both.
    """

    arm: str
    ids: int
    tokens: int
    share: float
    matched: float
    difference: statistics.Difference | None

    @property
    def total(self) -> float | None:
        """Nats per held-out token that collisions cost the arm in all: damage times the share of collided inputs."""
        return self.difference and self.difference.mean * self.share


def damage(comparison: compare.Comparison, losses: Mapping[compare.RunKey, breakdown.TokenLosses]) -> list[Damage]:
    """Returns the damage of each arm that has ids which share a code; none without token losses."""
    if not losses:
        return []
    found = [_damage(comparison, losses, arm) for arm in comparison.others]
    return [one for one in found if one.ids]


def to_json(damages: Sequence[Damage]) -> dict[str, Any]:
    """Returns arm -> everything that is known of its collisions, for a file."""
    return {
        found.arm: {
            "ids": found.ids,
            "tokens": found.tokens,
            "share": found.share,
            "matched": found.matched,
            "damage": found.difference and statistics.to_json(found.difference),
            "nats_per_token_in_all": found.total,
        }
        for found in damages
    }


def _damage(
    comparison: compare.Comparison, losses: Mapping[compare.RunKey, breakdown.TokenLosses], arm: compare.Arm
) -> Damage:
    facts = losses[arm.name, arm.runs[0].seed]
    collided_V = facts["code_group"] >= 0
    coded_V = (facts["bytes"] > 0) & ~facts["special"]
    inputs_N = facts["inputs"]
    collided_N = (collided_V & coded_V)[inputs_N]
    control_N = (~collided_V & coded_V)[inputs_N]
    stratum_N = _strata(facts)[inputs_N]
    strata = int(stratum_N.max(initial=0)) + 1
    collided_S = np.bincount(stratum_N[collided_N], minlength=strata)
    control_S = np.bincount(stratum_N[control_N], minlength=strata)
    used_S = (collided_S >= LEAST_OF_A_KIND) & (control_S >= LEAST_OF_A_KIND)
    values = []
    for run, partner in zip(arm.runs, comparison.baseline.runs, strict=True):
        delta_N = losses[arm.name, run.seed]["nats"] - losses[comparison.baseline.name, partner.seed]["nats"]

        def mean(chosen_N: np.ndarray, count_S: np.ndarray, delta_N: np.ndarray = delta_N) -> np.ndarray:
            return np.bincount(stratum_N[chosen_N], delta_N[chosen_N], strata)[used_S] / count_S[used_S]

        if used_S.any():
            excess_S = mean(collided_N, collided_S) - mean(control_N, control_S)
            values.append(float(np.average(excess_S, weights=collided_S[used_S])))
    tokens = int(collided_N.sum())
    return Damage(
        arm=arm.name,
        ids=int((collided_V & coded_V).sum()),
        tokens=tokens,
        share=tokens / len(inputs_N),
        matched=float(collided_S[used_S].sum() / tokens) if tokens else 0.0,
        difference=statistics.Difference(tuple(run.seed for run in arm.runs), tuple(values)) if values else None,
    )


def _strata(facts: breakdown.TokenLosses) -> np.ndarray:
    magnitude_V = np.log2(np.maximum(facts["train_count"], 1)).astype(np.int64)
    keys = np.stack([facts["bytes"], magnitude_V, facts["after_space"]], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
