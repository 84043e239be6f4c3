"""Nearest neighbours over a whole vocabulary, exact, in blocks: of rows of a matrix, or of codes never written out.

Cosines that agree to CLOSE are ties, and the lower id wins a tie, so the result does not depend on the order of
additions in a matrix product.  The cosine with a zero vector is 0.

Shapes: Q queries, V vocabulary, d width, P byte positions, k neighbours.
"""

from collections.abc import Collection, Sequence

import numpy as np
import scipy.sparse

from kronecker.embedding import bags, codec

BLOCK = 16_384  # ids at a time: 0.5 GB of float32 at width 8,192
CLOSE = 1e-6


class Rows:
    """Queries against the rows of a matrix; the vocabulary's mean, `mean_d`, is subtracted from both if given.

    The matrix is of any float type and may be memory-mapped: it is read block by block.
    """

    def __init__(self, matrix_Vd: np.ndarray, queries_Qd: np.ndarray, mean_d: np.ndarray | None = None) -> None:
        self._matrix, self._mean, self.vocab = matrix_Vd, mean_d, len(matrix_Vd)
        self._queries = _unit(self._centred(queries_Qd))

    def cosines(self, start: int, stop: int) -> np.ndarray:
        """Returns the cosines of every query with the ids start to stop, (Q, stop - start)."""
        return self._queries @ _unit(self._centred(self._matrix[start:stop])).T

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float32)
        return rows if self._mean is None else rows - self._mean.astype(np.float32)


class Codes:
    """Queries, any byte strings, against the Kronecker codes of a vocabulary: cosine = equal bytes / sqrt(L1 L2).

    The code before its z-norm and without a projection.  Queries are cut to P bytes as `codec.truncate` does by
    default.
    """

    def __init__(self, table: codec.ByteTable, queries: Sequence[bytes]) -> None:
        self._codes, self.vocab = codes(table), len(table.lengths)
        self._queries = codes(codec.byte_table(list(queries), table.pos_dim))

    def cosines(self, start: int, stop: int) -> np.ndarray:
        return (self._queries @ self._codes[start:stop].T).toarray()


def codes(table: codec.ByteTable) -> scipy.sparse.csr_array:
    """Returns the Kronecker codes (V, D) of length 1, sparse."""
    return scipy.sparse.csr_array(*bags.sparse_code(bags.kronecker_bag(table, "length")))


def nearest(space: Rows | Codes, k: int, exclude: Sequence[Collection[int]] = ()) -> np.ndarray:
    """Returns the k nearest ids of each query of `space`, int64 (Q, k), the highest cosine first.

    An id is -1 where fewer than k ids could be chosen.
    `exclude` has for each query the ids that do not count, such as its own; empty: none.
    """
    ids = scores = None
    for start in range(0, space.vocab, BLOCK):
        stop = min(start + BLOCK, space.vocab)
        found = np.round(np.asarray(space.cosines(start, stop), np.float64) / CLOSE) * CLOSE
        for row, unwanted in enumerate(exclude):
            inside = [i - start for i in unwanted if start <= i < stop]
            found[row, inside] = -np.inf
        block_ids = np.broadcast_to(np.arange(start, stop), found.shape)
        if ids is not None:
            found, block_ids = np.hstack([scores, found]), np.hstack([ids, block_ids])
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        ids, scores = np.take_along_axis(block_ids, order, 1), np.take_along_axis(found, order, 1)
    return np.where(np.isfinite(scores), ids, -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
