"""The page of the paper's tables and figures beside ours: the headline numbers first, then section by section."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kronecker.paper import headlines, result_figures, results, training_claims
from kronecker.report import compare, figures, pages
from kronecker.run import result

TRAINING = "training"
PARTS = CODES, PARAMETERS, PROBES, RUNTIME = "codes", "parameters", "probes", "runtime"
BYTE_PAIRS = "byte_pairs"
GEOMETRY = ("loose", "anisotropy", "edit_distance", "stability", BYTE_PAIRS, "unseen")


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str  # with the paper's section
    about: str  # its question, in a sentence or two
    part: str  # whose results it may hold
    names: tuple[str, ...]  # beginnings of the results' names, in order
    figures: tuple[str, ...] = ()  # names of its figures, in order


SECTIONS = (
    Section(
        "Training (6.6)",
        "The paper trains a table that is tied to the head, and a Kronecker input with a head of its own. It has no "
        "untied table; here one is added if it was trained.",
        *(TRAINING, ("training",), training_claims.FIGURES),
    ),
    Section(
        "Tokens that fit into a code (Table 3)",
        "A token longer than P bytes is cut. Tokens that are equal after the cut share one embedding.",
        *(CODES, ("coverage",)),
    ),
    Section(
        "Geometry of codes, without a model (6.1 to 6.5)",
        "Which tokens are near each other by their bytes alone, and what the same metrics give for a random table.",
        *(CODES, GEOMETRY),
    ),
    Section(
        "Word families by depth (6.8)",
        "The share of a word's nearest tokens that are its relatives, in the input embedding and after each of the "
        "first blocks. Each token is fed alone, at position 0.",
        *(PROBES, ("layered",), ("families_by_depth",)),
    ),
    Section(
        "Geometry of the trained inputs",
        "The same metrics on the input embeddings of these runs. The paper measures public models instead. This page "
        "does not download their weights; scripts/geometry.py reads them from a folder.",
        *(PROBES, tuple(name for name in GEOMETRY if name != BYTE_PAIRS)),  # BYTE_PAIRS does not depend on a run
    ),
    Section(
        "Parameters (6.9)",
        "How many input parameters the projection saves, and how many input and head have together.",
        *(PARAMETERS, ("parameters",)),
    ),
    Section(
        "One typo in a prompt (6.11)",
        "How much a misspelling changes the prediction of the next token.",
        *(PROBES, ("robustness",), ("typos_by_category",)),
    ),
    Section(
        "Continuations of unseen words (6.12)",
        "Prompts with normal words, misspelled words, a made-up word as tokens (novel), and as one position (forced).",
        *(PROBES, ("generation",)),
    ),
    Section(
        "The cost of computing codes on the fly (section 4)",
        "Memory that the input needs besides its parameters, and the time of a training step. bag: sums of projection "
        "rows; onthefly: codes computed in each step and multiplied; cached: stored codes, multiplied.",
        *(RUNTIME, ("runtime",)),
    ),
)


def write(comparison: compare.Comparison, found: Mapping[str, Sequence[result.Result]], file: Path, title: str) -> None:
    """Writes the page, and into a folder of its name beside it all results as JSON, each table and figure as CSV.

    `comparison` is of `training_claims.pair`, `found` the results by part.  Raises ValueError if `file` does not end in
    .html.
    """
    numbers = pages.folder_of(file)
    found = {part: [_renamed(part, one) for one in of_part] for part, of_part in found.items()}
    found = {TRAINING: [training_claims.measure(comparison)], **found}
    everything = [one for of_part in found.values() for one in of_part]
    drawn = {one.name: one for one in (*figures.draw(comparison), *result_figures.draw(everything))}
    pages.write_figures(numbers, [drawn[name] for section in SECTIONS for name in section.figures if name in drawn])
    results.write_numbers(numbers, everything)
    content = [result.to_json(one) for one in everything]
    pages.write_text(numbers / "results.json", json.dumps(content, indent=1) + "\n")
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
    pages.write_text(file, made)


def _renamed(part: str, one: result.Result) -> result.Result:
    """Renames a geometry result of runs, because that of codes alone has the same name."""
    return dataclasses.replace(one, name=f"{one.name}_{part}") if part == PROBES and one.name in GEOMETRY else one


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
