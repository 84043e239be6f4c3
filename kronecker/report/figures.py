"""The report's figures of whole runs: verdicts, curves over training, speed.

A figure is a picture for the page and its numbers for a CSV file beside it.  An arm has one colour and one line style
in every figure.  A curve is the mean over seeds; its band goes from the lowest seed to the highest.
"""

import csv
import dataclasses
import functools
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import ticker

from kronecker.report import compare, plot

TOKEN_UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1, "number"))


@dataclasses.dataclass(frozen=True)
class Panel:
    """What a figure of curves over training shows."""

    name: str  # stem of its CSV file
    title: str
    caption: str  # how to read it; {baseline} is the baseline's name
    unit: str  # label of the vertical axis
    kind: str  # which lines of metrics.jsonl
    column: str  # which number of theirs
    paired: bool = False  # show each arm minus the baseline instead of the arm
    smoothing: float = 0.0  # show a running mean over this share of the lines
    zoom_from: float = 0.0  # fit the vertical axis to what comes after this share of the tokens
    percent: bool = False  # the number is a share


def _of_losses(title: str, kind: str, note: str = "", smoothing: float = 0.0) -> tuple[Panel, Panel]:
    """Returns the panels of a loss and of its paired difference."""
    zoom = "The vertical axis covers the last three quarters of training; earlier values lie above it."
    paired = (
        "Each run minus the {baseline} run with the same seed, at the same step. Below zero the arm is ahead. "
        "The vertical axis covers the last nine tenths of training."
    )
    name = title.lower()
    loss = Panel(f"{name}_loss", f"{title} loss", zoom + note, "nats/token", kind, "loss", False, smoothing, 0.25)
    names = {"name": f"{name}_difference", "title": f"{loss.title}, paired difference", "caption": paired + note}
    return loss, dataclasses.replace(loss, **names, paired=True, zoom_from=0.1)


