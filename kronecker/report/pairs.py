"""Chosen differences of two arms, each over the seeds that both have, with one Holm correction for all of them."""

from collections.abc import Sequence
from typing import Any

from kronecker.report import compare, held_out, intervals, surroundings
from kronecker.run import finished_runs


def read(
    found: Sequence[finished_runs.Run], wanted: Sequence[str], diverged: Sequence[finished_runs.Diverged] = ()
) -> list[compare.Comparison]:
    """Returns the comparison of each "ARM:BASELINE" of `wanted`; the two may differ in their learning rate.

    Raises ValueError for a pair of another form, an arm without runs, and as `held_out.compared` does.
    """
    settings = (*compare.COMPARED, *compare.TUNED)
    of_arm = compare.by_name(found, settings)
    comparisons = []
    for pair in dict.fromkeys(wanted):
        arm, _, baseline = pair.partition(":")
        for name in (arm, baseline):
            if name not in of_arm or arm == baseline:
                raise ValueError(
                    f"--pairs={pair}: {name or 'nothing'!r} is not one of two arms of these runs; give ARM:BASELINE "
                    f"with two of {', '.join(of_arm)}"
                )
        own = [run for run in diverged if run.arm in (arm, baseline)]
        comparisons.append(held_out.compared(of_arm[arm] + of_arm[baseline], baseline, compare.TUNED, own))
    return comparisons


def adjusted(comparisons: Sequence[compare.Comparison]) -> list[str]:
    """Returns the verdict of each pair after Holm's correction for their number."""
    return intervals.holm([of_pair.others[0].difference for of_pair in comparisons])


def to_json(comparisons: Sequence[compare.Comparison]) -> dict[str, Any]:
    """Returns the pairs for a file; losses in nats per token."""
    return {
        "pairs": [
            {
                "arm": of_pair.others[0].name,
                "baseline": of_pair.baseline.name,
                "difference": intervals.to_json(of_pair.others[0].difference),
                "interval_over_documents": of_pair.others[0].documents,
                "verdict_after_holm": verdict,
                "seeds_left_out": of_pair.left_out,
                "differing_within_pairs": surroundings.differing(of_pair.pairs),
            }
            for of_pair, verdict in zip(comparisons, adjusted(comparisons), strict=True)
        ]
    }
