"""The report: one page that needs nothing else, and a folder of CSV files with the numbers of its figures."""

import collections
import dataclasses
import html
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from kronecker.report import (
    breakdown,
    breakdown_figures,
    collisions,
    compare,
    figures,
    intervals,
    losses_by_token,
    pages,
    tables,
)
from kronecker.run import finished_runs, measured_on


@dataclasses.dataclass(frozen=True)
class Sections:
    """What a page shows beside its tables.

    Attributes:
      curves: figures of whole runs.
      breakdowns: figures of losses by token; None without token losses.
      damages: what collisions cost; empty without token losses.
      speed: the figure that goes with the costs.
    """

    curves: Sequence[figures.Figure]
    breakdowns: Sequence[figures.Figure] | None
    damages: Sequence[collisions.Damage]
    speed: figures.Figure


def write(comparison: compare.Comparison, page: Path, title: str) -> None:
    """Writes the page, and each figure as SVG with its numbers as CSV into a folder of the page's name beside it.

    The page is written last and by rename: a page that stands has all its numbers.

    Raises:
      ValueError: if `page` does not end in .html, or token losses are of another checkpoint than the results.
    """
    pages.require_name(page)
    losses = losses_by_token.read_all(comparison)
    numbers = pages.folder_of(page)
    sections = Sections(
        curves=figures.draw(comparison),
        breakdowns=breakdown_figures.draw(comparison, breakdown.break_down(comparison, losses)) if losses else None,
        damages=collisions.damage(comparison, losses),
        speed=figures.draw_speed(comparison),
    )
    pages.write_figures(numbers, (*sections.curves, *(sections.breakdowns or ()), sections.speed))
    pages.write_text(page, render(comparison, sections, title, numbers.name))


def render(comparison: compare.Comparison, sections: Sections, title: str, numbers: str) -> str:
    """Returns the page.

    Args:
      comparison: what to report.
      sections: its figures and what token losses say.
      title: of the page.
      numbers: where the CSV files are, relative to the page.
    """
    body = f"""{pages.table(tables.verdicts(comparison))}
{pages.bullets(tables.sentences(comparison))}
<div class="columns">
<section>
<h2>How to read this</h2>
{_how_to_read(comparison)}
</section>
<section>
<h2>What cannot be concluded</h2>
{pages.bullets(_limits(comparison))}
</section>
</div>
<h2>Training</h2>
<div class="columns">
{"".join(pages.figure(drawing, numbers) for drawing in sections.curves)}</div>
{_reaches(comparison)}
{_by_token(comparison, sections, numbers)}
<h2>Costs</h2>
{pages.table(tables.costs(comparison))}
{pages.figure(sections.speed, numbers)}
<h2>Conditions</h2>
{_conditions(comparison)}
{pages.table(tables.settings(comparison)) if comparison.others else ""}
<h2>Commands</h2>
<pre>{html.escape(_commands(comparison))}</pre>"""
    return pages.document(title, body)


def _reaches(comparison: compare.Comparison) -> str:
    told = tables.reaches(comparison)
    if not told.rows:
        return ""
    return f"""<h3>Who got there sooner</h3>
{pages.table(told)}
<p>Tokens and steps that the better run of a pair, the arm's where it is ahead, had seen when its validation loss fell
below the other's final loss for good; the factor is explained above.</p>"""


def _by_token(comparison: compare.Comparison, sections: Sections, numbers: str) -> str:
    if not comparison.others:
        return ""
    if sections.breakdowns is None:
        folders = dict.fromkeys(str(run.folder.parent) for run in comparison.runs)
        return f"""<h2>By token</h2>
<p>Losses by frequency, length and script of a token need every held-out token's loss:
<code>python scripts/token_losses.py {html.escape(shlex.join(folders))}</code>, then this report again.</p>"""
    if not sections.breakdowns:
        return f"""<h2>By token</h2>
<p>The held-out text is too short: no two groups of its tokens hold {breakdown.LEAST_TOKENS} each.</p>"""
    drawn = "".join(pages.figure(drawing, numbers) for drawing in sections.breakdowns)
    evaluated = comparison.baseline.runs[0].config["eval.sequences"]
    first = f", the verdicts above on the first {evaluated:,} sequences of it" if evaluated else ""
    return f"""<h2>By token</h2>
<p>On the whole held-out text{first}, by the model at the end of each run. With this many groups some
intervals exclude zero by chance: one in twenty does where there is nothing to see.</p>
<div class="wide">
{drawn}</div>
{_collisions(comparison, sections.damages)}"""


def _collisions(comparison: compare.Comparison, damages: Sequence[collisions.Damage]) -> str:
    if not damages:
        return ""
    return f"""<h3>What colliding codes cost</h3>
{pages.table(tables.collision_costs(damages))}
<p>Ids whose codes are equal look the same to the model. Damage: how much more an arm loses to
{html.escape(comparison.baseline.name)} on the token after such an input than after inputs with a code of their own,
matched by length in bytes, script, frequency in the training text (powers of two) and whether they begin with a space.
Over all tokens: damage times the share of such inputs, those without a match taken to be like the others; later
tokens, which read the input too, are not in it. The interval is over seeds, which share their ids. The placebo is what
95 % of such estimates stay below after the label was dealt out at random among the ids of a stratum: a damage within
it may be a quirk of the ids, and is not resolved.</p>"""


