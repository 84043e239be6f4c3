"""How figures are drawn: one colour and line style an arm, labels at line ends, and a style fit for print."""

import io
import itertools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import axes, axis, colors, figure, text, ticker

from kronecker.schema import arms

# Okabe and Ito's palette, distinct for the colour-blind, without its yellow, which is lost on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
BLUE, VERMILION, PURPLE = "#0072b2", "#d55e00", "#cc79a7"
COLOURS = {"black": BLACK, "blue": BLUE, "vermilion": VERMILION, "green": GREEN, "purple": PURPLE}
COLOURS |= {"orange": ORANGE, "sky": SKY}
DASHES = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1.2, 1.5)), "dashdot": (0, (6, 1.5, 1.2, 1.5))}
STYLES = {name: (COLOURS[arm.colour], DASHES[arm.dash]) for name, arm in arms.ARMS.items()}
# For arms that are not named there.
MORE_STYLES = tuple((colour, dash) for dash in DASHES.values() for colour in COLOURS.values() if colour != BLACK)

WIDTH, HEIGHT, ROW_HEIGHT = 5.8, 3.7, 0.45  # inches
LEAST_WIDTH = 2.6  # inches, of axes beside long names
PANEL_WIDTH, GROUP_HEIGHT, PANELS_WIDTH = 1.95, 0.24, 9.75  # inches, of figures with a panel an arm
LETTER = 0.088  # inches, the mean width of a letter
LABEL_GAP = 0.07  # of the axes' height, between two labels
FAR, LEAST_KEPT = 2, 4  # see `beyond`
LABEL_PAD = 4  # pixels around the label of a tick
MOST_TICKS = 5  # of a horizontal axis, where their labels do not collide
LOOK = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a name may hold a dollar sign
    "grid.color": "#e3e3e3",
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "kronecker",  # equal runs give an equal page
}


