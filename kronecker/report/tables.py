"""The tables of verdicts and costs, and their sentences, for the terminal and the page."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TextIO

from kronecker.report import collisions, compare, grid, held_out, intervals, other_texts, pairs, surroundings
from kronecker.run import finished_runs
from kronecker.runtime import printing
from kronecker.runtime.printing import Table


def verdicts(comparison: compare.Comparison) -> Table:
    """Returns each arm's loss, paired difference, intervals and verdict; of several, also after Holm's correction.

    Without the interval over documents, and without `sooner` on other text, where there is none.
    """
    columns = {header: [make(arm) for arm in comparison.arms] for header, make in VERDICT_COLUMNS.items()}
    if not any(arm.documents for arm in comparison.others):
        del columns[OVER_DOCUMENTS]
    if comparison.text.name:
        del columns[SOONER]
    if len(comparison.others) > 1 and len(comparison.baseline.runs) > 1:
        columns[HOLM] = [comparison.adjusted.get(arm.name, "") for arm in comparison.arms]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), ("arm", "verdict", HOLM))


def costs(comparison: compare.Comparison) -> Table:
    params = (f"{group}\nparams" for group in finished_runs.PARAMETER_GROUPS)
    headers = ("arm", *params, "tokens\n/s", "peak\nmemory", "clipped\nsteps")
    return Table(headers, tuple(_cost_row(arm) for arm in comparison.arms), ("arm",))


def reaches(comparison: compare.Comparison) -> Table:
    """Returns where the better run of each pair reached the other's final loss: tokens and steps, mean over seeds."""
    headers = ("arm", "ahead in\nseeds", "tokens", "steps", "sooner ×\nby seed")
    rows = [_reach_row(arm) for arm in comparison.others]
    return Table(headers, tuple(row for row in rows if row), ("arm",))


def settings(comparison: compare.Comparison) -> Table:
    """Returns the settings in which the arms differ, of those that a pair compares."""
    told = [compare.settings(arm.runs[0], (*compare.COMPARED, *compare.TUNED)) for arm in comparison.arms]
    keys = [key for key in finished_runs.varying(told) if key != "arm"]
    rows = [(arm.name, *(own.get(key, "") for key in keys)) for arm, own in zip(comparison.arms, told, strict=True)]
    return Table(("arm", *keys), tuple(rows), ("arm", *keys))


def collision_costs(damages: Sequence[collisions.Damage]) -> Table:
    """Returns what ids that share a code cost each arm that has some."""
    inputs = ("arm", "ids sharing\na code", "share of\ninputs", "matched")
    headers = (*inputs, "damage\nnats", "± 95 %", "placebo\n95 %", "over all\ntokens", "verdict")
    return Table(headers, tuple(_collision_row(found) for found in damages), ("arm", "verdict"))


def choices(best: grid.Best) -> Table:
    """Returns the values of each arm's tuned keys, and how they were chosen."""
    headers = ("arm", *best.keys, "training\nloss", "versions\ntried", "of them\ndiverged", "at the edge")
    rows = []
    for arm in best.comparison.arms:
        one, versions = best.chosen[arm.name], [version for version in best.versions if version.arm == arm.name]
        count, diverged = len(versions), sum(bool(version.diverged) for version in versions)
        values = (f"{value:g}" if grid.is_number(value) else str(value) for value in map(one.place, best.keys))
        loss = f"{one.train_loss(best.tuning_seeds):.4f}" if count else ""
        edges = ", ".join(f"{which} {key}" for key, which in best.edges(arm.name).items())
        rows.append((arm.name, *values, loss, str(count or "not tuned"), str(diverged or ""), edges))
    if not any(row[-2] for row in rows):
        headers, rows = (*headers[:-2], headers[-1]), [(*row[:-2], row[-1]) for row in rows]
    return Table(headers, tuple(rows), ("arm", "at the edge"))


def choice_sentences(best: grid.Best) -> list[str]:
    """Returns how the values of `choices` were chosen and what that leaves open."""
    compared = _seeds(run.seed for run in best.comparison.baseline.runs)
    told = [
        "The values are those with the lowest training loss, the mean over the last "
        f"{100 * finished_runs.AT_END:.0f} % of the steps, on {_seeds(best.tuning_seeds)}. The comparison is of "
        f"held-out losses on {compared}."
    ]
    if not best.confirmed:
        told.append("Not confirmed: values and losses are of the same seeds. Train the chosen values with other seeds.")
    for arm, one in best.chosen.items():
        for key, which in best.edges(arm).items():
            beyond = "lower" if which == "lowest" else "higher"
            value = f"{key}={one.values[key]} is the {which} of the {len(best.tried(arm, key))} tried"
            told.append(f"{arm}: {value}, so its best may lie beyond. Train {beyond} ones.")
    for one in best.versions:
        if one.diverged:
            values = grid.label({key: one.values[key] for key in best.keys})
            told.append(
                f"{one.arm}: {values} diverged ({_seeds(one.diverged)}). It counts as tried, and cannot be the best."
            )
    if best.hopeless:
        told.append(f"Left out, as every version diverged: {', '.join(best.hopeless)}. Train lower values.")
    if best.left_out:
        told.append(f"Left out, as they were not tuned and lack a compared seed: {', '.join(best.left_out)}.")
    return told


