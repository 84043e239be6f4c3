"""A bag: a fixed code of each token, written as the list of the rows of a projection that the token sums.

A Kronecker code has L equal nonzero cells, and its z-norm adds one constant to all D cells, so

    kappa W = A(L) * sum_k W[cell_k]  +  B(L) * sum_D W,        scalars A(L), B(L) that depend only on L:

an embedding bag of L rows plus a rank-1 shift.  The shift also enters the gradient, where it reaches every row of W.
All bag arms use the same product, in `implementations.py`; they differ only in their `Bag`, which is data.

Shapes: N tokens, V vocabulary, K slots of a bag, D rows of the projection W, d model width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kronecker.embedding import codec
from kronecker.schema import choices

Array = jax.Array | np.ndarray


class Bag(struct.PyTreeNode):
    """Which rows of W an id sums, and with which weight.

    In every arm all cells of an id have one weight, so a bag stores it by length, not by cell: V (K + 2) bytes for a
    byte grid.  Pass a Bag to a jitted function as an argument; if captured, it is compiled in as a constant.  All its
    arrays hold integers, so that no optimizer over a tree with a Bag in it trains or decays them.

    Attributes:
      symbols: unsigned (V, K); slot k of id v is row `symbols[v, k] * symbol_stride + k * slot_stride` of W.
      lengths: int16 (V,), number of used slots.
      scale: A by length, K + 1 numbers of float64.
      shift: B by length; None if the code is not centred.
      rows: D.
      codes: unsigned (V, D), the bits of the dense codes in `codes_dtype`; only for "cached".
      order: int32 (V,), all ids, longest first; for the induced table.
      implementation: how `product` computes.  `implementations.prepare` sets it, `codes`, `order` and all below.
      gather_gradient: how "gather" sums into W: "scatter" or "onehot".
      platform: where it runs: "cpu", "gpu" or "tpu".
      buckets: parts of `order`, each as (number of ids, most slots used by one); empty: no one-hot products.
    """

    symbols: Array
    lengths: Array
    codes: Array | None = None
    order: Array | None = None
    scale: tuple[float, ...] = struct.field(pytree_node=False, kw_only=True)
    shift: tuple[float, ...] | None = struct.field(pytree_node=False, kw_only=True)
    rows: int = struct.field(pytree_node=False, kw_only=True)
    symbol_stride: int = struct.field(pytree_node=False, default=1)
    slot_stride: int = struct.field(pytree_node=False, default=0)
    codes_dtype: str = struct.field(pytree_node=False, default="float32")
    implementation: str = struct.field(pytree_node=False, default="bag")
    gather_gradient: str = struct.field(pytree_node=False, default="scatter")
    platform: str = struct.field(pytree_node=False, default="cpu")
    buckets: tuple[tuple[int, int], ...] = struct.field(pytree_node=False, default=())

    @property
    def vocab(self) -> int:
        return self.symbols.shape[0]

    @property
    def slots(self) -> int:
        return self.symbols.shape[1]

    def cells(self, ids_N: jax.Array, lengths_N: jax.Array) -> jax.Array:
        """Returns the rows of W that `ids_N` sum, int32 (N, K); an unused slot has D, which is out of bounds.

        Only the first `lengths_N` slots of each id count as used.
        """
        slots_K = jnp.arange(self.slots)
        cells_NK = self._cell(jnp.asarray(self.symbols)[ids_N].astype(jnp.int32), slots_K)
        return jnp.where(slots_K < lengths_N[:, None], cells_NK, self.rows)

    def host_cells(self, ids_N: np.ndarray) -> np.ndarray:
        """Returns `cells` with all slots of the ids, int64 (N, K), by numpy, independently of a device under test."""
        slots_K = np.arange(self.slots)
        cells_NK = self._cell(np.asarray(self.symbols)[ids_N].astype(np.int64), slots_K)
        return np.where(slots_K < np.asarray(self.lengths)[ids_N][:, None], cells_NK, self.rows)

    def _cell(self, symbol: Any, slot: Any) -> Any:
        return symbol * self.symbol_stride + slot * self.slot_stride


def kronecker_bag(table: codec.ByteTable, norm: str = "z") -> Bag:
    """Returns the bag of the Kronecker code.

    Args:
      table: the vocabulary's bytes.
      norm: "z" for the paper's z-norm; "length" for unit norm, 1/sqrt(L) in each cell.
    """
    scale, shift = weights(table.pos_dim, norm, table.code_dim)
    return Bag(
        symbols=table.bytes,
        lengths=table.lengths.astype(np.int16),
        scale=scale,
        shift=shift,
        rows=table.code_dim,
        symbol_stride=table.pos_dim,
        slot_stride=1,
    )


def weights(slots: int, norm: str, code_dim: int) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Returns A(L) and B(L), K + 1 numbers each, of a code of L distinct cells of value L^(-1/2); both are 0 at L = 0.

    The z-norm in closed form: such a code has mean sqrt(L)/D and unbiased variance (1 - L/D)/(D - 1).  For "length", B
    is None.  `slots` is K, the largest L; `code_dim` is D.  Raises ValueError if the norm is unknown.
    """
    if norm not in choices.NORMS:
        raise ValueError(f"norm is {norm!r}; allowed: {', '.join(choices.NORMS)}")
    length = np.arange(slots + 1, dtype=np.float64)
    unit = np.divide(1.0, np.sqrt(length), out=np.zeros_like(length), where=length > 0)
    if norm == "length":
        return tuple(unit.tolist()), None
    std = np.sqrt((1.0 - length / code_dim) / (code_dim - 1))
    inverse = np.where(length > 0, 1.0 / (std + codec.Z_NORM_EPS), 0.0)
    return tuple((unit * inverse).tolist()), tuple((-np.sqrt(length) / code_dim * inverse).tolist())


