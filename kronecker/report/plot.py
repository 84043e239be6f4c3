"""How the report draws: one colour and line style an arm, labels at line ends, and a look that prints."""

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import axes, colors, figure, ticker

from kronecker.schema import arms

# Okabe and Ito's palette, distinct for the colour-blind, without its yellow, which is lost on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
BLUE, VERMILION, PURPLE = "#0072b2", "#d55e00", "#cc79a7"
COLOURS = {
    "black": BLACK,
    "blue": BLUE,
    "vermilion": VERMILION,
    "green": GREEN,
    "purple": PURPLE,
    "orange": ORANGE,
    "sky": SKY,
}
DASHES = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1.2, 1.5)), "dashdot": (0, (6, 1.5, 1.2, 1.5))}
STYLES = {name: (COLOURS[arm.colour], DASHES[arm.dash]) for name, arm in arms.ARMS.items()}
# For arms that are not named there.
MORE_STYLES = tuple((colour, dash) for dash in DASHES.values() for colour in COLOURS.values() if colour != BLACK)

WIDTH, HEIGHT, ROW_HEIGHT = 5.8, 3.7, 0.45  # inches
LEAST_WIDTH = 2.6  # inches, of axes beside long names
PANEL_WIDTH, GROUP_HEIGHT, PANELS_WIDTH = 1.95, 0.24, 9.75  # inches, of figures with a panel an arm
LETTER = 0.088  # inches, the mean width of a letter
LABEL_GAP = 0.07  # of the axes' height, between two labels
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
    """Returns the (colour, line style) of each arm; no two of up to two dozen look alike.

    A version of an arm, whose name goes on with its settings, has the arm's colour where a line style of it is free.
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

    All lie in [0, 1] if that has room for them, else they begin at 0.
    """
    highest = max(0.0, 1 - gap * (len(wanted) - 1))
    order = np.argsort(wanted, kind="stable")
    blocks: list[list[float]] = []  # neighbours that touch share one shift, the mean of what each would like
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    shifts = [float(np.mean(block)) for block in blocks for _ in block]
    placed = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        placed[index] = min(max(shifts[rank], 0.0), highest) + rank * gap
    return placed


def label_ends(ax: axes.Axes, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Writes each line's name to the right of the axes, level with its last value where there is room.

    The limits of `ax` are final; `ends` are last values by name, `colours` those of the lines.
    """
    low, high = ax.get_ylim()
    wanted = [(value - low) / (high - low) for value in ends.values()]
    for (name, value), place in zip(ends.items(), spread(wanted, LABEL_GAP), strict=True):
        ax.annotate(
            name,
            xy=(1, value),
            xycoords=("axes fraction", "data"),
            xytext=(1.07, place),
            textcoords="axes fraction",
            color=ink(colours[name]),
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colours[name],
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 4,
            },
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
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return paper, ax


def panels(names: Sequence[str], groups: Sequence[str]) -> tuple[figure.Figure, list[axes.Axes]]:
    """Returns an empty figure with one panel a name, its title: the groups as rows, the horizontal axis shared.

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
        ax.xaxis.set_major_locator(ticker.MaxNLocator(3))
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelbottom=True)
    return paper, list(drawn)


def svg(paper: figure.Figure) -> str:
    """Returns the figure as an SVG document; equal figures give equal text."""
    text = io.StringIO()
    paper.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
