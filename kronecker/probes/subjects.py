"""What geometry is measured on: the rows of a learned table, or the codes of a vocabulary without any model.

Both have the same methods, so one probe serves both.  A word has no space in front.  Its query is the mean of its
tokens' rows in a table, and the code of its own bytes among codes, as in the paper (6.1).

Shapes: V vocabulary, d width, N pairs, k neighbours.
"""

from collections.abc import Sequence

import numpy as np

from kronecker import tokenization
from kronecker.embedding import codec
from kronecker.probes import geometry, neighbours, words


class Table:
    """A learned (or random) embedding table and its tokenizer; `forms` has the canonical form of each id, (V,)."""

    def __init__(self, name: str, matrix_Vd: np.ndarray, tokenizer: tokenization.Tokenizer) -> None:
        """Rows beyond the tokenizer's vocabulary are padding and are ignored.

        Raises ValueError if the tokenizer has more ids than the matrix has rows.
        """
        if tokenizer.vocab_size > len(matrix_Vd):
            raise ValueError(
                f"{name} has {len(matrix_Vd):,} rows, but {tokenizer.spec} has {tokenizer.vocab_size:,} ids; "
                "give the tokenizer that the model was trained with"
            )
        self.name, self.tokenizer = name, tokenizer
        self._matrix = matrix_Vd[: tokenizer.vocab_size]
        self.forms = words.canonical_forms(tokenizer.token_bytes)

    def nearest(self, asked: Sequence[str], k: int) -> np.ndarray:
        """Returns the k nearest ids of each word as `neighbours.nearest` does, without the ids of the word itself."""
        tokens = [ids.tolist() for ids in self.tokenizer.encode_batch(list(asked))]
        queries = np.stack([np.asarray(self._matrix[ids], np.float32).mean(axis=0) for ids in tokens])
        return neighbours.nearest(neighbours.Rows(self._matrix, queries), k, exclude=tokens)

    def pair_cosines(self, pairs_N2: np.ndarray) -> np.ndarray:
        """Returns the raw cosine of each pair of ids, (N,)."""
        return geometry.row_cosines(self._matrix, pairs_N2)

    def anisotropy(self) -> geometry.Anisotropy:
        return geometry.anisotropy(self._matrix)


RANDOM = "random"


def random(tokenizer: tokenization.Tokenizer, width: int = 768) -> Table:
    """Returns a table of independent standard normal numbers for a vocabulary: the reference of every metric."""
    matrix = np.random.default_rng(0).standard_normal((tokenizer.vocab_size, width), dtype=np.float32)
    return Table(RANDOM, matrix, tokenizer)


class Codec:
    """The Kronecker codes of a tokenizer's vocabulary, before z-norm and projection."""

    def __init__(self, name: str, tokenizer: tokenization.Tokenizer, pos_dim: int) -> None:
        self.name = name
        self._bytes = tokenizer.token_bytes
        self._table = codec.byte_table(tokenizer.token_bytes, pos_dim)
        self._codes = neighbours.codes(self._table)
        self.forms = words.canonical_forms(tokenizer.token_bytes)

    def nearest(self, asked: Sequence[str], k: int) -> np.ndarray:
        queries = [word.encode() for word in asked]
        own = [[i for i, token in enumerate(self._bytes) if token == query] for query in queries]
        return neighbours.nearest(neighbours.Codes(self._table, queries), k, exclude=own)

    def pair_cosines(self, pairs_N2: np.ndarray) -> np.ndarray:
        left, right = (self._codes[ids_N] for ids_N in pairs_N2.T)
        return left.multiply(right).sum(axis=1)

    def anisotropy(self) -> geometry.Anisotropy:
        chosen = np.flatnonzero(self._table.lengths)
        cosines = self.pair_cosines(chosen[geometry.random_pairs(len(chosen), geometry.PAIRS)])
        mean_D = self._codes[chosen].mean(axis=0)
        return geometry.Anisotropy(float(cosines.mean()), float(np.linalg.norm(mean_D)), 1.0)


Subject = Table | Codec
