"""Control codes for the Kronecker code: bags over the same projection, each with one idea changed.

    head_tail             positions counted from both ends: tests the effect of suffixes and of bytes beyond P
    random_code           as many cells, drawn from the token id: tests the effect of sharing rows at random
    shuffled_code         the codes of ids of one length exchanged: tests the effect of spelling alone
    shuffled_code_space   the same, among ids that begin with a space and among the others
    hash_ngram            hashed byte 1-, 2- and 3-grams: tests the effect of the grid of positions

Each is a pure function of the bytes or the id, equal on every machine; all pseudo-random numbers come from `mix`.

Shapes: V vocabulary, P byte positions, K slots of a bag, D = 256 P rows of the projection.
"""

import numpy as np

from kronecker.embedding import bags, codec

SPACE = 0x20
START, END = codec.CHAR_DIM, codec.CHAR_DIM + 1  # symbols before the first and after the last byte of a token
LONGEST_GRAM = 3


def head_tail_bag(table: codec.ByteTable, norm: str = "z") -> bags.Bag:
    """Returns the bag with byte i at position i, and with byte j from the end at position P - P//2 + j.

    Positions 0 to P - P//2 - 1 count from the start, the others from the end; a byte of a short token has one of each.
    `table` must have truncation="head_tail", which keeps the last bytes of long tokens.  `norm` is as in
    `kronecker_bag`, with n = min(L, P - P//2) + min(L, P//2) cells.
    """
    tail = table.pos_dim // 2
    head = table.pos_dim - tail
    positions_P = np.arange(table.pos_dim)
    lengths_V1 = table.lengths[:, None]
    from_end_VP = lengths_V1 - 1 - (positions_P - head)  # for positions of the tail
    used_VP = np.where(positions_P < head, positions_P < lengths_V1, from_end_VP >= 0)
    index_VP = np.where(positions_P < head, positions_P, np.clip(from_end_VP, 0, None))
    symbols_VP = np.take_along_axis(table.bytes, index_VP, axis=1).astype(np.int64)
    return _bag_of_cells(symbols_VP * table.pos_dim + positions_P, used_VP, table.code_dim, norm)


def random_code_bag(table: codec.ByteTable, norm: str = "z", draw: int = 0) -> bags.Bag:
    """Returns the Kronecker bag with the bytes of each id replaced by pseudo-random bytes of the same number.

    Try t of the byte at position p of id v is mix(mix(mix(v + 2^32 draw) + t) + p) mod 256.  On a collision with an
    earlier id of equal length, all bytes of the id are redrawn.  One-byte ids get a permutation of the 256 values, in
    the order of mix(v + 2^32 draw), which repeats if there are more than 256 of them.
    """
    bytes_VP = np.zeros(table.bytes.shape, np.uint8)
    for length in range(1, table.pos_dim + 1):
        ids = np.flatnonzero(table.lengths == length).astype(np.uint64)
        if length == 1:
            bytes_VP[ids[np.argsort(_mixed(ids, draw))], 0] = np.arange(len(ids)) % codec.CHAR_DIM
            continue
        positions, attempt = np.arange(length, dtype=np.uint64), np.zeros(len(ids), np.uint64)
        taken = np.arange(len(ids))
        while taken.size:
            drawn = mix(mix(_mixed(ids[taken], draw) + attempt[taken])[:, None] + positions) % np.uint64(codec.CHAR_DIM)
            bytes_VP[ids[taken], :length] = drawn
            _, first = np.unique(bytes_VP[ids, :length], axis=0, return_index=True)
            taken = np.setdiff1d(np.arange(len(ids)), first)
            attempt[taken] += np.uint64(1)
    return bags.kronecker_bag(table, norm).replace(symbols=bytes_VP)


def shuffled_code_bag(table: codec.ByteTable, norm: str = "z", draw: int = 0) -> bags.Bag:
    """Returns the Kronecker bag with the bytes of ids of equal length exchanged, so that spelling says nothing.

    The vocabulary has the same codes, cells in use and rank as before, and no id keeps its own bytes: in the order of
    mix(id + 2^32 draw), each id gets the bytes of the one before it.  Special ids keep theirs, as does the only id of a
    length.
    """
    return _shuffled(table, norm, table.lengths, draw)


def shuffled_code_space_bag(table: codec.ByteTable, norm: str = "z", draw: int = 0) -> bags.Bag:
    """Returns `shuffled_code_bag` with an exchange only among ids that begin with a space, and among the others."""
    return _shuffled(table, norm, 2 * table.lengths + (table.bytes[:, 0] == SPACE), draw)


def _shuffled(table: codec.ByteTable, norm: str, class_V: np.ndarray, draw: int) -> bags.Bag:
    bytes_VP = table.bytes.copy()
    moves_V = table.lengths > 0
    moves_V[list(table.special)] = False
    for one in np.unique(class_V[moves_V]):
        ids = np.flatnonzero(moves_V & (class_V == one))
        order = ids[np.argsort(_mixed(ids, draw))]
        bytes_VP[order] = table.bytes[np.roll(order, 1)]
    return bags.kronecker_bag(table, norm).replace(symbols=bytes_VP)


def hash_ngram_bag(table: codec.ByteTable, norm: str = "length") -> bags.Bag:
    """Returns the bag of the hashed 1-, 2- and 3-grams of START + bytes + END, each with weight n^(-1/2).

    Use norm "length" only: grams may share a cell, and the closed form of the z-norm holds for distinct cells.

    START and END alone are not 1-grams, so a token of L bytes has n = 3 L + 1 grams.  The cell of a gram is the hash h
    of its symbols mod D: h starts as their number, then h = mix(h XOR (symbol + 1)) for each, from left to right.
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


def _mixed(ids: np.ndarray, draw: int) -> np.ndarray:
    return mix(ids.astype(np.uint64) + (np.uint64(draw) << np.uint64(32)))


def _bag_of_cells(cells_VK: np.ndarray, used_VK: np.ndarray, rows: int, norm: str) -> bags.Bag:
    """Returns the bag of the used cells of each id, packed into its first slots."""
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
