"""The exact product of a code and its projection, without ever building the code.

A Kronecker code has L equal nonzero cells, and its z-norm adds one constant to all D of them, so

    kappa W = A(L) * sum_k W[cell_k]  +  B(L) * sum_D W,        A(L), B(L) scalars that depend on L alone:

an embedding bag of L rows and a rank-1 shift.  The shift belongs to the gradient too: it reaches every row of W.
Every bag arm is this one product; an arm differs in its `Bag`, which is data.

Shapes: N tokens (any leading shape), V vocabulary, K slots of a bag, D rows of the projection W, d model width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kronecker import codec


class Bag(struct.PyTreeNode):
    """Which rows of W an id sums, and with which weight.

    One weight serves all cells of an id in every arm, so a bag stores it by length, not by cell: V (K + 4) bytes for a
    byte grid.  Pass a Bag to a jitted function as an argument; captured as a constant it would be compiled into it.

    Attributes:
      symbols: unsigned (V, K); slot k of id v is row `symbols[v, k] * symbol_stride + k * slot_stride` of W.
      lengths: int32 (V,), slots in use.
      scale: float (K + 1,), A by length; float64 on the host, which JAX narrows unless x64 is on.
      shift: float (K + 1,), B by length; None where the code is not centred.
      rows: D.
      symbol_stride: see `symbols`.
      slot_stride: see `symbols`.
    """

    symbols: jax.Array
    lengths: jax.Array
    scale: jax.Array
    shift: jax.Array | None
    rows: int = struct.field(pytree_node=False)
    symbol_stride: int = struct.field(pytree_node=False, default=1)
    slot_stride: int = struct.field(pytree_node=False, default=0)


def kronecker_bag(table: codec.ByteTable, norm: str = "z") -> Bag:
    """Returns the bag of the Kronecker code.

    Args:
      table: the vocabulary's bytes.
      norm: "z" for the paper's z-norm; "length" for the unit-norm code, 1/sqrt(L) a cell.
    """
    if norm not in codec.NORMS:
        raise ValueError(f"norm is {norm!r}; allowed: {', '.join(codec.NORMS)}")
    length = np.arange(table.pos_dim + 1, dtype=np.float64)
    unit = np.divide(1.0, np.sqrt(length), out=np.zeros_like(length), where=length > 0)
    scale, shift = (unit, None) if norm == "length" else z_norm(length, unit, table.code_dim)
    return Bag(
        symbols=table.bytes,
        lengths=table.lengths,
        scale=scale,
        shift=shift,
        rows=table.code_dim,
        symbol_stride=table.pos_dim,
        slot_stride=1,
    )


def z_norm(length: np.ndarray, unit: np.ndarray, code_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns A(L) and B(L) of the paper's z-norm in closed form; both are 0 at L = 0.

    A code with L cells of value L^(-1/2) has mean sqrt(L)/D and unbiased variance (1 - L/D)/(D - 1).

    Args:
      length: float64 (K + 1,), L = 0..K.
      unit: float64 (K + 1,), the value of a cell that is on, 0 at L = 0.
      code_dim: D.
    """
    mean = np.sqrt(length) / code_dim
    inverse = np.where(length > 0, 1.0 / (np.sqrt((1.0 - length / code_dim) / (code_dim - 1)) + codec.Z_NORM_EPS), 0.0)
    return unit * inverse, -mean * inverse


def product(projection_Dd: jax.Array, bag: Bag, ids: jax.Array) -> jax.Array:
    """Returns the embeddings of `ids`, shape ids.shape + (d,), in the projection's dtype (at least float32 inside).

    Args:
      projection_Dd: W, shape (bag.rows, d).
      bag: the arm's cells and weights.
      ids: integer token ids of any shape.

    Raises:
      ValueError: if W does not have one row for each cell of the code.
    """
    if projection_Dd.shape[0] != bag.rows:
        raise ValueError(f"the projection has {projection_Dd.shape[0]:,} rows; this code has {bag.rows:,} cells")
    ids_N = ids.reshape(-1)
    lengths_N = jnp.asarray(bag.lengths)[ids_N]
    weights_Dd = projection_Dd.astype(jnp.promote_types(projection_Dd.dtype, jnp.float32))
    cells_NK = _cells(bag, ids_N, lengths_N)
    out_Nd = jnp.asarray(bag.scale)[lengths_N][:, None] * _sum_rows(bag.rows, weights_Dd, cells_NK)
    if bag.shift is not None:
        out_Nd += jnp.asarray(bag.shift)[lengths_N][:, None] * weights_Dd.sum(axis=0)
    return out_Nd.reshape(*ids.shape, out_Nd.shape[-1]).astype(projection_Dd.dtype)


def _cells(bag: Bag, ids_N: jax.Array, lengths_N: jax.Array) -> jax.Array:
    slots_K = jnp.arange(bag.symbols.shape[1])
    cells_NK = jnp.asarray(bag.symbols)[ids_N].astype(jnp.int32) * bag.symbol_stride + slots_K * bag.slot_stride
    return jnp.where(slots_K < lengths_N[:, None], cells_NK, bag.rows)  # out of bounds: reads 0, writes nothing


# Written out because the transpose of K gathers is K separate (D, d) arrays; one accumulator is enough.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_rows(rows: int, weights_Dd: jax.Array, cells_NK: jax.Array) -> jax.Array:
    del rows
    total_Nd = jnp.zeros((cells_NK.shape[0], weights_Dd.shape[1]), weights_Dd.dtype)
    for slot in range(cells_NK.shape[1]):
        total_Nd += weights_Dd.at[cells_NK[:, slot]].get(mode="fill", fill_value=0)
    return total_Nd


def _sum_rows_forward(rows: int, weights_Dd: jax.Array, cells_NK: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _sum_rows(rows, weights_Dd, cells_NK), cells_NK


def _sum_rows_backward(rows: int, cells_NK: jax.Array, grad_Nd: jax.Array) -> tuple[jax.Array, None]:
    grad_Dd = jnp.zeros((rows, grad_Nd.shape[1]), grad_Nd.dtype)
    for slot in range(cells_NK.shape[1]):
        grad_Dd = grad_Dd.at[cells_NK[:, slot]].add(grad_Nd, mode="drop")
    return grad_Dd, None


_sum_rows.defvjp(_sum_rows_forward, _sum_rows_backward)