def _how_to_read(comparison: compare.Comparison) -> str:
    baseline = html.escape(comparison.baseline.name)
    return f"""<p>Every arm was trained with the same tokenizer, body, initial body, data, order of the data and
schedule; only the input embedding differs, and in tied arms the head. So the two runs of one seed share most of their
luck, and the paired difference (an arm's final validation loss minus that of {baseline} with the same seed) is free of
what they share. It is in nats per token: below zero, the arm is better; −0.01 means that it gives the true next token
1 % more probability, on geometric average.</p>
<p>With two seeds or more, ± is half the 95 % t interval of the mean difference. An interval that lies wholly below zero
reads <em>better</em>, wholly above zero <em>worse</em>; anything else is <em>not resolved</em>, which does not mean
equal. Resolvable is the true difference that as many seeds with this spread would resolve four times in five. Bits per
byte divide the same loss by the bytes of the text, and so compare across tokenizers.</p>
<p>Sooner × says how many times fewer steps the arm needs for {baseline}'s final loss; below 1 it needs more: there
{baseline} reaches the arm's final loss in that share of its own steps. The schedule was made for the whole length, so
a run planned to be that short would end lower; the paper's factor, 1.43, was read off in this way too.</p>"""


def _limits(comparison: compare.Comparison) -> list[str]:
    first = comparison.baseline.runs[0]
    multipliers = {run.config["embedding.lr_mult"] for run in comparison.runs}
    rates = sorted({run.config["train.lr"] for run in comparison.runs})
    shared = f"all share one peak learning rate, {rates[0]:g}, "
    several = f"peak learning rates are {', '.join(f'{rate:g}' for rate in rates)} and no others, "
    told = [
        f"Nothing about larger models, longer training or other text: this is {measured_on.model(first.config)}, "
        f"{tables.count(first.result['tokens'])} training tokens of {first.config['data.source']}.",
        f"Nothing about each arm at its best: {several if len(rates) > 1 else shared}"
        + ("times a multiplier for the input; " if len(multipliers) > 1 else "")
        + "which may suit one arm better than another.",
    ]
    resolved = [arm for arm in comparison.others if arm.difference.verdict != intervals.NOT_RESOLVED]
    if len(resolved) > 1:
        told.append("Not that all verdicts hold at once: each 95 % interval misses one time in twenty on its own.")
    totals = {run.params["total"] for run in comparison.runs}
    if len(totals) > 1:
        told.append(
            "Not which part of a difference is due to parameter counts: the arms' totals differ, see the table."
        )
    return told


def _conditions(comparison: compare.Comparison) -> str:
    first = comparison.baseline.runs[0]
    c, result = first.config, first.result
    data, tokenizer = result["data_fingerprint"][:12], result["tokenizer_fingerprint"][:12]
    batch = f"{c['train.batch']} × {c['train.sequence']} tokens"
    rates = _each(f"{run.config['train.lr']:g}" for run in comparison.runs)
    facts = {
        "Model": f"{measured_on.model(first.config)}; {c['model.dtype']}",
        "Data": f"{c['data.source']}; fingerprint {data}",
        "Tokenizer": f"{c['tokenizer']}, {c['model.vocab_size']:,} ids; fingerprint {tokenizer}",
        "Training": f"{tables.count(result['tokens'])} tokens: {result['step']:,} steps of {batch}",
        "Learning rate": f"{rates} at its peak, {c['train.warmup_steps']:,} steps of warm-up, then a cosine",
        "Seeds": _each(", ".join(str(run.seed) for run in arm.runs) for arm in comparison.arms),
        "Device": _each(_devices(run) for run in comparison.runs),
        "Versions": _each(_versions(run) for run in comparison.runs),
        "Commit": _each(run.env["commit"] or "not in a git checkout" for run in comparison.runs),
        "Started": _each(run.env["started"][:10] for run in comparison.runs) + " (UTC)",
    }
    return pages.facts(facts)


def _devices(run: finished_runs.Run) -> str:
    counts = collections.Counter(run.env["devices"])
    return f"{run.env['platform']}: {', '.join(f'{n} × {kind}' for kind, n in counts.items())}"


def _versions(run: finished_runs.Run) -> str:
    return ", ".join([f"Python {run.env['python']}", *(f"{name} {v}" for name, v in run.env["versions"].items())])


def _each(texts: Iterable[str]) -> str:
    """Returns the different texts; conditions that differ between runs should stand out."""
    return " | ".join(dict.fromkeys(texts))


def _commands(comparison: compare.Comparison) -> str:
    return "\n".join(f"python {shlex.join(run.env['command'])}" for run in comparison.runs)
