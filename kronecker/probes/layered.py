"""At which depth of a model words of one family are near each other: the paper's section 6.8, Table 10.

Each token of the vocabulary is fed alone, at position 0, and its vector is read before the first block and after
blocks.  A probe word's query is its first token; its neighbours are those of the whole vocabulary, mean-centred.

Shapes: V vocabulary, d model width, k neighbours.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kronecker.model import build, transformer
from kronecker.probes import geometry, neighbours, words
from kronecker.run import measured_on, result
from kronecker.schema import dotted
from kronecker.training import restore

E_RAW, E_POST = "E_raw", "E_post"
BATCH = 1024  # tokens at a time
METRICS = ("loose", "root", "strict")
# Table 10: arm, space -> loose, root, strict; the trained 124M pair, k = 10.
PAPER = {
    ("table", E_RAW): (0.898, 0.302, 0.283),
    ("table", "L0"): (0.906, 0.285, 0.267),
    ("table", "L1"): (0.942, 0.169, 0.156),
    ("Kronecker", E_RAW): (0.967, 0.244, 0.221),
    ("Kronecker", "L0"): (0.967, 0.265, 0.238),
    ("Kronecker", "L1"): (0.967, 0.258, 0.231),
}
ALL_FAMILIES = "all"
SOURCE = "6.8, Table 10"
ASKED = {
    "words": "48 in six families; strict lists: 11, 11, 12, 20, 18 and 12 words",
    "neighbours": "whole vocabulary, mean-centred cosine",
}
NOTES = (
    "E_raw: input embedding; E_post: with position 0 added; L0, L1: after the first and second block. Words have no "
    "space in front. Loose: share of neighbours that are not spellings of the word; root, strict: that are relatives.",
    "Words, roots and strict lists are those that the paper's author publishes.",
)
PAPER_CONDITIONS = measured_on.PAPER | ASKED | {"seeds": "1"}


@dataclasses.dataclass(frozen=True)
class Scores:
    """Shares of the k nearest neighbours of one probe word in one space."""

    loose: float  # whose canonical form is not the probe's
    root: float  # whose canonical form contains the family's root
    strict: float  # whose canonical form is in the family's list


def score(neighbour_forms: Sequence[str], word: str, root: str, family: Collection[str]) -> Scores:
    """Returns the three shares for a probe `word`; NaN of no neighbour."""
    if not len(neighbour_forms):
        return Scores(float("nan"), float("nan"), float("nan"))
    return Scores(
        loose=geometry.loose(neighbour_forms, words.canonical(word.encode())),
        root=float(np.mean([root in form for form in neighbour_forms])),
        strict=float(np.mean([form in family for form in neighbour_forms])),
    )


def score_space(
    space_Vd: np.ndarray,
    first_tokens: Mapping[str, int],
    forms_V: Sequence[str],
    k: int = 10,
    families: Mapping[str, Sequence[str]] = words.LAYERED_FAMILIES,
    roots: Mapping[str, str] = words.LAYERED_ROOTS,
    relatives: Mapping[str, Collection[str]] = words.LAYERED_RELATIVES,
) -> dict[str, dict[str, Scores]]:
    """Returns family -> word -> its scores among the rows of one space, the query's own token left out.

    `first_tokens` is probe word -> id of its first token; words without one are left out.  `forms_V` are canonical
    forms: of a family's relatives they contain its root, and by the strict measure they are among `relatives`.
    """
    asked = [(name, word) for name, members in families.items() for word in members if word in first_tokens]
    ids = [first_tokens[word] for _, word in asked]
    mean_d = np.asarray(space_Vd, np.float64).mean(axis=0)
    found = neighbours.nearest(neighbours.Rows(space_Vd, space_Vd[ids], mean_d), k, exclude=[{i} for i in ids])
    scores: dict[str, dict[str, Scores]] = {name: {} for name in families}
    for (name, word), near in zip(asked, found, strict=True):
        forms = [forms_V[i] for i in near if i >= 0]
        scores[name][word] = score(forms, word, roots[name], relatives[name])
    return scores


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Returns the mean of each share over words; NaN of none."""
    if not scores:
        return Scores(float("nan"), float("nan"), float("nan"))
    return Scores(*np.mean([dataclasses.astuple(one) for one in scores], axis=0).tolist())


