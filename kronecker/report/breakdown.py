"""Where an arm wins and loses: paired differences over groups of held-out tokens.

Tokens are grouped by the predicted token, or by the token before it, the last one that the input embedding encodes.  A
group's difference is the mean over its tokens of the arm's loss minus the baseline's, one value a seed.

Shapes: N held-out predictions, V vocabulary, G groups.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kronecker.report import compare, intervals, losses_by_token

LEAST_TOKENS = 200  # groups with fewer held-out tokens are left out: their differences depend on single tokens
DECILES = 10
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 33)  # the first length of each group, in bytes
SPECIAL = "special"


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Paired differences of every arm in every group."""

    name: str  # stem of its CSV file
    title: str
    caption: str  # how to read it
    axis: str  # what a group is, with its unit
    groups: tuple[str, ...]  # (G,), their names, in order
    ids: tuple[int, ...]  # (G,), of the vocabulary, in each
    tokens: tuple[int, ...]  # (G,), held-out tokens in each
    baseline: tuple[float, ...]  # (G,), the baseline's loss, mean over seeds, nats/token
    differences: Mapping[str, tuple[intervals.Difference, ...]]  # arm -> (G,)


def break_down(comparison: compare.Comparison, losses: losses_by_token.OfRuns) -> list[Breakdown]:
    """Returns every breakdown in which at least two groups have LEAST_TOKENS tokens; none without token losses."""
    if not losses or not comparison.others:
        return []
    made = [_over_groups(comparison, losses, grouping) for grouping in GROUPINGS]
    return [breakdown for breakdown in made if len(breakdown.groups) > 1]


def to_json(breakdowns: Sequence[Breakdown]) -> dict[str, Any]:
    """Returns the breakdowns for a file; losses in nats per token."""
    return {
        made.name: {
            "groups": made.groups,
            "ids": made.ids,
            "tokens": made.tokens,
            "baseline_loss": made.baseline,
            "differences": {
                arm: [intervals.to_json(one) for one in of_arm] for arm, of_arm in made.differences.items()
            },
        }
        for made in breakdowns
    }


@dataclasses.dataclass(frozen=True)
class Grouping:
    """How held-out tokens are grouped; name, title, caption and axis as in Breakdown."""

    name: str
    title: str
    caption: str
    axis: str
    ids: str  # "targets" or "inputs": which of a prediction's two tokens decides
    # token losses -> names of all groups in order, and the group of each id (V,)
    of_ids: Callable[[losses_by_token.TokenLosses], tuple[list[str], np.ndarray]]


def by_frequency(facts: losses_by_token.TokenLosses) -> tuple[list[str], np.ndarray]:
    """Returns ten groups of ids, each about a tenth of the training text's tokens; the most frequent ids are first.

    With ids laid end to end by their counts, an id is in the decile of its midpoint.  No id is split between deciles.
    """
    count_V = facts["train_count"]
    order = np.argsort(-count_V, kind="stable")
    ends = np.cumsum(count_V[order])
    middle = (ends - count_V[order] / 2) / max(ends[-1], 1)
    decile_V = np.empty(len(count_V), np.int64)
    decile_V[order] = np.minimum((DECILES * middle).astype(np.int64), DECILES - 1)
    return [str(i + 1) for i in range(DECILES)], decile_V


def by_length(facts: losses_by_token.TokenLosses) -> tuple[list[str], np.ndarray]:
    """Returns groups of ids by their raw bytes; special tokens are a group of their own."""
    ends = [*(first - 1 for first in LENGTHS[1:]), None]
    names = [
        f"{first}+" if end is None else f"{first}" if first == end else f"{first}\N{EN DASH}{end}"
        for first, end in zip(LENGTHS, ends, strict=True)
    ]
    group_V = np.searchsorted(LENGTHS, facts["bytes"], side="right") - 1
    return [*names, SPECIAL], np.where(facts["special"] | (group_V < 0), len(names), group_V)


def by_script(facts: losses_by_token.TokenLosses) -> tuple[list[str], np.ndarray]:
    """Returns groups of ids by script, named by `writing_systems.script`; special tokens are a group of their own."""
    names = facts["scripts"].tolist()
    return [*names, SPECIAL], np.where(facts["special"], len(names), facts["script"])


_FREQUENCY = (
    "Ids are sorted by frequency in the training text and cut into ten groups with about a tenth of its tokens each. "
    "No id is split, so an id with more than a tenth leaves a neighbouring group smaller or empty."
)
_TARGET = "Groups by the token that is predicted."
_INPUT = "Groups by the token before the predicted one: the last token that the input embedding encodes."
_DECILE = "frequency decile (1: most frequent)"
_WHOSE = (("target", "predicted", _TARGET), ("input", "input", _INPUT))
_WHAT = (
    *(("frequency", _DECILE, f" {_FREQUENCY}", by_frequency), ("length", "bytes", "", by_length)),
    ("script", "script", "", by_script),
)
GROUPINGS = tuple(
    Grouping(f"{which}_{what}", f"By {what} of the {whose} token", about + more, axis, f"{which}s", of_ids)
    for what, axis, more, of_ids in _WHAT
    for which, whose, about in _WHOSE
)


def _over_groups(comparison: compare.Comparison, losses: losses_by_token.OfRuns, grouping: Grouping) -> Breakdown:
    facts = losses[comparison.baseline.name, comparison.baseline.runs[0].seed]
    names, group_V = grouping.of_ids(facts)
    group_N = group_V[facts[grouping.ids]]
    tokens_G = np.bincount(group_N, minlength=len(names))
    shown = np.flatnonzero(tokens_G >= LEAST_TOKENS)

    def means(arm: compare.Arm) -> np.ndarray:
        sums = [
            np.bincount(group_N, weights=losses[arm.name, run.seed]["nats"], minlength=len(names)) for run in arm.runs
        ]
        return np.stack(sums)[:, shown] / tokens_G[shown]

    baseline = means(comparison.baseline)
    seeds = tuple(run.seed for run in comparison.baseline.runs)
    differences = {
        arm.name: tuple(intervals.Difference(seeds, tuple(of_group)) for of_group in (means(arm) - baseline).T.tolist())
        for arm in comparison.others
    }
    return Breakdown(
        *(grouping.name, grouping.title, grouping.caption, grouping.axis, tuple(names[i] for i in shown)),
        tuple(np.bincount(group_V, minlength=len(names))[shown].tolist()),
        *(tuple(tokens_G[shown].tolist()), tuple(baseline.mean(axis=0).tolist()), differences),
    )