def styles(names: Sequence[str]) -> dict[str, tuple[str, object]]:
    """Returns the (colour, line style) of each arm; up to two dozen are all different.

    A version of an arm (its name and its settings) has the arm's colour if a line style of that colour is free.
    """
    given = {name: STYLES[name] for name in names if name in STYLES}
    for name in names:
        if name not in given:
            own = STYLES.get(name.partition(" ")[0])
            of_arm = [own, *((own[0], dash) for dash in DASHES.values())] if own else []
            given[name] = next((style for style in (*of_arm, *MORE_STYLES) if style not in given.values()), None)
    free = itertools.cycle(MORE_STYLES)
    return {name: given[name] or next(free) for name in names}


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Returns the positions nearest to `wanted` (least squares) that keep its order and stand `gap` apart.

    All lie in [0, 1] if they fit, else they begin at 0.
    """
    from scipy import optimize  # slow to import

    order, apart = np.argsort(wanted, kind="stable"), gap * np.arange(len(wanted))
    shifts = optimize.isotonic_regression(np.asarray(wanted)[order] - apart).x  # those that would overlap share one
    placed = np.empty(len(wanted))
    placed[order] = np.clip(shifts, 0, max(0, 1 - apart[-1])) + apart
    return placed.tolist()


def beyond(ranges: Mapping[str, tuple[float, float]], baseline: str) -> dict[str, tuple[float, float]]:
    """Returns the arms that an axis leaves out, with their ranges.

    `ranges` is arm -> lowest and highest value.  An arm is left out if it extends beyond the range of the other arms by
    more than FAR times the length of that range.  The baseline and at least LEAST_KEPT arms stay.
    """
    middle = statistics.median(sum(ends) / 2 for ends in ranges.values())
    farthest = sorted(ranges, key=lambda name: -max(abs(end - middle) for end in ranges[name]))
    for count in range(1, len(farthest) - LEAST_KEPT + 1):
        kept = [ranges[name] for name in farthest[count:]]
        low, high = min(ends[0] for ends in kept), max(ends[1] for ends in kept)
        left_out = {name: ranges[name] for name in farthest[:count]}
        over = [max(low - ends[0], ends[1] - high) for ends in left_out.values()]
        if min(over) > FAR * (high - low) > 0 and baseline not in left_out:
            return left_out
    return {}


def told_beyond(left_out: Mapping[str, tuple[float, float]]) -> str:
    """Returns the sentence of a caption on the arms that an axis leaves out; empty if there are none."""
    told = [f"{name} ({_number(low)} to {_number(high)})" for name, (low, high) in left_out.items()]
    return f" The axis does not show all values of {', '.join(told)}." if told else ""


def point_beyond(ax: axes.Axes, value: float, row: int, colour: str, name: str) -> None:
    """Writes a value outside the horizontal axis, which contains zero, at the end of its row, with an arrow."""
    right = value > 0
    text, align = (f"{_number(value)} →", "right") if right else (f"← {_number(value)}", "left")
    at = {"xycoords": ("axes fraction", "data"), "horizontalalignment": align, "verticalalignment": "center"}
    ax.annotate(text, (float(right), row), **at, color=ink(colour), gid=name)


def end_label(name: str, value: float, limits: tuple[float, float]) -> str:
    """Returns a line's name; with an arrow and its last value where that lies outside the axis."""
    low, high = limits
    if low <= value <= high:
        return name
    return f"{name} {'↑' if value > high else '↓'} {_number(value)}"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def label_ends(ax: axes.Axes, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Writes each line's name to the right of the axes, level with its last value where there is room.

    The limits of `ax` are final; `ends` are last values by name, `colours` those of the lines.
    """
    low, high = ax.get_ylim()
    seen = {name: min(max(value, low), high) for name, value in ends.items()}
    wanted = [(value - low) / (high - low) for value in seen.values()]
    for (name, value), place in zip(seen.items(), spread(wanted, LABEL_GAP), strict=True):
        line = {"arrowstyle": "-", "color": colours[name], "linewidth": 0.8}
        ax.annotate(
            end_label(name, ends[name], (low, high)),
            xy=(1, value),
            xycoords=("axes fraction", "data"),
            xytext=(1.07, place),
            textcoords="axes fraction",
            color=ink(colours[name]),
            verticalalignment="center",
            annotation_clip=False,
            arrowprops=line | {"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 4},
        )


def ink(colour: str) -> tuple[float, float, float]:
    """Returns a shade of `colour` that is dark enough for text on white."""
    red, green, blue = (0.7 * channel for channel in colors.to_rgb(colour))
    return red, green, blue


def sheet(height: float, left: float, right: float, top: float = 0.12) -> tuple[figure.Figure, axes.Axes]:
    """Returns an empty figure and its axes; all sizes in inches, `left` to `top` the margins.

    It is WIDTH wide, or wider where long names in the margins would leave the axes less than LEAST_WIDTH.
    """
    bottom = 0.6
    width = max(WIDTH, left + LEAST_WIDTH + right)
    paper = figure.Figure((width, height))
    inner = width - left - right
    return paper, paper.add_axes((left / width, bottom / height, inner / width, (height - bottom - top) / height))


def rows(names: Sequence[str], top: float = 0.12) -> tuple[figure.Figure, axes.Axes]:
    """Returns an empty figure and its axes with one row a name, the first at the top; row i is centred on y = i."""
    left = LETTER * max(map(len, names)) + 0.3
    paper, ax = sheet(ROW_HEIGHT * len(names) + 0.6 + top, left, right=0.25, top=top)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return paper, ax


def panels(names: Sequence[str], groups: Sequence[str]) -> tuple[figure.Figure, list[axes.Axes]]:
    """Returns an empty figure with a panel for each name; groups are rows, and panels share the horizontal axis.

    The first group is at the top; row i is centred on y = i.
    """
    left, right, top, bottom, gap = LETTER * max(map(len, groups)) + 0.45, 0.25, 0.35, 0.6, 0.55
    panel_width = max(PANEL_WIDTH, LETTER * max(map(len, names)) + 0.1)  # room for its title
    across = min(len(names), max(1, int(PANELS_WIDTH / panel_width)))
    deep = -(-len(names) // across)
    panel_height = GROUP_HEIGHT * len(groups) + 0.1
    width = left + across * panel_width + right
    height = top + deep * panel_height + (deep - 1) * gap + bottom
    paper = figure.Figure((width, height))
    grid = paper.subplots(deep, across, sharex=True, sharey=True, squeeze=False)
    paper.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=0.08, hspace=gap / panel_height
    )
    drawn = grid.ravel()[: len(names)]
    for unused in grid.ravel()[len(names) :]:
        unused.remove()
    for ax, name in zip(drawn, names, strict=True):
        ax.set_title(name, fontsize=10.5, loc="left")
        ax.set_yticks(range(len(groups)), groups)
        ax.set_ylim(len(groups) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelbottom=True)
    return paper, list(drawn)


def svg(paper: figure.Figure) -> str:
    """Returns the figure as an SVG document; equal figures give equal text."""
    _thin_ticks(paper)
    drawn = io.StringIO()
    paper.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()


def _thin_ticks(paper: figure.Figure) -> None:
    """Reduces the ticks of the horizontal axes to MOST_TICKS, or to fewer where their labels overlap.

    Ticks at given values stay; a label that overlaps an earlier one is hidden.
    """
    free = [ax.xaxis for ax in paper.axes if isinstance(ax.xaxis.get_major_locator(), ticker.MaxNLocator)]
    for ticks in range(MOST_TICKS, 0, -1):
        for one in free:
            one.set_major_locator(ticker.MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        if not _colliding(paper, free):
            break
    for label in _colliding(paper, [ax.xaxis for ax in paper.axes if ax.xaxis not in free]):
        label.set_visible(False)


def _colliding(paper: figure.Figure, of: Sequence[axis.XAxis]) -> list[text.Text]:
    """Returns the labels of ticks that overlap an earlier label that stays."""
    paper.draw_without_rendering()
    kept, colliding = [], []
    for label in (label for one in of for label in one.get_ticklabels() if label.get_text()):
        box = label.get_window_extent().padded(LABEL_PAD)
        if any(map(box.overlaps, kept)):
            colliding.append(label)
        else:
            kept.append(box)
    return colliding
