"""Figures of probes' results: word families by depth, and what typos change by category."""

import re
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib import figure, ticker

from kronecker.report import figures, plot
from kronecker.run import result

SHARES = ("loose", "root", "strict")
PAPER_ARMS = {"table": "table_tied", "Kronecker": "kronecker"}  # the paper's arm -> ours with the same colour
PANEL = (2.55, 2.5)  # inches


def draw(found: Sequence[result.Result]) -> list[figures.Figure]:
    by_name = {one.name: one for one in found}
    of_categories = [one for name, one in by_name.items() if name.startswith("robustness_categories")]
    with mpl.rc_context(plot.LOOK):
        drawn = [_layered(by_name["layered"])] if "layered" in by_name else []
        return drawn + [_robustness(one) for one in of_categories[:1]]


def _layered(one: result.Result) -> figures.Figure:
    column = {name: i for i, name in enumerate(one.columns)}
    arms = list(dict.fromkeys(row[0] for row in one.rows))
    spaces = list(dict.fromkeys(row[column["space"]] for row in one.rows))
    style = plot.styles([_arm(name) for name in arms])
    paper = figure.Figure((PANEL[0] * len(SHARES), PANEL[1] + 0.5))
    panels = paper.subplots(1, len(SHARES), sharex=True)
    for ax, share in zip(panels, SHARES, strict=True):
        for name in arms:
            colour, line = style[_arm(name)]
            values = [row[column[share]] for row in one.rows if row[0] == name]
            ax.plot(range(len(spaces)), values, color=colour, linestyle=line, marker="o", markersize=4, label=name)
        for published, arm in PAPER_ARMS.items():
            at = [
                (spaces.index(row[1]), row[column[share]])
                for row in one.paper
                if row[0] == published and row[1] in spaces
            ]
            colour = plot.STYLES[arm][0]
            ax.plot(*zip(*at, strict=True), "D", color=colour, markerfacecolor="none", label=f"the paper's {published}")
        ax.set_title(share, fontsize=10.5, loc="left")
        ax.set_xticks(range(len(spaces)), spaces)
        ax.margins(x=0.1)
    handles, labels = panels[0].get_legend_handles_labels()
    paper.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    paper.subplots_adjust(left=0.07, right=0.99, top=0.9, bottom=0.32, wspace=0.25)
    return figures.Figure(
        "families_by_depth",
        "Relatives among the ten nearest tokens, by depth",
        "Shares of neighbours, mean over all probe words: those that are not spellings of the word itself (loose), "
        "contain the family's root (root), are on the family's list (strict). Open diamonds: the paper's model, 12 "
        "layers and 2.5B training tokens.",
        plot.svg(paper),
        (tuple(one.columns), *(tuple(map(str, row)) for row in (*one.rows, *one.paper))),
        wide=True,
    )


def _robustness(one: result.Result) -> figures.Figure:
    metrics = list(dict.fromkeys(row[0] for row in one.rows))
    groups = list(dict.fromkeys(row[1] for row in one.rows))
    a, b = one.columns[3:5]
    colour = plot.styles([_arm(a), _arm(b)])[_arm(b)][0]
    left = plot.LETTER * max(map(len, groups)) + 0.3
    width, height = left + len(metrics) * 1.9 + 0.2, plot.GROUP_HEIGHT * len(groups) + 1.3
    paper = figure.Figure((width, height))
    panels = paper.subplots(1, len(metrics), sharey=True)
    for ax, metric in zip(panels, metrics, strict=True):
        for row in (row for row in one.rows if row[0] == metric):
            place, (difference, low, high) = groups.index(row[1]), row[5:8]
            ax.plot((low, high), (place, place), color=colour, linewidth=2, solid_capstyle="butt")
            ax.plot(difference, place, "o", color=colour, markersize=4.5)
        ax.axvline(0, color=plot.BLACK, linewidth=1)
        ax.set_title(metric.replace(", ", ",\n"), fontsize=9.5, loc="left")
        ax.set_yticks(range(len(groups)), groups)
        ax.set_ylim(len(groups) - 0.4, -0.6)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(3, prune="both"))
        ax.tick_params(axis="y", length=0)
    paper.supxlabel(f"{b} minus {a}", fontsize=10.5)
    paper.subplots_adjust(
        left=left / width, right=1 - 0.15 / width, top=1 - 0.55 / height, bottom=0.6 / height, wspace=0.12
    )
    return figures.Figure(
        "typos_by_category",
        "What a typo changes, by category of prompts",
        f"Dots: mean difference {b} minus {a} over the prompts of a category; bars: its 95 % bootstrap interval over "
        "prompts, which does not cover other seeds. A typo changes less where share and cosine are higher, and where "
        "KL and drop are lower.",
        plot.svg(paper),
        (tuple(one.columns), *(tuple(map(str, row)) for row in one.rows)),
        wide=True,
    )


def _arm(run: str) -> str:
    return re.sub(r"-seed\d+$", "", run)
