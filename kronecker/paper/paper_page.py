"""The page of the paper's tables and figures beside ours: the headline numbers first, then section by section."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kronecker.paper import headlines, result_figures, results, training_claims
from kronecker.report import compare, figures, pages
from kronecker.run import result
from kronecker.runtime import storage

TRAINING = "training"
PARTS = CODES, PARAMETERS, PROBES, RUNTIME = "codes", "parameters", "probes", "runtime"
SECTIONS_FILE = Path(__file__).parent / "sections.toml"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str  # with the paper's section
    about: str  # its question, in a sentence or two
    part: str  # whose results it may hold
    names: Sequence[str]  # beginnings of the results' names, in order
    figures: Sequence[str] = ()  # names of its figures, in order


SECTIONS = [Section(**section) for section in tomllib.loads(SECTIONS_FILE.read_text(encoding="utf-8"))["sections"]]
OF_CODES = {name for section in SECTIONS if section.part == CODES for name in section.names}


def write(comparison: compare.Comparison, found: Mapping[str, Sequence[result.Result]], file: Path, title: str) -> None:
    """Writes the page, and into a folder of its name beside it all results as JSON, each table and figure as CSV.

    `comparison` is of `training_claims.pair`, `found` the results by part.  Raises ValueError if `file` does not end in
    .html.
    """
    numbers = pages.folder_of(file)
    ours = found.get(PROBES, ())  # of runs; the geometry of codes alone has the same names
    renamed = [dataclasses.replace(one, name=f"{one.name}_{PROBES}") if one.name in OF_CODES else one for one in ours]
    found = {TRAINING: [training_claims.measure(comparison)], **found} | ({PROBES: renamed} if ours else {})
    everything = [one for of_part in found.values() for one in of_part]
    drawn = {one.name: one for one in (*figures.draw(comparison), *result_figures.draw(everything))}
    pages.write_figures(numbers, [drawn[name] for section in SECTIONS for name in section.figures if name in drawn])
    results.write_numbers(numbers, everything)
    content = [result.to_json(one) for one in everything]
    storage.write_text(numbers / "results.json", json.dumps(content, indent=1) + "\n")
    trained = found[TRAINING][0]
    by_name = {one.name: one for one in everything}
    made = pages.render(
        "paper.html",
        title=title,
        numbers=numbers.name,
        runs={"Runs here": _runs(trained.conditions), "The paper's": _runs(trained.paper_conditions)},
        summary=headlines.summary(by_name),
        headlines=headlines.table(by_name),
        sections=[_section(section, found, drawn) for section in SECTIONS],
    )
    storage.write_text(file, made)


def _runs(conditions: Mapping[str, str]) -> str:
    told = "{model}; {training}; text {text}, tokenizer {tokenizer}; P = {P}".format_map(conditions)
    return f"{told}; {conditions['seeds']}\N{NO-BREAK SPACE}seed{'' if conditions['seeds'] == '1' else 's'}"


def _section(
    section: Section, found: Mapping[str, Sequence[result.Result]], drawn: Mapping[str, figures.Figure]
) -> dict[str, Any]:
    held = found.get(section.part, ())
    return {
        "title": section.title,
        "about": section.about,
        "figures": [drawn[name] for name in section.figures if name in drawn],
        "results": results.shown(one for name in section.names for one in held if one.name.startswith(name)),
    }
