"""Fits the projection W of a code to an existing input table, so that a trained body can go on without its table.

Least squares through the code, sum over ids of weight * |code W - row|^2, by its normal equations

    (C' F C + r I) W = C' F E,        C = S + b 1'  (V, D),  F = diag(weights),  E the table (V, d).

S has the cells of a bag, at most K of D in a row, and b is the shift of the z-norm: no dense V x D array is made, and
C' F C takes 8 D^2 bytes.  With counts of a text as weights, ids that do not occur in it cost nothing.

Least squares pull rows towards their mean: what the code does not explain is missing from their length, and a body adds
what it computes to rows of the length that it was trained with.  So the fit is stretched to the table's mean and
variance afterwards.

Shapes: V vocabulary, D rows of W, d width.
"""

import dataclasses

import numpy as np
import scipy.linalg
import scipy.sparse

from kronecker.embedding import bags

COUNTED = 1 << 25  # ids of a text, at most
RIDGE = 1e-6  # r as a share of the mean of the diagonal of C' F C: cells that no id uses would make it singular
LEAST_SHARE = 1e-9  # of the table's variance; a fit with less, one row for all ids, is not stretched
# The residuals: of all ids alike in the fit of all ids alike, then of ids as often as they occur in this fit and in the
# one that is weighted so.
BY_ID = "unexplained by id"
UNIFORM = "unexplained by occurrence, uniform fit"
WEIGHTED = "unexplained by occurrence, fit by occurrence"


def fit(bag: bags.Bag, table_Vd: np.ndarray, weights_V: np.ndarray | None = None, ridge: float = RIDGE) -> np.ndarray:
    """Returns W (D, d) in float64.

    Args:
      bag: the code; ids beyond the table's rows, padding, are left out.
      table_Vd: E.
      weights_V: of each id, for example how often it occurs; None: all equal.
      ridge: the share r of RIDGE; W becomes smaller, and the fit worse, as it grows.

    Raises ValueError if the shapes do not fit, a weight is negative, or all weights of ids with bytes are 0.
    """
    sparse_VD, shift_V, table_Vd, weights_V = _system(bag, table_Vd, weights_V)
    weighted_DV = sparse_VD.T.multiply(weights_V).tocsr()
    normal_DD = (weighted_DV @ sparse_VD).toarray()
    cross_D = weighted_DV @ shift_V
    normal_DD += cross_D[:, None] + cross_D[None, :] + weights_V @ shift_V**2
    if not np.trace(normal_DD) > 0:
        raise ValueError(
            "no id that occurs has bytes, so there is nothing to fit; give the text of the model's tokenizer"
        )
    normal_DD[np.diag_indices_from(normal_DD)] += ridge * np.trace(normal_DD) / bag.rows
    right_Dd = weighted_DV @ table_Vd + (weights_V * shift_V) @ table_Vd
    return scipy.linalg.solve(normal_DD, right_Dd, assume_a="pos", overwrite_a=True, overwrite_b=True)


