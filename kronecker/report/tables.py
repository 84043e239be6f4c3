"""The verdict table and the sentences that go with it, for the terminal and the page."""

import sys
from typing import TextIO

from rich import box, console, measure, table

from kronecker.report import compare

HEADERS = (
    "arm",
    "nats/\ntoken",
    "bits/\nbyte",
    "input\nparams",
    "body\nparams",
    "head\nparams",
    "total\nparams",
    "tokens\n/s",
    "paired\ndiff.",
    "± 95 %",
    "verdict",
)
LEFT_ALIGNED = ("arm", "verdict")
NARROWEST = 100


def cells(comparison: compare.Comparison) -> list[tuple[str, ...]]:
    """Returns the text of the verdict table, one tuple an arm in the order of HEADERS, the baseline first."""
    return [_row(arm) for arm in comparison.arms]


def show(comparison: compare.Comparison, file: TextIO = sys.stdout) -> None:
    """Prints the verdict table and what it says in words; plain text where `file` is not a terminal."""
    verdicts = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for header in HEADERS:
        left = header in LEFT_ALIGNED
        verdicts.add_column(header, justify="left" if left else "right", vertical="bottom", no_wrap=not left)
    for row in cells(comparison):
        verdicts.add_row(*row)
    screen = console.Console(file=file, highlight=False, markup=False)
    # A pipe has no width, and on a narrow terminal a wrapped row still says more than a cut one.
    natural = measure.Measurement.get(screen, screen.options.update(max_width=1000), verdicts).maximum
    screen.width = max(NARROWEST if not screen.is_terminal else screen.width, natural)
    screen.print(verdicts)
    for sentence in sentences(comparison):
        screen.print(sentence)


def sentences(comparison: compare.Comparison) -> list[str]:
    """Returns the verdicts in plain words, one sentence an arm, and what the seeds leave open."""
    told = [_sentence(arm, comparison.baseline.name) for arm in comparison.others]
    if any(arm.difference.half is None for arm in comparison.others):
        told.append("One seed has no interval, so nothing is resolved: train at least three (SEEDS=3).")
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


def _row(arm: compare.Arm) -> tuple[str, ...]:
    difference = arm.difference
    params = arm.runs[0].params
    return (
        arm.name,
        f"{arm.mean('validation_loss'):.4f}",
        f"{arm.mean('validation_bits_per_byte'):.4f}",
        *(count(params[group]) for group in ("input", "body", "head", "total")),
        f"{arm.mean('tokens_per_second'):,.0f}",
        signed(difference.mean) if difference else "",
        "" if not difference or difference.half is None else f"{difference.half:.4f}",
        difference.verdict if difference else "baseline",
    )


def _sentence(arm: compare.Arm, baseline: str) -> str:
    difference = arm.difference
    direction = "below" if difference.mean < 0 else "above"
    gap = f"{abs(difference.mean):.4f} nats/token {direction} {baseline}"
    if difference.half is None:
        return f"{arm.name}: not resolved; its one seed ended {gap}."
    low, high = difference.mean - difference.half, difference.mean + difference.half
    per_seed = ", ".join(
        f"{seed}: {signed(value)}" for seed, value in zip(difference.seeds, difference.values, strict=True)
    )
    interval = f"95 % interval {signed(low)} to {signed(high)}; per seed {per_seed}"
    if difference.verdict == compare.NOT_RESOLVED:
        return f"{arm.name}: not resolved; on average {gap}, but the interval holds zero ({interval})."
    return f"{arm.name}: {difference.verdict}, on average {gap} ({interval})."
