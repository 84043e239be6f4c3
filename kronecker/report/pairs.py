"""Chosen differences of two arms, each over the seeds that both have, with one Holm correction for all of them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from kronecker.report import compare, held_out, intervals, surroundings
from kronecker.run import finished_runs


def read(
    found: Sequence[finished_runs.Run], wanted: Sequence[str], diverged: Sequence[finished_runs.Diverged] = ()
) -> list[compare.Comparison]:
    """Returns the comparison of each "ARM:BASELINE" of `wanted`; the two may differ in their learning rate.

    Raises ValueError for a pair of another form, or given both ways, or of an arm without runs, and as
    `held_out.compared` does.
    """
    settings = (*compare.COMPARED, *compare.TUNED)
    of_arm = compare.by_name(found, settings)
    comparisons = []
    for pair in dict.fromkeys(wanted):
        arm, _, baseline = pair.partition(":")
        if f"{baseline}:{arm}" in wanted and arm != baseline:
            raise ValueError(f"--pairs={pair},{baseline}:{arm}: one comparison, given both ways; leave one out")
        for name in (arm, baseline):
            if name not in of_arm or arm == baseline:
                raise ValueError(
                    f"--pairs={pair}: {name or 'nothing'!r} is not one of two arms of these runs; give ARM:BASELINE "
                    f"with two of {', '.join(of_arm)}"
                )
        runs, ended = [], []
        for name in (arm, baseline):
            own, alike = of_arm[name], compare.settings(of_arm[name][0], settings)
            runs += _labelled(own, name)
            ended += _labelled((run for run in diverged if compare.settings(run, settings) == alike), name)
        comparisons.append(held_out.compared(runs, baseline, compare.TUNED, ended))
    return comparisons


def _labelled(runs: Iterable[Any], name: str) -> list[Any]:
    """Returns runs with their arm's name among all runs as its label, as two of them alone need no settings in it."""
    return [dataclasses.replace(run, config={**run.config, "embedding.arm": name}) for run in runs]


def adjusted(comparisons: Sequence[compare.Comparison], planned: int = 0) -> list[str]:
    """Returns the verdict of each pair after Holm's correction for their number, or for that of the planned ones."""
    return intervals.holm([of_pair.others[0].difference for of_pair in comparisons], planned)


def to_json(comparisons: Sequence[compare.Comparison]) -> dict[str, Any]:
    """Returns the pairs for a file; losses in nats per token."""
    return {
        "pairs": [
            {
                "arm": of_pair.others[0].name,
                "baseline": of_pair.baseline.name,
                "losses_of": dataclasses.asdict(of_pair.text),
                "difference": intervals.to_json(of_pair.others[0].difference),
                "interval_over_documents": of_pair.others[0].documents,
                "verdict_after_holm": verdict,
                "seeds_left_out": of_pair.left_out,
                "differing_within_pairs": surroundings.differing(of_pair.pairs),
            }
            for of_pair, verdict in zip(comparisons, adjusted(comparisons), strict=True)
        ]
    }