def show_pairs(comparisons: Sequence[compare.Comparison]) -> None:
    """Prints the chosen differences, after Holm's correction if there are several, and what they are over."""
    told = [(of_pair, of_pair.others[0]) for of_pair in comparisons]
    columns = {
        "difference": [f"{arm.name} − {of_pair.baseline.name}" for of_pair, arm in told],
        "seeds": [str(len(arm.runs)) for _, arm in told],
    }
    for header in ("paired\ndiff.", "± 95 %", OVER_DOCUMENTS, "resolv-\nable", "verdict"):
        columns[header] = [VERDICT_COLUMNS[header](arm) for _, arm in told]
    if len(told) > 1:
        columns[HOLM] = pairs.adjusted(comparisons)
    table = Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), ("difference", "verdict", HOLM))
    said = (sentence for of_pair in comparisons for sentence in sentences(of_pair) + notes(of_pair))
    printing.show(table, "", *dict.fromkeys(said), wrap=True)


def show_grid(found: grid.Grid, file: TextIO | None = None) -> None:
    """Prints a table of verdicts for each value, then each arm at its best."""
    for cell in found.cells:
        told = exceptions(cell.comparison)
        printing.show(grid.label(cell.values), verdicts(cell.comparison), *told, "", file=file, wrap=True)
    printing.show(*(f"No table for {reason}." for reason in found.skipped), file=file, wrap=True)
    if found.best:
        show_best(found.best, file)
    elif found.cells:
        printing.show(*notes_of_all(found), file=file, wrap=True)


def notes_of_all(found: grid.Grid) -> list[str]:
    """Returns what the tables of all values share of their notes."""
    return list(dict.fromkeys(told for cell in found.cells for told in _coverage(cell.comparison)))


def show_best(best: grid.Best, file: TextIO | None = None) -> None:
    printing.show("Each arm at its best", choices(best), "", *choice_sentences(best), "", file=file, wrap=True)
    show(best.comparison, file=file)


def show(comparison: compare.Comparison, damages: Sequence[collisions.Damage] = (), file: TextIO | None = None) -> None:
    made = (verdicts(comparison), costs(comparison), reaches(comparison), collision_costs(damages))
    apart = (part for told in made if told.rows for part in (told, ""))
    printing.show(*apart, *sentences(comparison), *notes(comparison), file=file, wrap=True)
    on_others = (part for text in on_other_texts(comparison) for part in ("", *text))
    printing.show(*on_others, *other_texts.lacking(comparison), file=file, wrap=True)


def on_other_texts(comparison: compare.Comparison) -> list[tuple[str, Table]]:
    """Returns the verdicts on each text that all runs were evaluated on, below what the text is."""
    return [
        (f"On {one.text.name}: {one.text.tokens:,} tokens in {one.text.documents:,} documents", verdicts(one))
        for one in other_texts.compared(comparison)
    ]


def notes(comparison: compare.Comparison) -> list[str]:
    """Returns what the numbers of `verdicts` are over, what its intervals cover, and which runs differ or diverged."""
    return _coverage(comparison) + exceptions(comparison)


def _coverage(comparison: compare.Comparison) -> list[str]:
    told = held_out.sentences(comparison)
    if any(arm.difference.half is not None for arm in comparison.others):
        told.append(COVERED)
    if any(arm.documents for arm in comparison.others):
        told.append(COVERED_BY_DOCUMENTS)
    return told


def exceptions(comparison: compare.Comparison) -> list[str]:
    """Returns which runs differ from their partners in more than the config, and which diverged."""
    told = []
    if differing := surroundings.differing(comparison.pairs):
        told.append(
            f"Not equal within every pair: {'; '.join(differing)}. Such a difference can change a loss a little; to "
            "exclude it, train both runs of a pair on one machine, with one commit."
        )
    if comparison.diverged:
        ended = "; ".join(f"{name} ({run.reason})" for name, run in comparison.diverged.items())
        told.append(f"Diverged, so without a loss: {ended}. The differences are of the other runs alone.")
    return told


