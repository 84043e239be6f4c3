"""Pairs of a prompt and its misspelling: our own set, and any other from a JSON file.

The paper's 110 pairs, 11 categories of 10, are in its author's repository.  These are ours, 11 categories of 30.
Only the clean prompts are stored.  Their typos are a function of prompt, operator and seed.  Another seed gives other
typos, which shows how much a result depends on them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from kronecker.probes import typos
from kronecker.runtime import storage

CLEAN = pathlib.Path(__file__).parents[1] / "assets" / "prompts.json"
LISTED = "prompt_pairs"  # the key of the list in the reference's result files
FIELDS = ("category", "clean", "typo")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt and its misspelling."""

    category: str  # of the prompt
    clean: str  # the prompt
    typo: str  # the same with a typo
    operator: str = ""  # of the typo; empty if not known


def clean_prompts() -> dict[str, list[str]]:
    """Returns category -> its clean prompts, 11 of 30."""
    return json.loads(CLEAN.read_text(encoding="utf-8"))


def pairs(seed: int = 0) -> list[Pair]:
    """Returns our 330 pairs; prompt i of a category has operator i modulo 5: each operator 6 times in a category."""
    operators = list(typos.OPERATORS)
    return [
        Pair(category, clean, typos.misspell(clean, operator, seed), operator)
        for category, prompts in clean_prompts().items()
        for clean, operator in zip(prompts, operators * (len(prompts) // len(operators) + 1), strict=False)
    ]


def read_pairs(path: str | pathlib.Path) -> list[Pair]:
    """Returns the pairs of a JSON file: a list of {category, clean, typo}, or an object with it under `prompt_pairs`.

    The second form is that of the result files in the author's repository.  A string `operator` is read too; other keys
    are ignored.

    Raises FileNotFoundError if there is no such file; ValueError if it holds something else, or a pair of two equal
    prompts.
    """
    path = pathlib.Path(path)
    try:
        listed = storage.parsed_json(storage.read_whole(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8 ({error}); give a JSON file of prompt pairs") from None
    if isinstance(listed, dict):
        listed = listed.get(LISTED)
    if not isinstance(listed, list) or not listed:
        raise ValueError(
            f"{path}: no prompt pairs; the file must be a list of {{{', '.join(FIELDS)}}}, or an object with one under "
            f"{LISTED!r}"
        )
    return [_pair(entry, f"{path}: pair {i}") for i, entry in enumerate(listed)]


def groups(of: Sequence[Pair], field: str) -> dict[str, list[int]]:
    """Returns value of `field` -> the indices of its pairs, in order of first appearance, without the empty value."""
    found: dict[str, list[int]] = {}
    for place, pair in enumerate(of):
        if getattr(pair, field):
            found.setdefault(getattr(pair, field), []).append(place)
    return found


def _pair(entry: Any, where: str) -> Pair:
    values = [entry.get(field) if isinstance(entry, dict) else None for field in FIELDS]
    wrong = [field for field, value in zip(FIELDS, values, strict=True) if not isinstance(value, str) or not value]
    if wrong:
        raise ValueError(f"{where}: {' and '.join(wrong)} must be non-empty text; a pair is {{{', '.join(FIELDS)}}}")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} has half of a surrogate pair, which is no character; write the whole one") from None
    category, clean, typo = values
    if clean == typo:
        raise ValueError(f"{where} has the same text twice, {clean!r}; the typo must differ from the clean prompt")
    operator = entry.get("operator", "")
    return Pair(category, clean, typo, operator if isinstance(operator, str) else "")