PANELS = (
    *_of_losses("Validation", "validation"),
    *_of_losses("Training", "train", " Curves are running means over a twentieth of the logged lines.", smoothing=0.05),
    Panel(
        "embedding_std",
        "Norm drift of the input embedding",
        "Standard deviation of the table or the projection, in units of its initial standard deviation. "
        "As it grows, one optimizer step changes the embedding by a smaller fraction.",
        "times its initial value",
        "train",
        "embedding_std",
    ),
    Panel(
        "clip_share",
        "Clipped steps",
        "Share of all steps so far whose gradient was clipped, that is scaled down to the largest allowed norm. "
        "Clipping lowers the weight of a step in Adam's averages.",
        "share of steps",
        "train",
        "clip_share",
        percent=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure and its numbers."""

    name: str  # stem of its CSV file
    title: str
    caption: str  # how to read it
    svg: str  # the picture, a whole SVG document
    numbers: tuple[tuple[str, ...], ...]  # the table that it draws, header first
    wide: bool = False  # needs the page's whole width

    @property
    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.numbers)
        return text.getvalue()


@dataclasses.dataclass(frozen=True)
class Curve:
    """One quantity of one arm over training."""

    arm: str
    seeds: tuple[int, ...]  # of which runs, (n,)
    tokens: np.ndarray  # (points,), rising
    values: np.ndarray  # (n, points)


@mpl.rc_context(plot.LOOK)
def draw(comparison: compare.Comparison) -> list[Figure]:
    """Returns the figure of the verdicts, then those of curves over training."""
    return [*filter(None, (_draw_verdicts(comparison), *(_draw_panel(comparison, panel) for panel in PANELS)))]


def curves(comparison: compare.Comparison, panel: Panel) -> list[Curve]:
    """Returns the curves of `panel`, one an arm, at the steps that all of the arm's runs (or pairs) logged."""
    drawn, baseline = [], comparison.baseline.name
    for arm in comparison.others if panel.paired else comparison.arms:
        used = [*arm.runs, *(comparison.by_key[baseline, run.seed] for run in arm.runs if panel.paired)]
        columns = [getattr(run, panel.kind) for run in used]
        steps = functools.reduce(np.intersect1d, [column["step"] for column in columns])
        if not len(steps):
            continue
        rows = [np.isin(column["step"], steps) for column in columns]
        values = np.stack([column[panel.column][row] for column, row in zip(columns, rows, strict=True)])
        if panel.paired:
            values = values[: len(arm.runs)] - values[len(arm.runs) :]
        width = max(1, round(panel.smoothing * len(steps)))
        seeds = tuple(run.seed for run in arm.runs)
        drawn.append(Curve(arm.name, seeds, columns[0]["tokens"][rows[0]], _running_mean(values, width)))
    return drawn


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    window = np.ones(width)
    counts = np.convolve(np.ones(values.shape[1]), window, mode="same")
    return np.stack([np.convolve(row, window, mode="same") / counts for row in values])


def _draw_panel(comparison: compare.Comparison, panel: Panel) -> Figure | None:
    drawn = curves(comparison, panel)
    if all(len(curve.tokens) == 1 for curve in drawn):  # a point is no curve, as of runs evaluated at their end alone
        return None
    style = plot.styles([arm.name for arm in comparison.arms])
    end = max(curve.tokens[-1] for curve in drawn)
    scale, unit = next((scale, unit) for scale, unit in TOKEN_UNITS if end >= scale or scale == 1)
    baseline = comparison.baseline.name
    labels = {curve.arm: curve.values[:, -1].mean() for curve in drawn} | ({baseline: 0.0} if panel.paired else {})
    ranges = {curve.arm: _range(curve, panel) for curve in drawn} | ({baseline: (0.0, 0.0)} if panel.paired else {})
    left_out = plot.beyond(ranges, baseline)
    edges = limits([ends for name, ends in ranges.items() if name not in left_out])
    longest = max(len(plot.end_label(name, value, edges)) for name, value in labels.items())
    paper, ax = plot.sheet(plot.HEIGHT, left=0.85, right=plot.LETTER * longest + 0.35)
    for curve in drawn:
        colour, line = style[curve.arm]
        x, mean = curve.tokens / scale, curve.values.mean(axis=0)
        ax.plot(x, mean, color=colour, linestyle=line, gid=curve.arm)
        if edges[0] <= mean[-1] <= edges[1]:
            ax.plot(x[-1], mean[-1], "o", color=colour, markersize=4, clip_on=False, zorder=3)
        if len(curve.seeds) > 1:
            ax.fill_between(x, curve.values.min(axis=0), curve.values.max(axis=0), color=colour, alpha=0.15, lw=0)
    if panel.paired:
        ax.axhline(0, color=style[baseline][0], linestyle=style[baseline][1], linewidth=1)
    ax.set_xlim(0, end / scale)
    ax.set_ylim(edges)
    ax.set_xlabel(f"training tokens ({unit})")
    ax.set_ylabel(panel.unit)
    if panel.percent:
        ax.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=None))
    plot.label_ends(ax, labels, {name: style[name][0] for name in labels})
    caption = panel.caption.format(baseline=baseline) + plot.told_beyond(left_out)
    return Figure(panel.name, panel.title, caption, plot.svg(paper), _curve_numbers(drawn))


def _range(curve: Curve, panel: Panel) -> tuple[float, float]:
    shown = curve.values[:, curve.tokens >= panel.zoom_from * curve.tokens[-1]]
    return float(np.nanmin(shown)), float(np.nanmax(shown))


