"""The geometry of several embeddings side by side: the paper's sections 6.1 to 6.5 as tables."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from kronecker.probes import geometry, subjects, words
from kronecker.run import result

# Words that no vocabulary has as a token.  They are ours; the paper's 20 are in its author's repository.
UNSEEN = (
    *("blorption", "quantumize", "snarkify", "zorbnation", "recomputability", "flimflammer", "gigaparsing"),
    *("tokenizationist", "hyperbuildings", "microactor", "wugology", "encodeful", "prenationalized", "runnability"),
    *("glimmerstation", "metacoder", "unmagnetic", "brightfulness", "postactional", "decoderish"),
)
UNSEEN_K = 3
# Section 6.5's pairs: unrelated words with similar bytes, and related words whose bytes are shifted or upper case.
BYTE_PAIRS = {
    ("compute", "commute"): 0.857,
    ("run", "rune"): 0.866,
    ("import", "important"): 0.816,
    ("nation", "notion"): 0.833,
    ("run", "RUN"): 0.0,
    ("nation", "station"): 0.0,
    ("decode", "encode"): 0.0,
}
PAPER_CONDITIONS = {
    "P": "32",
    "embeddings": "trained: Llama 3.2 1B, Qwen3 32B, Gemma 3 1B, DeepSeek V3, GPT-OSS 120B, SmolLM2 135M; codec: the "
    "same vocabularies; random",
}
_WORDS = tuple(itertools.chain.from_iterable(words.GEOMETRY_FAMILIES.values()))


def survey(
    found: Sequence[subjects.Subject], conditions: Mapping[str, str], k: int = 5, pairs: int = 2_000
) -> list[result.Result]:
    """Returns the tables of sections 6.1 to 6.5 for each subject; a random table is the reference of every metric.

    `conditions` are those of all subjects, e.g. P; their `embeddings` replaces the list of names.  A word has `k`
    neighbours; the cosines by edit distance are of at most `pairs` pairs of ids of each kind.
    """
    forms = {one.name: _neighbour_forms(one, k) for one in found}
    conditions = {"embeddings": "; ".join(forms)} | dict(conditions)
    return [
        _loose(forms, conditions, k),
        _anisotropy(found, conditions),
        _by_edit_distance(found, conditions, pairs),
        *([_stability(forms, conditions, k)] if len(found) > 1 else []),
        _byte_pairs(),
        _unseen(found, conditions),
    ]


def _neighbour_forms(one: subjects.Subject, k: int) -> dict[str, list[str]]:
    near = one.nearest(_WORDS, k)
    return {word: [one.forms[i] for i in ids if i >= 0] for word, ids in zip(_WORDS, near, strict=True)}


def _loose(forms: Mapping[str, Mapping[str, Sequence[str]]], conditions: Mapping[str, str], k: int) -> result.Result:
    rows = []
    for name, of_word in forms.items():
        scores = {word: geometry.loose(near, words.canonical(word.encode())) for word, near in of_word.items()}
        means = geometry.family_means(scores, words.GEOMETRY_FAMILIES)
        rows.append((name, *means.values(), float(np.mean(list(means.values())))))
    none = (None,) * len(words.GEOMETRY_FAMILIES)
    return result.Result(
        name="loose",
        title=f"Loose morph@{k}: share of neighbours that are not another spelling of the word",
        source="6.1",
        conditions=conditions,
        columns=("embedding", *words.GEOMETRY_FAMILIES, "mean"),
        rows=rows,
        paper=[("trained, six models", *none, 0.54), ("codec, six vocabularies", *none, 0.923), ("random", *none, 1.0)],
        notes=(
            "This is the share of neighbours that are not spellings of the word itself. A random table scores 1, so a "
            "high score does not show morphology.",
            "Words have no space in front.",
        ),
        paper_conditions=PAPER_CONDITIONS,
    )


def _anisotropy(found: Sequence[subjects.Subject], conditions: Mapping[str, str]) -> result.Result:
    rows = []
    for one in found:
        a = one.anisotropy()
        rows.append((one.name, a.mean_cosine, a.mean_norm, a.typical_norm))
    return result.Result(
        name="anisotropy",
        title="Anisotropy: mean cosine of random pairs, norm of the mean vector",
        source="6.2",
        conditions=conditions | {"pairs": f"{geometry.PAIRS:,}"},
        columns=("embedding", "mean cosine", "norm of the mean", "mean norm"),
        rows=rows,
    )


def _by_edit_distance(found: Sequence[subjects.Subject], conditions: Mapping[str, str], pairs: int) -> result.Result:
    rows = []
    for one in found:
        drawn = geometry.pairs_by_spelling(one.forms, pairs)
        cosines = [float(one.pair_cosines(ids).mean()) if len(ids) else None for ids in drawn.values()]
        rows.append((one.name, *cosines, *(len(ids) for ids in drawn.values())))
    none = (None,) * len(geometry.PAIR_KINDS)
    return result.Result(
        name="edit_distance",
        title="Mean cosine of pairs of ids, by how their spellings are related",
        source="6.4",
        conditions=conditions | {"pairs": f"of the vocabulary, {pairs:,} a kind at most"},
        columns=("embedding", *geometry.PAIR_KINDS, *(f"pairs: {kind}" for kind in geometry.PAIR_KINDS)),
        rows=rows,
        paper=[("trained", 0.553, 0.382, 0.152, *none), ("codec", 0.657, 0.743, 0.430, *none)],
        notes=(
            "The paper's pairs are in its author's repository: 41 of chosen words. Ours are drawn from the vocabulary, "
            "by edit distance, so the cosines are not comparable with the paper's.",
        ),
        paper_conditions=PAPER_CONDITIONS | {"pairs": "41 of chosen words"},
    )


def _stability(
    forms: Mapping[str, Mapping[str, Sequence[str]]], conditions: Mapping[str, str], k: int
) -> result.Result:
    rows = [(a, b, geometry.stability({a: forms[a], b: forms[b]})) for a, b in itertools.combinations(forms, 2)]
    told = [jaccard for a, b, jaccard in rows if subjects.RANDOM not in (a, b)]
    mean = float(np.nanmean(told)) if told else None
    return result.Result(
        name="stability",
        title=f"Stability: Jaccard index of the {k} nearest canonical forms, between embeddings",
        source="6.3",
        conditions=conditions,
        columns=("embedding", "and", "Jaccard"),
        rows=[*rows, ("mean of all pairs but the random table's", "", mean)],
        paper=[("mean of six trained models' pairs", "", 0.480)],
        paper_conditions=PAPER_CONDITIONS,
    )


def _byte_pairs() -> result.Result:
    cosines = {(a, b): geometry.code_cosine(a.encode(), b.encode()) for a, b in BYTE_PAIRS}
    return result.Result(
        name="byte_pairs",
        title="Cosine of two words' codes: unrelated words with similar bytes, and related words",
        source="6.5",
        conditions={"code": "before z-norm, without a space in front"},
        columns=("word", "and", "cosine"),
        rows=[(a, b, cosine) for (a, b), cosine in cosines.items()],
        paper=[(a, b, cosine) for (a, b), cosine in BYTE_PAIRS.items()],
        paper_conditions={"code": "before z-norm, without a space in front"},
        notes=(
            "The paper's zeros are after z-norm, about -0.001. decode and encode have four of six bytes at the same "
            "places, so the paper's zero for them is not the cosine of their codes.",
        ),
    )


def _unseen(found: Sequence[subjects.Subject], conditions: Mapping[str, str]) -> result.Result:
    rows = []
    for one in found:
        ids = one.nearest(UNSEEN, UNSEEN_K)
        near = [[str(one.forms[i]) for i in row if i >= 0] for row in ids]
        held = [geometry.holds_part(word, forms) for word, forms in zip(UNSEEN, near, strict=True)]
        rows.append((one.name, sum(held), len(held), f"{UNSEEN[0]}: {', '.join(near[0])}"))
    return result.Result(
        name="unseen",
        title=f"Unseen words that contain one of their {UNSEEN_K} nearest tokens, or are contained in one",
        source="6.5",
        conditions=conditions | {"unseen words": f"{len(UNSEEN)}"},
        columns=("embedding", "words", "of", "for example"),
        rows=rows,
        paper=[("codec, six vocabularies", 78, 120, "")],
        notes=(
            "A table has no row for such a word: its query is the mean of the word's tokens.",
            "The paper's 20 words are in its author's repository; ours are 20 others, so counts are not comparable.",
        ),
        paper_conditions=PAPER_CONDITIONS | {"unseen words": "20 others"},
    )