def rows_in_use(bag: Bag) -> int:
    """Returns how many of the D rows of W some id sums."""
    return int((uses(bag) > 0).sum())


def uses(bag: Bag) -> np.ndarray:
    """Returns how often the ids of the vocabulary sum each row of W, int64 (D,)."""
    return np.bincount(bag.host_cells(np.arange(bag.vocab)).ravel(), minlength=bag.rows + 1)[: bag.rows]


def sharing(bag: Bag) -> int:
    """Returns how many ids have exactly the same cells as another id; ids without cells do not count."""
    return int((shared_code(bag) >= 0).sum())


def shared_code(bag: Bag) -> np.ndarray:
    """Returns int32 (V,): one number per group of ids with equal cells, -1 for an id whose cells are unique."""
    lengths_V = np.asarray(bag.lengths)
    used = np.flatnonzero(lengths_V)
    cells_NK = np.sort(bag.host_cells(used), axis=1)
    _, group_N, count = np.unique(cells_NK, axis=0, return_inverse=True, return_counts=True)
    group_N = group_N.reshape(-1)
    shared_V = np.full(bag.vocab, -1, np.int32)
    shared_V[used] = np.where(count[group_N] > 1, group_N, -1)
    return shared_V


def sparse_code(bag: Bag) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[int, int]]:
    """Returns the codes (V, D) in float64, without their shift, as `scipy.sparse.csr_array` takes them."""
    cells_VK, lengths_V = bag.host_cells(np.arange(bag.vocab)), np.asarray(bag.lengths)
    values = np.repeat(np.asarray(bag.scale)[lengths_V], lengths_V)
    ends = np.concatenate([[0], np.cumsum(lengths_V, dtype=np.int64)])
    return (values, cells_VK[cells_VK < bag.rows], ends), (bag.vocab, bag.rows)


def dense_code(bag: Bag, ids: np.ndarray) -> np.ndarray:
    """Returns the codes (N, D) of `ids` (N,) in float64, cell by cell: the reference for tests of the product."""
    code = np.zeros((len(ids), bag.rows))
    for row, (token_id, cells) in enumerate(zip(ids, bag.host_cells(ids), strict=True)):
        length = int(bag.lengths[token_id])
        np.add.at(code[row], cells[:length], bag.scale[length])
        if bag.shift is not None:
            code[row] += bag.shift[length]
    return code
