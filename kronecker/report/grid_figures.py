"""The figures of a sweep: the training loss of each arm over each value that was tuned."""

import collections
import math

import matplotlib as mpl
from matplotlib import ticker

from kronecker.report import figures, grid, plot
from kronecker.run import finished_runs

LOGARITHMIC = 3.0  # an axis whose highest value is so many times its lowest


@mpl.rc_context(plot.LOOK)
def draw(best: grid.Best) -> list[figures.Figure]:
    """Returns a figure for each tuned number, and one of the input's rate where its multiplier was tuned too."""
    keys = [*best.keys, *([grid.INPUT_STEP] if {grid.RATE, grid.MULTIPLIER} <= set(best.keys) else [])]
    return [_draw(best, key) for key in keys if _is_drawn(best, key)]


def _is_drawn(best: grid.Best, key: str) -> bool:
    """Returns whether an arm has several values of a key that are numbers."""
    tried = [best.tried(version.arm, key) for version in best.versions]
    return any(len(values) > 1 for values in tried) and all(grid.is_number(value) for one in tried for value in one)


def _draw(best: grid.Best, key: str) -> figures.Figure:
    style = plot.styles([arm.name for arm in best.comparison.arms])
    seeds = best.tuning_seeds
    losses = [
        (one.arm, float(one.place(key)), one.train_loss(seeds), one is best.chosen.get(one.arm))
        for one in best.versions
    ]
    finished = [point for point in losses if math.isfinite(point[2])]
    lowest: dict[str, dict[float, float]] = collections.defaultdict(dict)
    for arm, value, loss, _ in finished:
        lowest[arm][value] = min(loss, lowest[arm].get(value, loss))
    lines = {arm: sorted(of_arm.items()) for arm, of_arm in lowest.items()}
    ends = {arm: line[-1][1] for arm, line in lines.items()}
    longest = max(map(len, lines))
    paper, ax = plot.sheet(plot.HEIGHT, left=0.85, right=plot.LETTER * longest + 0.35)
    for arm, line in lines.items():
        colour, dash = style[arm]
        ax.plot(*zip(*line, strict=True), "o", color=colour, linestyle=dash, markersize=3.5, gid=arm)
    diverged = [(arm, value) for arm, value, loss, _ in losses if not math.isfinite(loss)]
    for place, (arm, value) in enumerate(diverged):
        colour = style[arm][0] if arm in lines else "black"
        height = 0.97 - 0.06 * sum(at == value for _, at in diverged[:place])  # so that none hides another
        ax.plot(
            value, height, "x", color=colour, markersize=7, transform=ax.get_xaxis_transform(), gid=f"{arm} diverged"
        )
    for arm, value, loss, is_chosen in finished:
        mark = {"marker": "D", "markersize": 8} if is_chosen else {"marker": "o", "markersize": 3.5, "alpha": 0.35}
        ax.plot(value, loss, color=style[arm][0], linestyle="none", **mark)
    values = sorted({value for _, value, *_ in losses})
    if values[0] > 0 and values[-1] >= LOGARITHMIC * values[0]:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_ylim(figures.limits([(loss, loss) for *_, loss, _ in finished]))
    ax.set_xlabel(key)
    ax.set_ylabel("training loss at the end (nats/token)")
    plot.label_ends(ax, ends, {arm: style[arm][0] for arm in lines})
    others = " A line joins the lowest loss at each value, over the other tuned keys; faint points are the rest."
    caption = (
        f"Mean over the last {100 * finished_runs.AT_END:.0f} % of the steps and over the tuning seeds. A diamond is "
        "the value that the comparison takes; if it ends its line, a better one may lie beyond."
        + (others if best.keys[1:] else "")
    )
    if diverged:
        caption += " A cross at the upper edge is a value at which a run diverged, so it has no loss."
    numbers = [
        (arm, f"{value:g}", f"{loss:.6g}" if math.isfinite(loss) else "diverged", "yes" if is_chosen else "")
        for arm, value, loss, is_chosen in losses
    ]
    return figures.Figure(
        f"training_loss_over_{'input_step' if key == grid.INPUT_STEP else key}",
        f"Training loss over {key}",
        caption,
        plot.svg(paper),
        (("arm", key, "training_loss", "chosen"), *numbers),
    )
