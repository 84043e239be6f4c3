"""Figures of the benchmarks, as SVG documents."""

import functools
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import axes, figure, lines, ticker

from kronecker.benchmark import settings, timing_tables
from kronecker.report import plot

MARKS = {"forward": ("o", plot.SKY), "gradient": ("s", plot.BLUE), "update": ("D", plot.VERMILION)}
LOWER_BOUND = "lower bound: inputs read once, outputs written once, at full memory bandwidth"
OFFSETS = (-0.24, 0.0, 0.24)  # of the measures within a row
COLUMNS = 2
PANEL_WIDTH, ROW_HEIGHT, NAME_WIDTH = 5.2, 0.42, 1.25  # inches
ABOVE, BELOW, MARGIN = 0.4, 0.6, 0.25  # inches, of a panel
HEAD = 0.75  # inches, above all panels


def encoder(result: Mapping[str, Any]) -> str:
    """Returns the figure of the encoder's benchmark: a panel per setting, a row per contender, times on a log axis."""
    all_settings = result["settings"]
    rows = [all_settings[i : i + COLUMNS] for i in range(0, len(all_settings), COLUMNS)]
    heights = [
        ABOVE + BELOW + ROW_HEIGHT * max(len(one["contenders"]) + len(one["refused"]) for one in row) for row in rows
    ]
    with mpl.rc_context(plot.LOOK):
        paper = figure.Figure((COLUMNS * PANEL_WIDTH, HEAD + sum(heights)))
        width, height = paper.get_size_inches()
        top = height - HEAD
        for row, panel_height in zip(rows, heights, strict=True):
            for column, setting in enumerate(row):
                n = len(setting["contenders"]) + len(setting["refused"])
                box = (column * PANEL_WIDTH + NAME_WIDTH, top - ABOVE - ROW_HEIGHT * n)
                size = (PANEL_WIDTH - NAME_WIDTH - MARGIN, ROW_HEIGHT * n)
                ax = paper.add_axes((box[0] / width, box[1] / height, size[0] / width, size[1] / height))
                _panel(ax, setting)
            top -= panel_height
        handle = functools.partial(lines.Line2D, [], [], linestyle="")
        labels = {measure: words.replace("\n", " ") for measure, words in timing_tables.MEASURES.items()}
        handles = [handle(color=colour, marker=mark, label=labels[name]) for name, (mark, colour) in MARKS.items()]
        handles.append(handle(color="#777777", marker="|", markersize=9, label=LOWER_BOUND))
        paper.legend(handles=handles, loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.0))
        return plot.svg(paper)


def steps(result: Mapping[str, Any]) -> str:
    """Returns the figure of the steps' benchmark: a row per arm, its time over the baseline's in each round."""
    arms = result["arms"]
    base = next(row for row in arms if row["name"] == result["baseline"])
    of_round = dict(zip(base["rounds"], base["seconds"], strict=True))
    style = plot.styles([row["name"] for row in arms])
    with mpl.rc_context(plot.LOOK):
        paper, ax = plot.rows([f"{row['name']}, {row['tokens_per_second']:,.0f} tokens/s" for row in arms], top=0.75)
        for i, row in enumerate(arms):
            colour = style[row["name"]][0]
            against = row["ratio"]
            taken = zip(row["rounds"], row["seconds"], strict=True)
            ratios = [own / of_round[number] for number, own in taken if number in of_round]
            if row is not base:
                ax.plot(ratios, [i + 0.24] * len(ratios), "o", color=colour, markersize=3, alpha=0.45, mew=0)
                ax.plot((against["low"], against["high"]), (i, i), color=colour, linewidth=2.4, solid_capstyle="butt")
            ax.plot(against["median"], i, "D", color=colour, markersize=6.5, gid=row["name"])
        ax.axvline(1, color=style[result["baseline"]][0], linewidth=1.2, zorder=0)
        ax.set_xlabel(f"time of a step / {result['baseline']}'s")
        legend = "dots: rounds; diamond and bar: their median and quartiles"
        ax.set_title(f"{timing_tables.step_title(result)}\n{legend}", fontsize=9, loc="right")
        return plot.svg(paper)


def training(result: Mapping[str, Any]) -> str:
    """Returns the figure of the trainer's benchmark: a panel per size, a bar per contender, tokens per second."""
    sizes = result["sizes"]
    with mpl.rc_context(plot.LOOK):
        most = max(len(one["contenders"]) for one in sizes)
        paper = figure.Figure((COLUMNS * PANEL_WIDTH, len(sizes) * (ROW_HEIGHT * most + ABOVE + BELOW)), layout="tight")
        for ax, one in zip(paper.subplots(len(sizes), 1, squeeze=False)[:, 0], sizes, strict=True):
            rows, tokens = one["contenders"], one["batch"] * one["sequence"]
            speeds = [row["tokens_per_second"] for row in rows]
            ends = [[tokens / row[end] for row in rows] for end in ("high", "low")]
            around = np.abs(np.subtract(ends, speeds))
            colours = [plot.BLUE if row["what"] == "ours" else plot.VERMILION for row in rows]
            ax.barh([row["name"] for row in rows], speeds, xerr=around, color=colours, ecolor="#333333", height=0.6)
            ax.invert_yaxis()
            ax.set_title(timing_tables.training_title(one), loc="left")
            ax.xaxis.set_major_formatter("{x:,.0f}")
            ax.set_xlabel("tokens per second: median, and 10 % to 90 % quantile over rounds")
        return plot.svg(paper)


def _panel(ax: axes.Axes, setting: Mapping[str, Any]) -> None:
    timed = {row["name"]: row["measures"] for row in setting["contenders"]}
    names = sorted([*timed, *setting["refused"]], key=settings.NAMES.index)
    labels = [f"{name} (auto)" if name == setting["auto"] else name for name in names]
    shown = []
    for name, measures in timed.items():
        for offset, (measure, (mark, colour)) in zip(OFFSETS, MARKS.items(), strict=True):
            one, y = measures[measure], names.index(name) + offset
            ends = [1e3 * one[end] for end in ("low", "high")]
            least = 1e3 * one["bandwidth_share"] * one["median_seconds"]
            ax.plot(ends, (y, y), color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(1e3 * one["median_seconds"], y, mark, color=colour, markersize=5.5, mec="white", mew=0.6)
            ax.plot(least, y, "|", color=colour, markersize=6)
            shown += [*ends, least]
    for i, name in enumerate(names):
        if name in setting["refused"]:
            why = timing_tables.left_out(name)
            ax.annotate(why, (0.5, i), xycoords=("axes fraction", "data"), va="center", color="#777777")
    ax.set_xscale("log")
    ax.set_xlim(min(shown) / 1.5, max(shown) * 1.5)
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ax.set_yticks(range(len(names)), labels)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("time, ms: median, and 10 % to 90 % quantile")
    ax.set_title(
        timing_tables.title(setting),
        fontsize=9.5,
        loc="left",
        x=-0.9 * NAME_WIDTH / (PANEL_WIDTH - NAME_WIDTH - MARGIN),
    )
