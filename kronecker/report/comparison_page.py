"""The report: one self-contained page, and a folder of CSV files with the numbers of its figures."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kronecker.report import (
    breakdown,
    breakdown_figures,
    collisions,
    compare,
    figures,
    grid,
    grid_figures,
    inputs,
    intervals,
    losses_by_token,
    other_texts,
    pages,
    surroundings,
    tables,
)
from kronecker.run import measured_on
from kronecker.runtime import storage
from kronecker.schema import arms


def write(
    comparison: compare.Comparison,
    page: Path,
    title: str,
    best: grid.Best | None = None,
    tuning_seeds: Sequence[int] = (),
) -> None:
    """Writes the page, and each figure as SVG with its numbers as CSV into a folder of the page's name beside it.

    The page is written last and by rename, so a page that exists has all its numbers.  Raises ValueError if `page` does
    not end in .html, or token losses are of another checkpoint than the results.  `best` adds a section, and a page of
    its own in that folder.  `tuning_seeds` are given if the comparison is that of each arm at its best.
    """
    pages.require_name(page)
    losses = losses_by_token.read_all(comparison)
    numbers = pages.folder_of(page)
    curves, speed = figures.draw(comparison), figures.draw_speed(comparison)
    breakdowns = breakdown_figures.draw(comparison, breakdown.break_down(comparison, losses)) if losses else None
    pages.write_figures(numbers, (*curves, *(breakdowns or ()), speed))
    made = pages.render(
        "comparison.html",
        title=title,
        numbers=numbers.name,
        best=best and best_section(best, numbers, title),
        baseline=comparison.baseline.name,
        alone=not comparison.others,
        own_rates=len({run.config["train.lr"] for run in comparison.runs}) > 1,
        verdicts=tables.verdicts(comparison),
        notes=tables.notes(comparison),
        sentences=tables.sentences(comparison),
        arms=_arms(comparison),
        limits=_limits(comparison, tuning_seeds),
        curves=curves,
        reaches=tables.reaches(comparison),
        breakdowns=breakdowns,
        folders=shlex.join(dict.fromkeys(str(run.folder.parent) for run in comparison.runs)),
        least_tokens=breakdown.LEAST_TOKENS,
        over_all=comparison.text.documents is not None,
        on_other_texts=tables.on_other_texts(comparison),
        not_on_other_texts=other_texts.lacking(comparison),
        collisions=tables.collision_costs(collisions.damage(comparison, losses)),
        costs=tables.costs(comparison),
        inputs=inputs.table(comparison),
        speed=speed,
        conditions=_conditions(comparison),
        settings=tables.settings(comparison),
        commands="\n".join(f"python {shlex.join(run.env['command'])}" for run in comparison.runs),
    )
    storage.write_text(page, made)


def best_section(best: grid.Best, folder: Path, title: str) -> dict[str, Any]:
    """Returns what best.html shows of each arm at its best; writes its page and figures into `folder`."""
    drawn = grid_figures.draw(best)
    pages.write_figures(folder, drawn)
    write(best.comparison, folder / "best.html", f"{title}: each arm at its best", tuning_seeds=best.tuning_seeds)
    return {
        "choices": tables.choices(best),
        "told": tables.choice_sentences(best),
        "verdicts": tables.verdicts(best.comparison),
        "sentences": [*tables.sentences(best.comparison), *tables.notes(best.comparison)],
        "figures": drawn,
        "page": "best.html",
    }


def _arms(comparison: compare.Comparison) -> dict[str, str]:
    """Returns the description of each arm that is in `arms.ARMS`."""
    names = dict.fromkeys(arm.runs[0].arm for arm in comparison.arms)
    return {name: arms.ARMS[name].line for name in names if name in arms.ARMS}


def _limits(comparison: compare.Comparison, tuning_seeds: Sequence[int]) -> list[str]:
    first = comparison.baseline.runs[0]
    told = [
        "These runs show nothing about larger models, longer training or other text: they have "
        f"{measured_on.model(first.config)}, and {tables.count(first.result['tokens'])} training tokens of "
        f"{first.config['data.source']}.",
        _limit_of_tuning(comparison, tuning_seeds),
    ]
    resolved = [arm for arm in comparison.others if arm.difference.verdict != intervals.NOT_RESOLVED]
    if len(resolved) > 1:
        told.append(
            "Some verdicts may be wrong: one 95 % interval in twenty misses the true difference. After Holm's "
            "correction, the chance that any verdict of the table is wrong is at most 5 %."
        )
    totals = {run.params["total"] for run in comparison.runs}
    if len(totals) > 1:
        told.append(
            "The runs do not show which part of a difference is due to parameter counts: totals differ (see Costs)."
        )
    return told


def _limit_of_tuning(comparison: compare.Comparison, tuning_seeds: Sequence[int]) -> str:
    if tuning_seeds:
        return (
            "Each arm is at the best of the values that were tried for it, by its training loss on seed "
            f"{', '.join(map(str, tuning_seeds))}. Other values, and keys that were not tuned, may suit one arm better "
            "than another."
        )
    rates = sorted({run.config["train.lr"] for run in comparison.runs})
    listed = ", ".join(f"{rate:g}" for rate in rates)
    told = f"the peak learning rates are {listed} only" if rates[1:] else f"all have the peak learning rate {listed}"
    if len({run.config["embedding.lr_mult"] for run in comparison.runs}) > 1:
        told += ", times a multiplier for the input"
    return f"They do not compare each arm at its best: {told}, which may suit one arm better than another."


def _conditions(comparison: compare.Comparison) -> dict[str, str]:
    first = comparison.baseline.runs[0]
    c, result = first.config, first.result
    data, tokenizer = result["data_fingerprint"][:12], result["tokenizer_fingerprint"][:12]
    batch = f"{c['train.batch']} × {c['train.sequence']} tokens"
    rates = _each(f"{run.config['train.lr']:g}" for run in comparison.runs)
    versions = ({"Python": run.env["python"], **run.env["versions"]} for run in comparison.runs)
    return {
        "Model": f"{measured_on.model(first.config)}; {c['model.dtype']}",
        "Data": f"{c['data.source']}; fingerprint {data}",
        "Tokenizer": f"{c['tokenizer']}, {c['model.vocab_size']:,} ids; fingerprint {tokenizer}",
        "Training": f"{tables.count(result['tokens'])} tokens: {result['step']:,} steps of {batch}",
        "Learning rate": f"peak {rates}; {c['train.warmup_steps']:,} steps of warm-up, then cosine decay",
        "Seeds": _each(", ".join(str(run.seed) for run in arm.runs) for arm in comparison.arms),
        "Device": _each(surroundings.devices(run) for run in comparison.runs),
        "Versions": _each(", ".join(f"{name} {version}" for name, version in one.items()) for one in versions),
        "Commit": _each(run.env["commit"] or "not in a git checkout" for run in comparison.runs),
        "Started": _each(run.env["started"][:10] for run in comparison.runs) + " (UTC)",
    }


def _each(texts: Iterable[str]) -> str:
    """Returns each different text once, so that conditions that differ between runs stand out."""
    return " | ".join(dict.fromkeys(texts))