def sentences(comparison: compare.Comparison) -> list[str]:
    """Returns the verdicts in words, one sentence an arm, and which seeds are missing."""
    told = [_sentence(arm, comparison.baseline.name) for arm in comparison.others]
    if any(arm.difference.half is None for arm in comparison.others):
        told.append("One seed has no interval, so nothing is resolved: train at least three (--seeds=3 of sweep.py).")
    if comparison.left_out:
        left_out = ", ".join(map(str, comparison.left_out))
        told.append(f"Only seeds that every arm has finished are compared; left out: {left_out}.")
    return told


def count(number: float) -> str:
    """Returns three significant digits with a unit, e.g. 1.05M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.0f}"


def signed(number: float) -> str:
    """Returns a difference with its sign, e.g. -0.0123."""
    return f"{number:+.4f}"


def _seeds(seeds: Iterable[int]) -> str:
    found = sorted(set(seeds))
    return f"seed{'s' if found[1:] else ''} {', '.join(map(str, found))}"


def _of_several(arm: compare.Arm, what: str) -> str:
    """Returns a number of the difference that one seed does not have."""
    resolved = arm.difference and arm.difference.half is not None
    return f"{getattr(arm.difference, what):.4f}" if resolved else ""


OVER_DOCUMENTS, SOONER, HOLM = "95 % over\ndocuments", "sooner\n×", "after Holm's\ncorrection"
VERDICT_COLUMNS: Mapping[str, Callable[[compare.Arm], str]] = {
    "arm": lambda arm: arm.name,
    "nats/\ntoken": lambda arm: f"{arm.loss:.4f}",
    "bits/\nbyte": lambda arm: f"{arm.bits:.4f}",
    "paired\ndiff.": lambda arm: signed(arm.difference.mean) if arm.difference else "",
    "± 95 %": lambda arm: _of_several(arm, "half"),
    OVER_DOCUMENTS: lambda arm: " to ".join(map(signed, arm.documents)) if arm.documents else "",
    "resolv-\nable": lambda arm: _of_several(arm, "resolvable"),
    SOONER: lambda arm: "" if arm.reach_factor is None else f"{arm.reach_factor:.2f}",
    "verdict": lambda arm: arm.difference.verdict if arm.difference else "baseline",
}
COVERED = (
    "± covers other seeds, that is other initial weights and another order of the data, on this same text with these "
    "same settings; it does not cover other text."
)
COVERED_BY_DOCUMENTS = (
    "The interval over documents covers another draw of documents of this kind, for these same trained runs; it does "
    "not cover other seeds or other kinds of text."
)


def _cost_row(arm: compare.Arm) -> tuple[str, ...]:
    params = arm.runs[0].params
    return (
        arm.name,
        *(count(params[group]) for group in finished_runs.PARAMETER_GROUPS),
        f"{arm.mean('tokens_per_second'):,.0f}",
        f"{arm.mean('peak_memory_bytes') / 1e9:.2f} GB",
        f"{100 * arm.mean('clip_share'):.1f} %",
    )


def _reach_row(arm: compare.Arm) -> tuple[str, ...] | None:
    known = [reached for reached in arm.reaches if reached]
    if not known:
        return None
    tokens, steps = (statistics.fmean(getattr(one, what) for one in known) for what in ("tokens", "steps"))
    factors = ", ".join("?" if one is None else f"{one.factor:.2f}" for one in arm.reaches)
    ahead = f"{sum(one.arm_ahead for one in known)} of {len(known)}"
    return (arm.name, ahead, count(tokens), f"{steps:,.0f}", factors)


def _collision_row(found: collisions.Damage) -> tuple[str, ...]:
    counted = (found.arm, f"{found.ids:,}", f"{100 * found.share:.2f} %", f"{100 * found.matched:.0f} %")
    difference = found.difference
    if difference is None:
        return (*counted, "", "", "", "", found.verdict)
    half = "" if difference.half is None else f"{difference.half:.4f}"
    placebo = f"{found.placebo:.4f}"
    return (*counted, signed(difference.mean), half, placebo, signed(found.spread), found.verdict)


def _sentence(arm: compare.Arm, baseline: str) -> str:
    difference = arm.difference
    direction = "below" if difference.mean < 0 else "above"
    gap = f"{abs(difference.mean):.4f} nats/token {direction} {baseline}"
    if difference.half is None:
        return f"{arm.name}: not resolved; its one seed ended {gap}."
    low, high = difference.interval
    by_seed = zip(difference.seeds, difference.values, strict=True)
    seeds = ", ".join(f"seed {seed}: {signed(value)}" for seed, value in by_seed)
    interval = f"95 % interval {signed(low)} to {signed(high)}; {seeds}"
    if difference.verdict == intervals.NOT_RESOLVED:
        return f"{arm.name}: not resolved; on average {gap}, but the interval includes zero ({interval})."
    return f"{arm.name}: {difference.verdict}, on average {gap} ({interval})."