def stretch(
    bag: bags.Bag, projection_Dd: np.ndarray, ones_D1: np.ndarray, table_Vd: np.ndarray, weights_V: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns the projection whose rows `code W` have the mean and the variance of the table, and the factor.

    `ones_D1` is a projection of which every row is 1, but for ids without bytes, whose rows stay 0.  The factor is of
    what differs from the mean; it is 1 if nothing does, or if the rows of 0 alone give the table's variance.
    """
    both_D = np.concatenate([projection_Dd, ones_D1], axis=1)
    rows_Vd, ones_V1 = np.split(table_of(bag, both_D)[: len(table_Vd)], [-1], axis=1)
    table_Vd, one = np.asarray(table_Vd, np.float64), _mean(ones_V1, weights_V)
    mean_d, own_d = _mean(table_Vd, weights_V), _mean(rows_Vd, weights_V)
    # The factor f of a + f b, rows of mean 0, for which |a|^2 + 2 f a.b + f^2 |b|^2 is the table's variance.
    a_Vd, b_Vd = ones_V1 * mean_d / one - mean_d, rows_Vd - ones_V1 * own_d / one
    wanted, across = _spread(table_Vd, weights_V), float(weights_V @ (a_Vd * b_Vd).sum(axis=1))
    a, b = _spread(a_Vd, weights_V), _spread(b_Vd, weights_V)
    solvable = b > LEAST_SHARE * wanted and a < wanted
    factor = (np.sqrt(across**2 + b * (wanted - a)) - across) / b if solvable else 1.0
    return factor * projection_Dd + ones_D1 * ((mean_d - factor * own_d) / one), float(factor)


def table_of(bag: bags.Bag, projection_Dd: np.ndarray) -> np.ndarray:
    """Returns the table C W (V, d) of a code, in float64."""
    return _table(*_code(bag, bag.vocab), projection_Dd)


def unexplained(
    bag: bags.Bag, projection_Dd: np.ndarray, table_Vd: np.ndarray, weights_V: np.ndarray | None = None
) -> float:
    """Returns the share of the table's variance, over ids with these weights, that `code W` does not explain.

    0 is a perfect fit, 1 that of one row for all ids; a fit for other weights may be above 1.
    """
    sparse_VD, shift_V, table_Vd, weights_V = _system(bag, table_Vd, weights_V)
    rest_Vd = table_Vd - _table(sparse_VD, shift_V, projection_Dd)
    return float(weights_V @ (rest_Vd**2).sum(axis=1) / _spread(table_Vd, weights_V))


@dataclasses.dataclass(frozen=True)
class Grafted:
    """Fits to one table, each a W (D, d)."""

    projection: np.ndarray  # to start from: the fit by occurrence, stretched to the table's mean and variance
    factor: float  # of the stretch: a tied head divides its logits by it, and is that of the least squares again
    by_occurrence: np.ndarray  # the least squares of ids as often as they occur
    uniform: np.ndarray  # those of all ids alike
    residuals: dict[str, float]  # BY_ID, UNIFORM and WEIGHTED -> the share of the variance that is unexplained


def graft(
    bag: bags.Bag,
    table_Vd: np.ndarray,
    counts_V: np.ndarray,
    held_out_counts_V: np.ndarray | None = None,
    ridge: float = RIDGE,
) -> Grafted:
    """Returns the fits, by `counts_V`, how often each id occurs in the text to train on, with the three residuals.

    `held_out_counts_V`: those of other text, by which both are measured; None: the same.
    """
    measured_V = counts_V if held_out_counts_V is None else held_out_counts_V
    uniform_Dd = fit(bag, table_Vd, ridge=ridge)
    with_ones = np.concatenate([table_Vd, np.ones((len(table_Vd), 1))], axis=1)
    weighted_Dd, ones_D1 = np.split(fit(bag, with_ones, counts_V, ridge), [-1], axis=1)
    return Grafted(
        *stretch(bag, weighted_Dd, ones_D1, table_Vd, counts_V),
        weighted_Dd,
        uniform_Dd,
        {
            BY_ID: unexplained(bag, uniform_Dd, table_Vd),
            UNIFORM: unexplained(bag, uniform_Dd, table_Vd, measured_V),
            WEIGHTED: unexplained(bag, weighted_Dd, table_Vd, measured_V),
        },
    )


def unfitted(bag: bags.Bag, table_Vd: np.ndarray, counts_V: np.ndarray, seed: int) -> np.ndarray:
    """Returns the control of a graft: W (D, d) of N(0, 1), stretched as the fit is."""
    drawn_Dd = np.random.default_rng(seed).standard_normal((bag.rows, table_Vd.shape[1]))
    ones_D1 = fit(bag, np.ones((len(table_Vd), 1)), counts_V)
    return stretch(bag, drawn_Dd, ones_D1, table_Vd, counts_V)[0]


def _system(
    bag: bags.Bag, table_Vd: np.ndarray, weights_V: np.ndarray | None
) -> tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Returns S (V, D), b, E and the weights, in float64, after checking their shapes."""
    vocab = len(table_Vd)
    weights_V = np.ones(vocab) if weights_V is None else np.asarray(weights_V, np.float64)
    if bag.vocab < vocab or weights_V.shape != (vocab,):
        raise ValueError(
            f"a table of {vocab:,} rows, a code of {bag.vocab:,} ids, and weights of shape {weights_V.shape}; give "
            "those of one vocabulary; only the code may have padding beyond it"
        )
    if not (np.isfinite(weights_V).all() and weights_V.min() >= 0 and weights_V.any()):
        raise ValueError("the weights of ids must be at least 0, and one above it: counts of a text are")
    return *_code(bag, vocab), np.asarray(table_Vd, np.float64), weights_V


def _code(bag: bags.Bag, vocab: int) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Returns S (V, D) and b of the first V ids."""
    shift_V = np.zeros(bag.vocab) if bag.shift is None else np.asarray(bag.shift)[np.asarray(bag.lengths)]
    return scipy.sparse.csr_array(*bags.sparse_code(bag))[:vocab], shift_V[:vocab]


def _mean(rows_Vd: np.ndarray, weights_V: np.ndarray) -> np.ndarray:
    return weights_V @ rows_Vd / weights_V.sum()


def _spread(rows_Vd: np.ndarray, weights_V: np.ndarray) -> float:
    """Returns the sum of weight * |row - mean row|^2."""
    return float(weights_V @ ((rows_Vd - _mean(rows_Vd, weights_V)) ** 2).sum(axis=1))


def _table(sparse_VD: scipy.sparse.csr_array, shift_V: np.ndarray, projection_Dd: np.ndarray) -> np.ndarray:
    return sparse_VD @ projection_Dd + shift_V[:, None] * projection_Dd.sum(axis=0)
