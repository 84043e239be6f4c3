"""Figures of breakdowns: one panel an arm, one row a group, all panels on one scale."""

from collections.abc import Sequence

import matplotlib as mpl

from kronecker.report import breakdown, compare, figures, plot

CAPTION = (
    " Dots: paired difference to {baseline}, mean over seeds; bars: its 95 % t interval, of each group on its own. "
    "Left of the line the arm is ahead. Groups of fewer than {least} held-out tokens are left out."
)


def draw(comparison: compare.Comparison, breakdowns: Sequence[breakdown.Breakdown]) -> list[figures.Figure]:
    with mpl.rc_context(plot.LOOK):
        return [_draw(comparison, made) for made in breakdowns]


def _draw(comparison: compare.Comparison, made: breakdown.Breakdown) -> figures.Figure:
    style = plot.styles([arm.name for arm in comparison.arms])
    baseline = comparison.baseline.name
    paper, panels = plot.panels(list(made.differences), made.groups)
    for ax, (arm, differences) in zip(panels, made.differences.items(), strict=True):
        ax.axvline(0, color=style[baseline][0], linewidth=1)
        colour = style[arm][0]
        for row, difference in enumerate(differences):
            if difference.interval:
                ax.plot(difference.interval, (row, row), color=colour, linewidth=2, solid_capstyle="butt")
            ax.plot(difference.mean, row, "o", color=colour, markersize=4.5, gid=f"{arm} {made.groups[row]}")
    panels[0].set_ylabel(made.axis)
    paper.supxlabel(f"loss minus {baseline}'s (nats/token)", fontsize=10.5)
    return figures.Figure(
        made.name,
        made.title,
        made.caption + CAPTION.format(baseline=baseline, least=breakdown.LEAST_TOKENS),
        plot.svg(paper),
        _numbers(made),
        wide=True,
    )


def _numbers(made: breakdown.Breakdown) -> tuple[tuple[str, ...], ...]:
    seeds = next(iter(made.differences.values()))[0].seeds
    header = ("arm", "group", "tokens", "baseline_loss", "difference", "interval_low", "interval_high", "verdict")
    rows = [(*header, *(f"seed_{seed}" for seed in seeds))]
    for arm, differences in made.differences.items():
        for group, tokens, loss, difference in zip(made.groups, made.tokens, made.baseline, differences, strict=True):
            ends = tuple(f"{end:.6g}" for end in difference.interval or ()) or ("", "")
            of_seed = (f"{value:.6g}" for value in difference.values)
            numbers = (f"{loss:.6g}", f"{difference.mean:.6g}", *ends, difference.verdict, *of_seed)
            rows.append((arm, group, str(tokens), *numbers))
    return tuple(rows)
