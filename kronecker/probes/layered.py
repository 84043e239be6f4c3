"""Where in a model words of one family meet: the paper's section 6.8, Table 10.

Each token of the vocabulary is fed alone, at position 0, and its vector is taken before the first block and after
blocks.  A probe word's query is its first token; neighbours are sought among the whole vocabulary, mean-centred.

Shapes: V vocabulary, d model width, k neighbours.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kronecker import accounting, build, transformer
from kronecker.probes import geometry, neighbours, words

E_RAW, E_POST = "E_raw", "E_post"
BATCH = 1024  # tokens at a time
METRICS = ("loose", "root", "strict")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of one probe word in one space: shares of its k nearest neighbours.

    Attributes:
      loose: whose canonical form is another than the probe's.
      root: whose canonical form contains the family's root.
      strict: whose canonical form is in the family's list.
    """

    loose: float
    root: float
    strict: float


def score(neighbour_forms: Sequence[str], word: str, root: str, family: Sequence[str]) -> Scores:
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
) -> dict[str, dict[str, Scores]]:
    """Returns family -> word -> its scores among the rows of one space, the query's own token left out.

    Args:
      space_Vd: a vector for each id.
      first_tokens: probe word -> id of its first token.
      forms_V: canonical form of each id.
      k: neighbours of a word.
      families: name -> its words; words without a first token are left out.
      roots: name -> what the canonical form of a relative contains.
    """
    asked = [(name, word) for name, members in families.items() for word in members if word in first_tokens]
    ids = [first_tokens[word] for _, word in asked]
    mean_d = np.asarray(space_Vd, np.float64).mean(axis=0)
    found = neighbours.nearest(neighbours.Rows(space_Vd, space_Vd[ids], mean_d), k, exclude=[{i} for i in ids])
    scores: dict[str, dict[str, Scores]] = {name: {} for name in families}
    for (name, word), near in zip(asked, found.ids, strict=True):
        forms = [forms_V[i] for i in near if i >= 0]
        scores[name][word] = score(forms, word, roots[name], families[name])
    return scores


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Returns the mean of each share over words; NaN of none."""
    if not scores:
        return Scores(float("nan"), float("nan"), float("nan"))
    return Scores(*np.mean([dataclasses.astuple(one) for one in scores], axis=0).tolist())


def spaces(arm: build.Arm, params: Mapping[str, Any], layers: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, vectors float32 (V, d)) of the real vocabulary: E_raw, E_post (with position 0 added), L0, L1, ...

    Args:
      arm: the model and its bag.
      params: its parameters.
      layers: the blocks whose outputs are wanted, counted from 0.

    Raises:
      ValueError: if there is no such block.
    """
    shape = arm.model.shape
    missing = [layer for layer in layers if not 0 <= layer < shape.layers]
    if missing:
        raise ValueError(f"--layers={missing[0]}: the model has blocks 0 to {shape.layers - 1}")
    vectors = _batched(jax.jit(lambda ids: _embed(arm, params, ids)), np.arange(shape.vocab_size))
    yield E_RAW, vectors
    vectors = vectors + np.asarray(params["positions"][0], np.float32)
    yield E_POST, vectors
    block = jax.jit(lambda own, x_Nd: transformer.Block(shape, train=False).apply({"params": own}, x_Nd[:, None])[0])
    for layer in range(max(layers, default=-1) + 1):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        vectors = _batched(lambda x_Nd, own=own: block(own, x_Nd)[:, 0], vectors)
        if layer in layers:
            yield f"L{layer}", vectors


def _embed(arm: build.Arm, params: Mapping[str, Any], ids_N: jax.Array) -> jax.Array:
    embed = arm.model.embed
    return embed.apply({"params": params[accounting.INPUT]}, ids_N[:, None], arm.bag)[:, 0].astype(jnp.float32)


def _batched(function: Any, rows: np.ndarray) -> np.ndarray:
    """Applies `function` to BATCH rows at a time, the last ones padded, so that it compiles once."""
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % BATCH, axis=0)])
    done = [np.asarray(function(padded[i : i + BATCH])) for i in range(0, len(padded), BATCH)]
    return np.concatenate(done)[: len(rows)]
