"""Figures of breakdowns: one panel an arm, one row a group, all panels on one scale."""

from collections.abc import Sequence

import matplotlib as mpl

from kronecker.report import breakdown, compare, figures, plot

CAPTION = (
    " Dots: paired difference to {baseline}, mean over seeds; bars: its 95 % t interval in each group. Left of the "
    "line the arm is ahead. Groups of fewer than {least} held-out tokens are left out."
)


@mpl.rc_context(plot.LOOK)
def draw(comparison: compare.Comparison, breakdowns: Sequence[breakdown.Breakdown]) -> list[figures.Figure]:
    return [_draw(comparison, made) for made in breakdowns]


def _draw(comparison: compare.Comparison, made: breakdown.Breakdown) -> figures.Figure:
    style = plot.styles([arm.name for arm in comparison.arms])
    baseline = comparison.baseline.name
    paper, panels = plot.panels(list(made.differences), made.groups)
    ranges = {baseline: (0.0, 0.0)}
    for arm, differences in made.differences.items():
        lows, highs = zip(*(one.interval or (one.mean, one.mean) for one in differences), strict=True)
        ranges[arm] = min(lows), max(highs)
    left_out = plot.beyond(ranges, baseline)
    low, high = figures.limits([ends for arm, ends in ranges.items() if arm not in left_out])
    panels[0].set_xlim(low, high)
    for ax, (arm, differences) in zip(panels, made.differences.items(), strict=True):
        ax.axvline(0, color=style[baseline][0], linewidth=1)
        colour = style[arm][0]
        for row, difference in enumerate(differences):
            if difference.interval:
                ax.plot(difference.interval, (row, row), color=colour, linewidth=2, solid_capstyle="butt")
            at = min(max(difference.mean, low), high)
            mark = "o" if at == difference.mean else ">" if at == high else "<"
            gid = f"{arm} {made.groups[row]}"
            ax.plot(at, row, mark, color=colour, markersize=4.5, clip_on=False, zorder=3, gid=gid)
    panels[0].set_ylabel(made.axis)
    paper.supxlabel(f"loss minus {baseline}'s (nats/token)", fontsize=10.5)
    caption = (
        made.caption + CAPTION.format(baseline=baseline, least=breakdown.LEAST_TOKENS) + plot.told_beyond(left_out)
    )
    caption += " Triangles: dots outside the axis." if left_out else ""
    return figures.Figure(made.name, made.title, caption, plot.svg(paper), _numbers(made), wide=True)


def _numbers(made: breakdown.Breakdown) -> tuple[tuple[str, ...], ...]:
    seeds = next(iter(made.differences.values()))[0].seeds
    header = ("arm", "group", "ids", "tokens", "baseline_loss", "difference", "interval_low", "interval_high")
    rows = [(*header, "verdict", *(f"seed_{seed}" for seed in seeds))]
    for arm, differences in made.differences.items():
        of_groups = zip(made.groups, made.ids, made.tokens, made.baseline, differences, strict=True)
        for group, ids, tokens, loss, difference in of_groups:
            ends = tuple(f"{end:.6g}" for end in difference.interval or ()) or ("", "")
            of_seed = (f"{value:.6g}" for value in difference.values)
            numbers = (f"{loss:.6g}", f"{difference.mean:.6g}", *ends, difference.verdict, *of_seed)
            rows.append((arm, group, str(ids), str(tokens), *numbers))
    return tuple(rows)
