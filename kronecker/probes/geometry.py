"""The geometry of an input embedding before any context: the paper's sections 6.1 to 6.5.

Every function takes arrays, so it applies to any model's table, to a random table, and to the codes themselves.  None
of these numbers shows how well a model works: a random table has the best possible loose morph@k, 1.

Shapes: V vocabulary, d width, k neighbours.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

UNRELATED_DISTANCE = 0.7  # edit distance over the longer word's length from which two words count as unrelated
RELATED_DISTANCE = 2  # the most edits between two words of one stem
STEM = 4  # first characters that two words of one stem have in common
PAIRS = 20_000  # random pairs; the error of their mean cosine is about 0.002
BLOCK = 16_384  # rows at a time
PAIR_KINDS = ("same canonical", "one stem", "unrelated")


def loose(neighbour_forms: Sequence[str], form: str) -> float:
    """Returns the share of neighbours whose canonical form is not the probe's; NaN of none.

    Loose morph@k of section 6.1.  It measures only how many neighbours are not spellings of the word itself: random
    neighbours score 1.
    """
    return float(np.mean([other != form for other in neighbour_forms])) if len(neighbour_forms) else float("nan")


def family_means(scores: Mapping[str, float], families: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Returns family -> the mean over its words of `scores`, words without a score left out."""
    found = {name: [scores[word] for word in members if word in scores] for name, members in families.items()}
    return {name: float(np.nanmean(values)) if values else float("nan") for name, values in found.items()}


@dataclasses.dataclass(frozen=True)
class Anisotropy:
    """How far vectors are from being centred at zero."""

    mean_cosine: float  # of pairs of two different random ids
    mean_norm: float  # length of the mean vector
    typical_norm: float  # mean length of a vector, for scale


def anisotropy(matrix_Vd: np.ndarray) -> Anisotropy:
    """Returns the mean cosine of random pairs of rows and the norm of the mean row; zero rows are left out."""
    total_d, norms = np.zeros(matrix_Vd.shape[1]), []
    for start in range(0, len(matrix_Vd), BLOCK):
        rows = np.asarray(matrix_Vd[start : start + BLOCK], np.float32)
        total_d += rows.sum(axis=0, dtype=np.float64)
        norms.append(np.linalg.norm(rows, axis=1))
    mean_d, norms_V = total_d / len(matrix_Vd), np.concatenate(norms).astype(np.float64)
    chosen = np.flatnonzero(norms_V)
    if len(chosen) < 2:
        return Anisotropy(float("nan"), float(np.linalg.norm(mean_d)), float(norms_V.mean()))
    drawn_N2 = chosen[random_pairs(len(chosen), PAIRS)]
    cosines = [row_cosines(matrix_Vd, drawn_N2[i : i + 1024]) for i in range(0, PAIRS, 1024)]
    return Anisotropy(
        float(np.concatenate(cosines).mean()), float(np.linalg.norm(mean_d)), float(norms_V[chosen].mean())
    )


def random_pairs(count: int, pairs: int) -> np.ndarray:
    """Returns `pairs` pairs of two different numbers below `count`, equally likely: (N, 2)."""
    rng = np.random.default_rng(0)
    left = rng.integers(count, size=pairs)
    return np.stack([left, (left + rng.integers(1, count, size=pairs)) % count], axis=1)


def pairs_by_spelling(forms_V: Sequence[str], pairs: int = 2_000) -> dict[str, np.ndarray]:
    """Returns kind -> pairs of ids, int64 (n, 2), n at most `pairs`: section 6.4's buckets by edit distance.

    Same canonical: two ids of one canonical form.  One stem: different forms that begin with the same STEM characters
    and are at most RELATED_DISTANCE edits apart.  Unrelated: their edit distance is at least UNRELATED_DISTANCE times
    the length of the longer one.  Only forms of STEM letters or more are used.  The paper has other pairs, 41 of chosen
    words, in its author's repository.
    """
    rng = np.random.default_rng(0)
    of_form: dict[str, list[int]] = {}
    for token_id, form in enumerate(forms_V):
        if len(form) >= STEM and form.isalpha():
            of_form.setdefault(form, []).append(token_id)
    of_stem: dict[str, list[str]] = {}
    for form in of_form:
        of_stem.setdefault(form[:STEM], []).append(form)
    same = [pair for ids in of_form.values() for pair in itertools.combinations(ids, 2)]
    stem = [
        (of_form[a][0], of_form[b][0])
        for members in of_stem.values()
        for a, b in itertools.combinations(members, 2)
        if Levenshtein.distance(a, b, score_cutoff=RELATED_DISTANCE) <= RELATED_DISTANCE
    ]
    names = list(of_form)
    unrelated = []
    if len(names) > 1:
        for i, j in random_pairs(len(names), 2 * pairs):
            a, b = names[i], names[j]
            if Levenshtein.distance(a, b) >= UNRELATED_DISTANCE * max(len(a), len(b)):
                unrelated.append((of_form[a][0], of_form[b][0]))
    drawn = {}
    for kind, found in zip(PAIR_KINDS, (same, stem, unrelated), strict=True):
        ids = np.array(found, np.int64).reshape(-1, 2)
        drawn[kind] = ids if len(ids) <= pairs else ids[np.sort(rng.choice(len(ids), pairs, replace=False))]
    return drawn


def row_cosines(matrix_Vd: np.ndarray, pairs_N2: np.ndarray) -> np.ndarray:
    """Returns the raw cosine of each pair of rows, float64 (N,); 0 with a zero row."""
    left, right = _rows(matrix_Vd, pairs_N2[:, 0]), _rows(matrix_Vd, pairs_N2[:, 1])
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.divide((left * right).sum(axis=1), norms, out=np.zeros(len(norms)), where=norms > 0)


def code_cosine(a: bytes, b: bytes) -> float:
    """Returns the cosine of two codes before z-norm: equal bytes at equal positions over sqrt(L1 L2) (section 2)."""
    if not a or not b:
        return 0.0
    return sum(x == y for x, y in zip(a, b, strict=False)) / (len(a) * len(b)) ** 0.5


def jaccard(a: Collection[str], b: Collection[str]) -> float:
    """Returns the size of the intersection over that of the union of two sets; NaN of two empty ones."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else float("nan")


def stability(neighbour_forms: Mapping[str, Mapping[str, Collection[str]]]) -> float:
    """Returns the mean Jaccard index of canonical neighbour sets, over probes and pairs of models (section 6.3).

    `neighbour_forms` is model -> probe -> canonical forms of its neighbours.
    """
    found = [
        jaccard(neighbour_forms[a][probe], neighbour_forms[b][probe])
        for a, b in itertools.combinations(neighbour_forms, 2)
        for probe in neighbour_forms[a]
        if probe in neighbour_forms[b]
    ]
    return float(np.nanmean(found)) if found else float("nan")


def holds_part(probe: str, neighbour_forms: Sequence[str]) -> bool:
    """Returns whether a neighbour contains the probe or is contained in it: section 6.5's test of unseen words."""
    return any(form and (form in probe or probe in form) for form in neighbour_forms)


def _rows(matrix_Vd: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.asarray(matrix_Vd[ids], np.float64)
