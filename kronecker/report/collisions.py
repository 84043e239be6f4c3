"""The cost of shared codes: the loss on the token after an input that shares its code, against matched inputs.

Each held-out token has a difference: the arm's loss minus that of the baseline, whose ids have a row each.  Its mean
after inputs that share their code is compared with its mean after inputs with a code of their own, within strata of
equal length in bytes, script, frequency in the training text (power of two), and whether they begin with a space.  The
strata are weighted by their number of inputs that share a code; strata with too few of one kind are left out.

All seeds have the same ids, so an interval over seeds alone would count any peculiarity of the few colliding ids as
damage.  The placebo, a permutation test, measures that part: it shuffles the label "shares its code" among the ids of
each stratum, PLACEBOS times.

Shapes: N held-out predictions, V vocabulary, S strata, n seeds.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kronecker.report import compare, intervals, losses_by_token

LEAST_OF_A_KIND = 20  # predictions after collided, and after other inputs, for a stratum to count
PLACEBOS = 1000


@dataclasses.dataclass(frozen=True)
class Damage:
    """What collisions cost one arm."""

    arm: str
    ids: int  # how many ids share their code with another
    tokens: int  # held-out tokens after such an id
    share: float  # `tokens` over all held-out tokens
    matched: float  # share of `tokens` that lie in strata with controls
    # the arm's loss minus the baseline's, nats, on the token after a collided input, minus the same after matched
    # inputs; one value a seed; None where no stratum has enough of both
    difference: intervals.Difference | None
    placebo: float | None  # 95 % of the placebos' means have a smaller absolute value; None if `difference` is
    redrawn: bool = False  # whether other ids share a code in each seed, so that no `difference` is of all seeds

    @property
    def spread(self) -> float | None:
        """The damage to next tokens, spread over all held-out tokens: nats per token.

        Inputs without a match count as if they were like the others.
        """
        return self.difference and self.difference.mean * self.share

    @property
    def verdict(self) -> str:
        """The difference's verdict where its mean also exceeds the placebo; else `not resolved`, or why it has none."""
        if self.difference is None:
            return "redrawn" if self.redrawn else "no match"
        beyond = abs(self.difference.mean) > self.placebo
        return self.difference.verdict if beyond else intervals.NOT_RESOLVED


def damage(comparison: compare.Comparison, losses: losses_by_token.OfRuns) -> list[Damage]:
    """Returns the damage of each arm that has ids which share a code; none without token losses."""
    if not losses:
        return []
    found = [_damage(comparison, losses, arm) for arm in comparison.others]
    return [one for one in found if one.ids]


def to_json(damages: Sequence[Damage]) -> dict[str, Any]:
    """Returns arm -> its damage, for a file."""
    return {
        found.arm: {
            "ids": found.ids,
            "tokens": found.tokens,
            "share": found.share,
            "matched": found.matched,
            "damage": found.difference and intervals.to_json(found.difference),
            "placebo_95": found.placebo,
            "nats_over_all_tokens": found.spread,
            "verdict": found.verdict,
        }
        for found in damages
    }


def _damage(comparison: compare.Comparison, losses: losses_by_token.OfRuns, arm: compare.Arm) -> Damage:
    facts = losses[arm.name, arm.runs[0].seed]
    pairs = [(losses[arm.name, run.seed], losses[comparison.baseline.name, run.seed]) for run in arm.runs]
    inputs_N = facts["inputs"]
    coded_V = (facts["bytes"] > 0) & ~facts["special"]
    collided_V = coded_V & (facts["code_group"] >= 0)
    counts_V = np.bincount(inputs_N, minlength=len(coded_V)) * coded_V
    after = [np.bincount(own["inputs"], own["nats"].astype(np.float64) - of["nats"], len(coded_V)) for own, of in pairs]
    of_input = _Inputs(counts_V, np.stack(after) * coded_V, _strata(facts))
    shared_nV = [own["code_group"] >= 0 for own, _ in pairs]
    redrawn = any(not np.array_equal(shared_V, shared_nV[0]) for shared_V in shared_nV)
    estimate, matched = of_input.excess(collided_V)
    tokens = int(of_input.counts[collided_V].sum())
    counted = (arm.name, int(collided_V.sum()), tokens, tokens / len(inputs_N), matched)
    if estimate is None or redrawn:
        return Damage(*counted, None, None, redrawn)
    difference = intervals.Difference(tuple(run.seed for run in arm.runs), tuple(estimate.tolist()))
    return Damage(*counted, difference, _placebo(of_input, collided_V))


@dataclasses.dataclass(frozen=True, eq=False)
class _Inputs:
    """For each id as an input: its count (V,), the sums of differences after it (n, V), and its stratum (V,)."""

    counts: np.ndarray
    sums: np.ndarray
    strata: np.ndarray

    def excess(self, collided_V: np.ndarray) -> tuple[np.ndarray | None, float]:
        """Returns the mean difference after collided inputs minus that after matched ones, (n,); None: none matches.

        And the share of collided inputs that lie in strata with controls.
        """
        collided_S, control_S = self._in_strata(np.stack([self.counts * collided_V, self.counts * ~collided_V]))
        used_S = np.minimum(collided_S, control_S) >= LEAST_OF_A_KIND
        matched = float(collided_S[used_S].sum() / max(collided_S.sum(), 1))
        if not used_S.any():
            return None, matched
        means_nS = [
            self._in_strata(self.sums * kind_V)[:, used_S] / count_S[used_S]
            for kind_V, count_S in ((collided_V, collided_S), (~collided_V, control_S))
        ]
        return np.average(means_nS[0] - means_nS[1], axis=1, weights=collided_S[used_S]), matched

    def _in_strata(self, values_nV: np.ndarray) -> np.ndarray:
        width = int(self.strata.max()) + 1
        return np.stack([np.bincount(self.strata, values_V, width) for values_V in values_nV])


def _placebo(of_input: _Inputs, collided_V: np.ndarray) -> float | None:
    """Shuffles the label among the ids of each stratum that occur as inputs, PLACEBOS times."""
    seen = np.flatnonzero(of_input.counts)
    among = _Inputs(of_input.counts[seen], of_input.sums[:, seen].mean(axis=0)[None], of_input.strata[seen])
    label, stratum = collided_V[seen], among.strata
    by_stratum = np.argsort(stratum, kind="stable")
    rng = np.random.default_rng(0)
    means = []
    for _ in range(PLACEBOS):
        shuffled = np.empty_like(label)
        shuffled[np.lexsort((rng.random(len(stratum)), stratum))] = label[by_stratum]
        excess, _ = among.excess(shuffled)
        if excess is not None:
            means.append(abs(excess[0]))
    return float(np.quantile(means, intervals.CONFIDENCE)) if means else None


def _strata(facts: losses_by_token.TokenLosses) -> np.ndarray:
    magnitude_V = np.log2(np.maximum(facts["train_count"], 1)).astype(np.int64)
    keys = np.stack([facts["bytes"], facts["script"], magnitude_V, facts["after_space"]], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