def spaces(arm: build.Arm, params: Mapping[str, Any], layers: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, vectors float32 (V, d)) without padding ids: E_raw, E_post (with position 0 added), L0, L1, ...

    `layers` are the blocks whose outputs are yielded, from 0; raises ValueError if there is no such block.
    """
    shape = arm.model.shape
    if missing := [layer for layer in layers if not 0 <= layer < shape.layers]:
        raise ValueError(f"layers has {missing[0]}; allowed: 0 to {shape.layers - 1}, the model's blocks")
    vectors = build.input_table(arm, params).astype(np.float32)
    yield E_RAW, vectors
    vectors = vectors + np.asarray(params["positions"][0], np.float32)
    yield E_POST, vectors
    block = jax.jit(lambda own, x_Nd: transformer.Block(shape, train=False).apply({"params": own}, x_Nd[:, None])[0])
    for layer in range(max(layers, default=-1) + 1):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        vectors = _batched(lambda x_Nd, own=own: block(own, x_Nd)[:, 0], vectors)
        if layer in layers:
            yield f"L{layer}", vectors


def _batched(function: Any, rows: np.ndarray) -> np.ndarray:
    """Applies `function` to BATCH rows at a time, the last ones padded, so that it compiles once."""
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % BATCH, axis=0)])
    done = [np.asarray(function(padded[i : i + BATCH])) for i in range(0, len(padded), BATCH)]
    return np.concatenate(done)[: len(rows)]


def measure(found: Mapping[str, restore.Restored], layers: Sequence[int] = (0, 1), k: int = 10) -> list[result.Result]:
    """Returns Table 10 for runs by name, over all words and by family: of all probe words, and of those that are one
    token in a run's vocabulary.

    `layers` are the blocks whose outputs are measured, `k` is the number of neighbours of a word.
    """
    rows: dict[bool, list[tuple[result.Cell, ...]]] = {False: [], True: []}
    of_runs = [measured_on.of_run(dotted.flat(run.config), run.step) for run in found.values()]
    asked = [word for family in words.LAYERED_FAMILIES.values() for word in family]
    for name, run in found.items():
        tokens = dict(zip(asked, map(np.ndarray.tolist, run.tokenizer.encode_batch(asked)), strict=True))
        forms = words.canonical_forms(run.tokenizer.token_bytes)
        for space, space_Vd in spaces(run.arm, run.params, layers):
            scores = score_space(space_Vd, {word: ids[0] for word, ids in tokens.items()}, forms, k)
            for single in rows:
                kept = {
                    family: [one for word, one in of_word.items() if not single or len(tokens[word]) == 1]
                    for family, of_word in scores.items()
                }
                kept[ALL_FAMILIES] = [one for of_family in kept.values() for one in of_family]
                for family, of_family in kept.items():
                    shares = dataclasses.astuple(mean_scores(of_family)) if of_family else (None,) * len(METRICS)
                    rows[single].append((name, space, family, len(of_family), *shares))
    told = {
        "conditions": measured_on.merged(of_runs) | ASKED,
        "columns": ("run", "space", "family", "words", *METRICS),
        "source": SOURCE,
    }
    results = []
    for single, of_kind in rows.items():
        suffix, which = ("_single", "only words of one token") if single else ("", "each word by its first token")
        title = f"Families among the {k} nearest tokens, by depth, {which}"
        whole = [row for row in of_kind if row[2] == ALL_FAMILIES]
        paper = [] if single else [(arm, space, ALL_FAMILIES, 48, *shares) for (arm, space), shares in PAPER.items()]
        of_paper = {"paper": paper, "paper_conditions": PAPER_CONDITIONS}
        results += [
            result.Result(name=f"layered{suffix}", title=title, rows=whole, notes=NOTES, **of_paper, **told),
            result.Result(name=f"layered{suffix}_families", title=f"{title}, by family", rows=of_kind, **told),
        ]
    return results
