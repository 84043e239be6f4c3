"""The tables of verdicts and costs, and their sentences, for the terminal and the page."""

import math
from collections.abc import Sequence
from typing import TextIO

from kronecker.report import collisions, compare, intervals
from kronecker.run import finished_runs
from kronecker.runtime import printing
from kronecker.runtime.printing import Table

PARAMETER_GROUPS = ("input", "body", "head", "total")


def verdicts(comparison: compare.Comparison) -> Table:
    """Returns each arm's loss, paired difference, interval and verdict."""
    headers = ("arm", "nats/\ntoken", "bits/\nbyte", "paired\ndiff.", "± 95 %", "resolv-\nable", "sooner\n×", "verdict")
    return Table(headers, tuple(_verdict_row(arm) for arm in comparison.arms), ("arm", "verdict"))


def costs(comparison: compare.Comparison) -> Table:
    """Returns what each arm costs: parameters by group, speed, memory, clipped steps."""
    params = (f"{group}\nparams" for group in PARAMETER_GROUPS)
    headers = ("arm", *params, "tokens\n/s", "peak\nmemory", "clipped\nsteps")
    return Table(headers, tuple(_cost_row(arm) for arm in comparison.arms), ("arm",))


def reaches(comparison: compare.Comparison) -> Table:
    """Returns where the better run of each pair reached the other's final loss: tokens and steps, mean over seeds."""
    headers = ("arm", "ahead in\nseeds", "tokens", "steps", "sooner ×\nby seed")
    rows = [_reach_row(arm) for arm in comparison.others]
    return Table(headers, tuple(row for row in rows if row), ("arm",))


def settings(comparison: compare.Comparison) -> Table:
    """Returns the settings in which the arms differ, of those that a pair compares."""
    told = [compare.settings(arm.runs[0], (*compare.COMPARED, *compare.TUNED)) for arm in comparison.arms]
    keys = [key for key in finished_runs.varying(told) if key != "arm"]
    rows = [(arm.name, *(own[key] for key in keys)) for arm, own in zip(comparison.arms, told, strict=True)]
    return Table(("arm", *keys), tuple(rows), ("arm", *keys))


def collision_costs(damages: Sequence[collisions.Damage]) -> Table:
    """Returns what ids that share a code cost each arm that has some."""
    inputs = ("arm", "ids sharing\na code", "share of\ninputs", "matched")
    headers = (*inputs, "damage\nnats", "± 95 %", "placebo\n95 %", "over all\ntokens", "verdict")
    return Table(headers, tuple(_collision_row(found) for found in damages), ("arm", "verdict"))


def show(comparison: compare.Comparison, damages: Sequence[collisions.Damage] = (), file: TextIO | None = None) -> None:
    """Prints the tables and their sentences."""
    made = (verdicts(comparison), costs(comparison), reaches(comparison), collision_costs(damages))
    apart = (part for told in made if told.rows for part in (told, ""))
    printing.show(*apart, *sentences(comparison), file=file, wrap=True)


def sentences(comparison: compare.Comparison) -> list[str]:
    """Returns the verdicts in words, one sentence an arm, and which seeds are missing."""
    told = [_sentence(arm, comparison.baseline.name) for arm in comparison.others]
    if any(arm.difference.half is None for arm in comparison.others):
        told.append("One seed has no interval, so nothing is resolved: train at least three (--seeds=3 of sweep.py).")
    if comparison.left_out:
        left_out = ", ".join(map(str, comparison.left_out))
        told.append(f"Only seeds that every arm has finished are compared; left out: {left_out}.")
    return told


def count(number: float) -> str:
    """Returns three significant digits with a unit, e.g. 1.05M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.0f}"


def signed(number: float) -> str:
    """Returns a difference with its sign, e.g. -0.0123."""
    return f"{number:+.4f}"


def _verdict_row(arm: compare.Arm) -> tuple[str, ...]:
    difference, factor = arm.difference, arm.reach_factor
    resolved = difference and difference.half is not None
    return (
        arm.name,
        f"{arm.mean('validation_loss'):.4f}",
        f"{arm.mean('validation_bits_per_byte'):.4f}",
        signed(difference.mean) if difference else "",
        f"{difference.half:.4f}" if resolved else "",
        f"{difference.resolvable:.4f}" if resolved else "",
        "" if factor is None else f"{factor:.2f}",
        difference.verdict if difference else "baseline",
    )


def _cost_row(arm: compare.Arm) -> tuple[str, ...]:
    params = arm.runs[0].params
    return (
        arm.name,
        *(count(params[group]) for group in PARAMETER_GROUPS),
        f"{arm.mean('tokens_per_second'):,.0f}",
        f"{arm.mean('peak_memory_bytes') / 1e9:.2f} GB",
        f"{100 * arm.mean('clip_share'):.1f} %",
    )


def _reach_row(arm: compare.Arm) -> tuple[str, ...] | None:
    known = [reached for reached in arm.reaches if reached]
    if not known:
        return None
    tokens, steps = (math.fsum(getattr(one, what) for one in known) / len(known) for what in ("tokens", "steps"))
    factors = ", ".join("?" if one is None else f"{one.factor:.2f}" for one in arm.reaches)
    ahead = f"{sum(one.arm_ahead for one in known)} of {len(known)}"
    return (arm.name, ahead, count(tokens), f"{steps:,.0f}", factors)


def _collision_row(found: collisions.Damage) -> tuple[str, ...]:
    counted = (found.arm, f"{found.ids:,}", f"{100 * found.share:.2f} %", f"{100 * found.matched:.0f} %")
    difference = found.difference
    if difference is None:
        return (*counted, "", "", "", "", found.verdict)
    half = "" if difference.half is None else f"{difference.half:.4f}"
    placebo = f"{found.placebo:.4f}"
    return (*counted, signed(difference.mean), half, placebo, signed(found.spread), found.verdict)


def _sentence(arm: compare.Arm, baseline: str) -> str:
    difference = arm.difference
    direction = "below" if difference.mean < 0 else "above"
    gap = f"{abs(difference.mean):.4f} nats/token {direction} {baseline}"
    if difference.half is None:
        return f"{arm.name}: not resolved; its one seed ended {gap}."
    low, high = difference.interval
    by_seed = zip(difference.seeds, difference.values, strict=True)
    seeds = ", ".join(f"seed {seed}: {signed(value)}" for seed, value in by_seed)
    interval = f"95 % interval {signed(low)} to {signed(high)}; {seeds}"
    if difference.verdict == intervals.NOT_RESOLVED:
        return f"{arm.name}: not resolved; on average {gap}, but the interval includes zero ({interval})."
    return f"{arm.name}: {difference.verdict}, on average {gap} ({interval})."
