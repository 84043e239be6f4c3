"""How much of an input embedding its vocabulary uses, and how far one step of Adam moves an embedding.

Shapes: V vocabulary, D rows of the projection W, r rank of a factorized table, d model width.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import scipy.sparse
from etils import epath

from kronecker import tokenization
from kronecker.embedding import bags, codec
from kronecker.model import accounting, build
from kronecker.run import result
from kronecker.schema import arms
from kronecker.training import restore

COLUMNS = ("arm", "rows in use", "of", "effective rank", "read, %", "initial std", "step / rate", "step / (rate std)")
NOTES = (
    "Rows in use: of W, those that some token's code lights; of a table, those of tokens. Effective rank: of the "
    "cells, 0 or 1, of all tokens: (sum of s²)² / sum of s⁴ over singular values s. Read: the share of the input's "
    "parameters in these rows.",
    "A step: how far Adam's first update, which moves each parameter by the rate, can move an entry of the embedding "
    "of a token of median length. The z-norm's shift, common to all tokens of one length, is left out.",
)
RAREST = 0.01  # the quantile of the second moments that is told beside their median


class Use(NamedTuple):
    """What a vocabulary uses of an input embedding, and the scale and step of an embedding."""

    rows_in_use: int  # of W or the table
    rows: int
    effective_rank: float | None  # of the cells of all ids; None: no code
    read_share: float  # of the input's parameters
    std: float  # of the entries of an initial embedding of a token of median length
    step: float  # how far Adam's first update can move them, over the rate


def measure(tokenizer: tokenization.Tokenizer, pos_dim: int = 16) -> result.Result:
    """Returns the table of all arms with a table or a code, for a vocabulary and P."""
    rows = []
    for arm in arms.ARMS.values():
        embedding = arm.overrides | {"embedding.pos_dim": pos_dim, "embedding.scale": 1.0}
        bag = None
        if arm.kind.bag:
            truncation, norm = embedding["embedding.truncation"], embedding["embedding.norm"]
            codes = codec.byte_table(tokenizer.token_bytes, pos_dim, 0, truncation, tokenizer.special_ids)
            bag = build.make_bag(codes, arm.kind.name, norm)
        if bag or arm.kind is arms.TABLE:
            found = of(embedding, bag, tokenizer.vocab_size)
            share = 100 * found.read_share
            rows.append((arm.name, *found[:3], share, found.std, found.step, found.step / found.std))
    return result.Result(
        name="input_use",
        title="What an input embedding uses, and how far a step moves it",
        source="",
        conditions={"tokenizer": tokenizer.name, "P": str(pos_dim)},
        columns=COLUMNS,
        rows=rows,
        notes=NOTES,
    )


def of(embedding: Mapping[str, Any], bag: bags.Bag | None, vocab: int, rank: int = 0) -> Use:
    """Returns what `vocab` ids use; `embedding` is {dotted key: value}, `rank` that of a factorized table."""
    kind, scale = arms.kind(embedding["embedding.kind"]), embedding["embedding.scale"]
    init_std = embedding["embedding.init_std"] or arms.derived_init_std(embedding)
    has_table = "vocab" in kind.takes
    if bag is None:
        # Adam's step moves each entry of U and of Q by the rate; E|x| of a normal x is sqrt(2/pi) of its std.
        step = math.sqrt(2 / math.pi) * rank * (rank**-0.5 + init_std) if rank else 1.0
        return Use(vocab, vocab, None, 1.0, scale * init_std, scale * step)
    cells = int(np.median(bag.lengths[bag.lengths > 0]))
    weight, used, extra = float(bag.scale[cells]), bags.rows_in_use(bag), vocab * has_table
    # the std of an embedding: the table's, or that of a sum of n rows of W with weight A(n)
    std = init_std if has_table else init_std * weight * math.sqrt(cells)
    share = (used + extra) / (bag.rows + extra)
    return Use(used, bag.rows, effective_rank(bag), share, scale * std, scale * (weight * cells + has_table))


def of_run(folder: epath.PathLike) -> dict[str, Any]:
    """Returns what a finished run's input uses, with Adam's second moments at its last checkpoint; for input_use.json.

    Raises ValueError as `restore.open_run` does.
    """
    run = restore.open_run(folder, optimizer=True)
    embedding = {f"embedding.{key}": value for key, value in run.config.embedding.items()}
    rank = run.config.embedding.rank
    if arms.kind(run.config.embedding.kind) is arms.FACTORIZED:
        rank = run.params[accounting.INPUT]["factor"].shape[1]
    found = of(embedding, jax.device_get(run.arm.bag), run.tokenizer.vocab_size, rank)
    rate = run.config.train.lr * run.config.embedding.lr_mult
    return {
        "training_step": run.step,
        **found._asdict(),
        "peak_step_over_std": rate * found.step / found.std,
        **_second_moments(run),
    }


def effective_rank(bag: bags.Bag) -> float:
    """Returns (sum of s^2)^2 / sum of s^4 over the singular values s of the cells, 0 or 1, of all ids."""
    cells_VD = scipy.sparse.csr_array(*bags.sparse_code(bag))
    cells_VD.data[:] = 1
    gram = cells_VD.T @ cells_VD
    return float(gram.trace() ** 2 / gram.power(2).sum())


def _second_moments(run: restore.Restored) -> dict[str, float | None]:
    """Returns the share of the input's matrices that had a gradient, and sqrt(v) / eps over it: a quantile, the median.

    None for an optimizer that keeps no second moment of each parameter.
    """
    kept = [of[accounting.INPUT] for _, of in optax.tree.get_all_with_path(run.opt_state, "nu")]
    matrices = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(kept) if leaf.ndim > 1]
    if not matrices:
        return dict.fromkeys(("trained_share", "rare_moment_over_eps", "median_moment_over_eps"))
    moments = np.concatenate(matrices) / (1 - run.config.train.beta2**run.step)
    trained = np.sqrt(moments[moments > 0]) / run.config.train.eps
    rare, median = np.quantile(trained, (RAREST, 0.5)).tolist()
    return {
        "trained_share": len(trained) / len(moments),
        "rare_moment_over_eps": rare,
        "median_moment_over_eps": median,
    }