def limits(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the limits of an axis that holds the ranges, with a margin."""
    low, high = np.min(ranges), np.max(ranges)
    margin = 0.06 * (high - low) or 0.05 * max(abs(high), 0.1)
    return low - margin, high + margin


def _draw_verdicts(comparison: compare.Comparison) -> Figure | None:
    if not comparison.others:
        return None
    baseline = comparison.baseline.name
    style = plot.styles([arm.name for arm in comparison.arms])
    paper, ax = plot.rows([arm.name for arm in comparison.others], top=0.35)
    ranges = {arm.name: arm.difference.extent for arm in comparison.others}
    left_out = plot.beyond(ranges | {baseline: (0.0, 0.0)}, baseline)
    numbers = []
    for row, arm in enumerate(comparison.others):
        difference, colour = arm.difference, style[arm.name][0]
        interval = difference.interval or ()
        ends = tuple(f"{end:.6g}" for end in interval) or ("", "")
        seeds = zip(difference.seeds, difference.values, strict=True)
        numbers += [(arm.name, str(seed), f"{value:.6g}", "", "", "") for seed, value in seeds]
        numbers.append((arm.name, "mean", f"{difference.mean:.6g}", *ends, difference.verdict))
        if arm.name in left_out:
            plot.point_beyond(ax, difference.mean, row, colour, arm.name)
            continue
        if interval:
            ax.plot(interval, (row, row), color=colour, linewidth=2.4, solid_capstyle="butt")
        ax.plot(difference.values, [row - 0.24] * len(difference.values), "o", color=colour, mfc="white", markersize=5)
        ax.plot(difference.mean, row, "D", color=colour, markersize=6.5, gid=arm.name)
    ax.axvline(0, color=style[baseline][0], linewidth=1.2)
    for side, text, align in ((0, "← better", "left"), (1, "worse →", "right")):  # not at zero: it may lack room
        at = {"xycoords": "axes fraction", "textcoords": "offset points", "horizontalalignment": align}
        ax.annotate(text, (side, 1), (0, 3), **at)
    ax.margins(x=0.12)
    label = f"final validation loss minus {baseline}'s (nats/token)"
    ax.set_xlabel(label, loc="right")  # centred, it would be cut off where the names of arms are long
    return Figure(
        "paired_differences",
        "Final paired differences",
        "Circles: one seed each, above their mean (diamond). Bars: 95 % t intervals of the mean; where a bar crosses "
        f"the line, it is not resolved whether the arm beats {baseline}. One seed has no bar."
        + plot.told_beyond(left_out),
        plot.svg(paper),
        (("arm", "seed", "difference", "interval_low", "interval_high", "verdict"), *numbers),
    )


@mpl.rc_context(plot.LOOK)
def draw_speed(comparison: compare.Comparison) -> Figure:
    style = plot.styles([arm.name for arm in comparison.arms])
    paper, ax = plot.rows([arm.name for arm in comparison.arms])
    for row, arm in enumerate(comparison.arms):
        mean = arm.mean("tokens_per_second")
        ax.barh(row, mean, height=0.55, color=style[arm.name][0], alpha=0.85, gid=arm.name)
        ax.annotate(f" {mean:,.0f}", (mean, row), verticalalignment="center")
    ax.margins(x=0.16)
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    ax.set_xlabel("training tokens a second")
    runs = comparison.by_key.items()
    numbers = [(name, str(seed), f"{run.result['tokens_per_second']:.6g}") for (name, seed), run in runs]
    caption = "The median over each run's logged lines, averaged over seeds. Runs on one machine slow each other down."
    header = ("arm", "seed", "tokens_per_second")
    return Figure("tokens_per_second", "Training speed", caption, plot.svg(paper), (header, *numbers))


def _curve_numbers(drawn: Sequence[Curve]) -> tuple[tuple[str, ...], ...]:
    seeds = sorted({seed for curve in drawn for seed in curve.seeds})
    rows = [("arm", "tokens", "mean", *(f"seed_{seed}" for seed in seeds))]
    for curve in drawn:
        of_seed = dict(zip(curve.seeds, curve.values, strict=True))
        for i, tokens in enumerate(curve.tokens):
            values = [f"{of_seed[seed][i]:.6g}" if seed in of_seed else "" for seed in seeds]
            rows.append((curve.arm, f"{tokens:.0f}", f"{curve.values[:, i].mean():.6g}", *values))
    return tuple(rows)
