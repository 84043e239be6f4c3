"""The codes that the Kronecker code is compared with: bags of the same projection, each with one idea taken out.

    head_tail     bytes counted from both ends: what suffixes add, and tokens that differ after byte P
    random_code   as many cells, drawn from the token id: what spelling adds to a shared low-rank projection
    hash_ngram    hashed byte 1-, 2- and 3-grams: what the grid of positions adds

All are pure functions of the bytes or the id, equal on every machine: `mix` is the one source of chance.

Shapes: V vocabulary, P byte positions, K slots of a bag, D = 256 P rows of the projection.
"""

import numpy as np

from kronecker.embedding import bags, codec

START, END = codec.CHAR_DIM, codec.CHAR_DIM + 1  # what stands before the first and after the last byte of a token
LONGEST_GRAM = 3


def head_tail_bag(table: codec.ByteTable, norm: str = "z") -> bags.Bag:
    """Returns the bag in which byte i is on at position i, and byte j from the end at position P/2 + j.

    The first P - P//2 and the last P//2 bytes have a position each; a short token's bytes have two.  `table` is made
    with truncation="head_tail", so that the last bytes of long tokens are there.  `norm` is as of the Kronecker code,
    of n = min(L, P - P//2) + min(L, P//2) cells.
    """
    tail = table.pos_dim // 2
    head = table.pos_dim - tail
    positions_P = np.arange(table.pos_dim)
    lengths_V1 = table.lengths[:, None]
    from_end_VP = lengths_V1 - 1 - (positions_P - head)  # of the tail's positions
    used_VP = np.where(positions_P < head, positions_P < lengths_V1, from_end_VP >= 0)
    index_VP = np.where(positions_P < head, positions_P, np.clip(from_end_VP, 0, None))
    symbols_VP = np.take_along_axis(table.bytes, index_VP, axis=1).astype(np.int64)
    return _bag_of_cells(symbols_VP * table.pos_dim + positions_P, used_VP, table.code_dim, norm)


def random_code_bag(table: codec.ByteTable, norm: str = "z") -> bags.Bag:
    """Returns the Kronecker bag with the bytes of each id replaced by pseudo-random ones; lengths stay.

    Try t at the byte at position p of id v is mix(mix(mix(v) + t) + p) mod 256; an id whose bytes an earlier id of its
    length has tries again, so that identity is not lost with spelling.  Ids of one byte get all 256 in the order of
    mix(v), and again from the first where there are more of them.
    """
    bytes_VP = np.zeros(table.bytes.shape, np.uint8)
    for length in range(1, table.pos_dim + 1):
        ids = np.flatnonzero(table.lengths == length).astype(np.uint64)
        if length == 1:
            bytes_VP[ids[np.argsort(mix(ids))], 0] = np.arange(len(ids)) % codec.CHAR_DIM
            continue
        positions, attempt = np.arange(length, dtype=np.uint64), np.zeros(len(ids), np.uint64)
        taken = np.arange(len(ids))
        while taken.size:
            drawn = mix(mix(mix(ids[taken]) + attempt[taken])[:, None] + positions) % np.uint64(codec.CHAR_DIM)
            bytes_VP[ids[taken], :length] = drawn
            _, first = np.unique(bytes_VP[ids, :length], axis=0, return_index=True)
            taken = np.setdiff1d(np.arange(len(ids)), first)
            attempt[taken] += np.uint64(1)
    return bags.kronecker_bag(table, norm).replace(symbols=bytes_VP)


def hash_ngram_bag(table: codec.ByteTable, norm: str = "length") -> bags.Bag:
    """Returns the bag of the hashed 1-, 2- and 3-grams of START + bytes + END, n^(-1/2) a gram.

    No other norm is exact: grams may share a cell, and the z-norm's closed form is that of distinct cells.

    The marks alone are no 1-grams, so a token of L bytes has n = 3 L + 1 of them.  A gram's cell is its symbols' hash,
    h = mix(h XOR (symbol + 1)) from left to right, begun with h = its number of symbols, mod D.
    """
    vocab, pos_dim = table.bytes.shape
    symbols = np.full((vocab, pos_dim + 2), END, np.uint64)
    symbols[:, 0] = START
    inside = np.arange(pos_dim) < table.lengths[:, None]
    symbols[:, 1:-1][inside] = table.bytes[inside]
    cells, used = [], []
    for size in range(1, LONGEST_GRAM + 1):
        begin = 1 if size == 1 else 0
        for first in range(begin, pos_dim + 2 - size + (size > 1)):
            gram = np.full(vocab, size, np.uint64)
            for symbol in symbols[:, first : first + size].T:
                gram = mix(gram ^ (symbol + np.uint64(1)))
            cells.append(gram % np.uint64(table.code_dim))
            last = first + size - 1
            used.append((table.lengths > 0) & (last <= table.lengths + (size > 1)))
    return _bag_of_cells(np.stack(cells, 1), np.stack(used, 1), table.code_dim, norm)


def mix(x: np.ndarray) -> np.ndarray:
    """Returns splitmix64's output for the states `x`, uint64: a fixed bijection whose low bits look random."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _bag_of_cells(cells_VK: np.ndarray, used_VK: np.ndarray, rows: int, norm: str) -> bags.Bag:
    """Returns the bag of the used cells of each id, moved to its first slots."""
    order_VK = np.argsort(~used_VK, axis=1, kind="stable")
    packed_VK = np.where(np.take_along_axis(used_VK, order_VK, 1), np.take_along_axis(cells_VK, order_VK, 1), 0)
    lengths_V = used_VK.sum(axis=1)
    scale, shift = bags.weights(cells_VK.shape[1], norm, rows)
    return bags.Bag(
        symbols=packed_VK.astype(np.min_scalar_type(rows - 1)),
        lengths=lengths_V.astype(np.int16),
        scale=scale,
        shift=shift,
        rows=rows,
    )
