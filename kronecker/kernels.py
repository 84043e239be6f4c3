"""The kernels under the product: embeddings of given ids from a projection and a bag.

`sum_rows` gathers the rows that are on, `one_hot` multiplies on matrix units, `codes` writes the code out in full.
Each applies scale and shift itself, so each is exact alone; `implementations.py` decides which ids they see.

Shapes: M ids, K slots, D rows of the projection W, d model width, S ids of a tile.
"""

import jax
import jax.numpy as jnp

from kronecker import bag as bags

TILE = 64  # ids summed at a time: their rows stay in a core's cache


@jax.custom_vjp
def sum_rows(weights_Dd: jax.Array, bag: bags.Bag, ids_M: jax.Array, lengths_M: jax.Array) -> jax.Array:
    """Returns the embeddings (M, d) of ids that are sorted by length, longest first, in the weights' dtype.

    Tiles of ids are summed slot by slot, each up to the length of its longest id; ids of length 0 cost nothing.  So the
    work is the number of cells that are on, whatever K is, and the temporary memory that of the result.

    Args:
      weights_Dd: W, float32 or float64.
      bag: scale, shift and cells.
      ids_M: token ids.
      lengths_M: their lengths, in descending order; 0 marks a filler, whose row is zero.
    """
    count, cells, lengths = _tiles(bag, ids_M, lengths_M)
    scale, shift = _weights_by_length(bag, weights_Dd.dtype)
    column_sum_d = None if shift is None else weights_Dd.sum(axis=0)

    def embed_tile(tile, out_Md):
        cells_KS, lengths_S = cells[tile], lengths[tile]

        def add_slot(slot, sum_Sd):
            return sum_Sd + weights_Dd.at[cells_KS[slot]].get(mode="fill", fill_value=0)

        zeros_Sd = jnp.zeros((TILE, weights_Dd.shape[1]), weights_Dd.dtype)
        tile_Sd = scale[lengths_S][:, None] * jax.lax.fori_loop(0, lengths_S[0], add_slot, zeros_Sd)
        if shift is not None:
            tile_Sd += shift[lengths_S][:, None] * column_sum_d
        return jax.lax.dynamic_update_slice(out_Md, tile_Sd, (tile * TILE, 0))

    out_Md = jnp.zeros((lengths.size, weights_Dd.shape[1]), weights_Dd.dtype)
    return jax.lax.fori_loop(0, count, embed_tile, out_Md)[: len(ids_M)]


def _sum_rows_forward(weights_Dd, bag, ids_M, lengths_M):
    return sum_rows(weights_Dd, bag, ids_M, lengths_M), (bag, ids_M, lengths_M)


# Written out because the transpose of a gather in a loop is a (D, d) array an iteration; one accumulator is enough.
def _sum_rows_backward(saved, grad_Md):
    bag, ids_M, lengths_M = saved
    count, cells, lengths = _tiles(bag, ids_M, lengths_M)
    scale, shift = _weights_by_length(bag, grad_Md.dtype)
    grad_Md = jnp.pad(grad_Md, ((0, lengths.size - len(ids_M)), (0, 0)))

    def add_tile(tile, sums):
        grad_Dd, shifted_d = sums
        cells_KS, lengths_S = cells[tile], lengths[tile]
        grad_Sd = jax.lax.dynamic_slice(grad_Md, (tile * TILE, 0), (TILE, grad_Md.shape[1]))
        if shift is not None:
            shifted_d += shift[lengths_S] @ grad_Sd
        grad_Sd *= scale[lengths_S][:, None]
        grad_Dd = jax.lax.fori_loop(
            0, lengths_S[0], lambda slot, sum_Dd: sum_Dd.at[cells_KS[slot]].add(grad_Sd, mode="drop"), grad_Dd
        )
        return grad_Dd, shifted_d

    width, dtype = grad_Md.shape[1], grad_Md.dtype
    sums = jnp.zeros((bag.rows, width), dtype), jnp.zeros(width, dtype)
    grad_Dd, shifted_d = jax.lax.fori_loop(0, count, add_tile, sums)
    return grad_Dd if shift is None else grad_Dd + shifted_d, None, None, None


sum_rows.defvjp(_sum_rows_forward, _sum_rows_backward)


def codes(bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the codes (N, D) of `ids_N`, shift included, written out in full."""
    scale, shift = _weights_by_length(bag, jnp.promote_types(dtype, jnp.float32))
    lengths_N = jnp.asarray(bag.lengths)[ids_N]
    token_N1 = jnp.arange(len(ids_N))[:, None]
    code_ND = jnp.zeros((len(ids_N), bag.rows), scale.dtype)
    code_ND = code_ND.at[token_N1, bag.cells(ids_N, lengths_N)].add(scale[lengths_N][:, None], mode="drop")
    if shift is not None:
        code_ND += shift[lengths_N][:, None]
    return code_ND.astype(dtype)


def multiply(code_ND: jax.Array, weights_Dd: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns code W (N, d) with operands of `dtype`, in the weights' dtype; float32 operands stay float32."""
    precision = jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return jnp.matmul(
        code_ND.astype(dtype), weights_Dd.astype(dtype), precision=precision, preferred_element_type=weights_Dd.dtype
    )


def one_hot(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the embeddings (N, d) of `ids_N`."""
    lengths_N = jnp.asarray(bag.lengths)[ids_N].astype(jnp.int32)
    cells_NK = bag.cells(ids_N, lengths_N)
    hot_ND = sum(cells_NK[:, slot, None] == jnp.arange(bag.rows) for slot in range(bag.slots))
    scale, shift = _weights_by_length(bag, weights_Dd.dtype)
    out_Nd = scale[lengths_N][:, None] * multiply(hot_ND, weights_Dd, dtype)
    if shift is not None:
        out_Nd += shift[lengths_N][:, None] * weights_Dd.sum(axis=0)
    return out_Nd


def _weights_by_length(bag: bags.Bag, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    return jnp.asarray(bag.scale, dtype), None if bag.shift is None else jnp.asarray(bag.shift, dtype)


def _tiles(bag: bags.Bag, ids_M: jax.Array, lengths_M: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns how many tiles hold an id, the cells of each tile (M/S, K, S) and its lengths (M/S, S)."""
    padding = (0, -len(ids_M) % TILE)
    ids_M, lengths_M = jnp.pad(ids_M, padding), jnp.pad(lengths_M.astype(jnp.int32), padding)
    cells_MK = bag.cells(ids_M, lengths_M)
    count = (jnp.sum(lengths_M > 0) + TILE - 1) // TILE
    return count, cells_MK.reshape(-1, TILE, bag.slots).swapaxes(1, 2), lengths_M.reshape(-1, TILE)
