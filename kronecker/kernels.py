"""The kernels under the product: embeddings of given ids from a projection and a bag.

`sum_rows` sums the rows that are on tile by tile, `gather` all at once, `one_hot` multiplies on matrix units, `codes`
writes the code out in full.
Each applies scale and shift itself, so each is exact alone; `implementations.py` decides which ids they see.

Shapes: N tokens, M distinct ids, K slots, D rows of the projection W, d model width, S ids of a tile.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from kronecker import bag as bags

TILE = 64  # ids summed, and tokens collected, at a time: their rows stay in a core's cache
# The part of a one-hot that is in memory at a time where it is: these tokens times D / HOT_PARTS.
HOT_TOKENS, HOT_PARTS = 16_384, 4


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


def _sum_rows_backward(saved, grad_Md):
    bag, ids_M, lengths_M = saved
    grad_Md = jnp.pad(grad_Md, ((0, -len(ids_M) % TILE), (0, 0)))

    def tile_gradient(tile):
        return jax.lax.dynamic_slice(grad_Md, (tile * TILE, 0), (TILE, grad_Md.shape[1]))

    return _add_tiles(bag, ids_M, lengths_M, tile_gradient, grad_Md), None, None, None


sum_rows.defvjp(_sum_rows_forward, _sum_rows_backward)


class Groups(struct.PyTreeNode):
    """The tokens of a batch by the id that they share, longest ids first; beyond the last group there are fillers.

    Attributes:
      ids: int32 (N,), the id of a group.
      lengths: int32 (N,), its length; 0 for a filler.
      starts: int32 (N,), where its tokens begin in `tokens`; N for a filler.
      tokens: int32 (N,), places in the batch, those of a group next to each other.
      group: int32 (N,), the group of each of `tokens`, rising from 0.
    """

    ids: jax.Array
    lengths: jax.Array
    starts: jax.Array
    tokens: jax.Array
    group: jax.Array


def merge(bag: bags.Bag, ids_N: jax.Array) -> Groups:
    """Returns the groups of a batch, found by one sort."""
    count, places_N = len(ids_N), jnp.arange(len(ids_N), dtype=jnp.int32)
    lengths_N = jnp.asarray(bag.lengths)[ids_N].astype(jnp.int32)
    keys_N, tokens_N = jax.lax.sort_key_val((bag.slots - lengths_N) * bag.vocab + ids_N.astype(jnp.int32), places_N)
    first_N = jnp.concatenate([jnp.ones(1, bool), keys_N[1:] != keys_N[:-1]])
    group_N = jnp.cumsum(first_N, dtype=jnp.int32) - 1
    starts_N = jnp.full(count, count, jnp.int32).at[jnp.where(first_N, group_N, count)].set(places_N, mode="drop")
    keys_N = keys_N.at[starts_N].get(mode="fill", fill_value=bag.slots * bag.vocab)
    return Groups(keys_N % bag.vocab, bag.slots - keys_N // bag.vocab, starts_N, tokens_N, group_N)


@jax.custom_vjp
def sum_merged(weights_Dd: jax.Array, bag: bags.Bag, groups: Groups) -> jax.Array:
    """Returns the embeddings (N, d) of a merged batch; the gradients of a group are summed before they reach a cell.

    Args:
      weights_Dd: W, float32 or float64.
      bag: scale, shift and cells.
      groups: of the batch.
    """
    group_of_N = jnp.zeros_like(groups.group).at[groups.tokens].set(groups.group, unique_indices=True)
    rows_Nd = sum_rows(weights_Dd, bag, groups.ids, groups.lengths)
    return rows_Nd.at[group_of_N].get(mode="promise_in_bounds")


def _sum_merged_forward(weights_Dd, bag, groups):
    return sum_merged(weights_Dd, bag, groups), (bag, groups)


# Written out because the transpose of the look-up is an array of the batch's size; a tile of it at a time is enough.
def _sum_merged_backward(saved, grad_Nd):
    bag, groups = saved
    count = len(groups.tokens)

    def tile_gradient(tile):
        begin = groups.starts[tile * TILE]
        end = groups.starts.at[(tile + 1) * TILE].get(mode="fill", fill_value=count)

        def add_tokens(chunk, sum_Sd):
            at_S = begin + chunk * TILE + jnp.arange(TILE)
            rows_Sd = grad_Nd.at[groups.tokens.at[at_S].get(mode="clip")].get(mode="promise_in_bounds")
            of_tile_S = groups.group.at[at_S].get(mode="clip") - tile * TILE
            return sum_Sd.at[jnp.where(at_S < end, of_tile_S, TILE)].add(rows_Sd, mode="drop")

        zeros_Sd = jnp.zeros((TILE, grad_Nd.shape[1]), grad_Nd.dtype)
        return jax.lax.fori_loop(0, (end - begin + TILE - 1) // TILE, add_tokens, zeros_Sd)

    return _add_tiles(bag, groups.ids, groups.lengths, tile_gradient, grad_Nd), None, None


sum_merged.defvjp(_sum_merged_forward, _sum_merged_backward)


def _tiles(bag: bags.Bag, ids_M: jax.Array, lengths_M: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns how many tiles have a cell on, the cells of each tile (M/S, K, S) and its lengths (M/S, S)."""
    padding = (0, -len(ids_M) % TILE)
    ids_M, lengths_M = jnp.pad(ids_M, padding), jnp.pad(lengths_M.astype(jnp.int32), padding)
    cells_MK = bag.cells(ids_M, lengths_M)
    count = (jnp.sum(lengths_M > 0) + TILE - 1) // TILE
    return count, cells_MK.reshape(-1, TILE, bag.slots).swapaxes(1, 2), lengths_M.reshape(-1, TILE)


def _add_tiles(
    bag: bags.Bag,
    ids_M: jax.Array,
    lengths_M: jax.Array,
    tile_gradient: Callable[[jax.Array], jax.Array],
    like: jax.Array,
) -> jax.Array:
    """Returns the gradient (D, d) of W from that of each tile's rows (S, d): one accumulator, one pass over it."""
    count, cells, lengths = _tiles(bag, ids_M, lengths_M)
    scale, shift = _weights_by_length(bag, like.dtype)

    def add_tile(tile, sums):
        grad_Dd, shifted_d = sums
        cells_KS, lengths_S, grad_Sd = cells[tile], lengths[tile], tile_gradient(tile)
        if shift is not None:
            shifted_d += shift[lengths_S] @ grad_Sd
        grad_Sd *= scale[lengths_S][:, None]
        grad_Dd = jax.lax.fori_loop(
            0, lengths_S[0], lambda slot, sum_Dd: sum_Dd.at[cells_KS[slot]].add(grad_Sd, mode="drop"), grad_Dd
        )
        return grad_Dd, shifted_d

    sums = jnp.zeros((bag.rows, like.shape[1]), like.dtype), jnp.zeros(like.shape[1], like.dtype)
    grad_Dd, shifted_d = jax.lax.fori_loop(0, count, add_tile, sums)
    return grad_Dd if shift is None else grad_Dd + shifted_d


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
    """Returns code W (N, d), in the weights' dtype, of operands in `dtype`."""
    return jnp.matmul(
        code_ND.astype(dtype),
        weights_Dd.astype(dtype),
        precision=_precision(dtype),
        preferred_element_type=weights_Dd.dtype,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gather(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the embeddings (N, d) of `ids_N`, each a sum over the rows that its slots name, in the weights' dtype.

    A GPU's compiler makes one kernel of it, which stores no row.  A slot that is not in use reads nothing.

    Args:
      weights_Dd: W, float32 or float64.
      bag: scale, shift and cells; its `gather_gradient` says how the backward pass sums into W.
      ids_N: token ids.
      dtype: of the operands of the backward pass, where that multiplies.
    """
    lengths_N = _lengths(bag, ids_N)
    rows_NKd = weights_Dd.at[bag.cells(ids_N, lengths_N)].get(mode="fill", fill_value=0)
    return _weighted(rows_NKd.sum(axis=1), weights_Dd, bag, lengths_N)


def _gather_forward(weights_Dd, bag, ids_N, dtype):
    return gather(weights_Dd, bag, ids_N, dtype), (bag, ids_N)


def _gather_backward(dtype, saved, grad_Nd):
    bag, ids_N = saved
    if bag.gather_gradient == "onehot":
        return _sum_by_one_hot(bag, ids_N, grad_Nd, dtype, bag.slots), None, None
    scaled_Nd, shifted_d = _scaled(bag, ids_N, grad_Nd)
    cells_NK = bag.cells(ids_N, _lengths(bag, ids_N))
    rows_NKd = jnp.broadcast_to(scaled_Nd[:, None], (*cells_NK.shape, grad_Nd.shape[1]))
    grad_Dd = jnp.zeros((bag.rows, grad_Nd.shape[1]), grad_Nd.dtype).at[cells_NK].add(rows_NKd, mode="drop")
    return grad_Dd + shifted_d, None, None


gather.defvjp(_gather_forward, _gather_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def one_hot(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype, slots: int) -> jax.Array:
    """Returns the embeddings (N, d) of `ids_N` as one product with one-hot symbols, in the weights' dtype.

    The symbol's axis stands before the slot's and the comparison is in float32: so a TPU's compiler makes the one-hot
    inside the product, in the forward and in the backward pass, and none is ever in memory.  A GPU's compiler stores
    the forward pass's, N times D values of one or two bytes.

    Args:
      weights_Dd: W, float32 or float64.
      bag: whose rows are symbol * K + slot, or the symbols themselves.
      ids_N: token ids.
      dtype: bfloat16 rounds W and the gradient to bfloat16, sums being float32; float32 takes a matrix unit three
        passes on a TPU and six on a GPU.
      slots: no id has more in use.
    """
    hot, axes, shape = _hot_operand(bag, ids_N, slots)
    weights = weights_Dd.reshape(*shape, -1)[:, :slots] if axes == "vk" else weights_Dd
    summed_Nd = _hot_product(f"n{axes},{axes}d->nd", hot, weights, bag.platform, dtype)
    return _weighted(summed_Nd, weights_Dd, bag, _lengths(bag, ids_N))


def _one_hot_forward(weights_Dd, bag, ids_N, dtype, slots):
    return one_hot(weights_Dd, bag, ids_N, dtype, slots), (bag, ids_N)


def _one_hot_backward(dtype, slots, saved, grad_Nd):
    bag, ids_N = saved
    return _sum_by_one_hot(bag, ids_N, grad_Nd, dtype, slots), None, None


one_hot.defvjp(_one_hot_forward, _one_hot_backward)


def _sum_by_one_hot(bag: bags.Bag, ids_N: jax.Array, grad_Nd: jax.Array, dtype: jnp.dtype, slots: int) -> jax.Array:
    """Returns the gradient (D, d) of W from that of the embeddings, by products with one-hot symbols.

    Each sum has a fixed order, so equal inputs give equal bits.  The one-hot is made anew and not kept from the forward
    pass.  Off a TPU it is in memory, so it is made for some tokens and some rows at a time.
    """
    scaled_Nd, shifted_d = _scaled(bag, ids_N, grad_Nd)
    if bag.platform == "tpu":
        grad_Dd = _sum_tokens(bag, ids_N, scaled_Nd, dtype, slots, parts=1)
    elif len(ids_N) <= HOT_TOKENS:
        grad_Dd = _sum_tokens(bag, ids_N, scaled_Nd, dtype, slots, HOT_PARTS)
    else:
        padding = -len(ids_N) % HOT_TOKENS  # adds zeros to the rows of id 0
        ids_CN = jnp.pad(ids_N, (0, padding)).reshape(-1, HOT_TOKENS)
        scaled_CNd = jnp.pad(scaled_Nd, ((0, padding), (0, 0))).reshape(*ids_CN.shape, -1)

        def add_tokens(sum_Dd, tokens):
            return sum_Dd + _sum_tokens(bag, *tokens, dtype, slots, HOT_PARTS), None

        zeros_Dd = jnp.zeros((bag.rows, grad_Nd.shape[1]), grad_Nd.dtype)
        grad_Dd, _ = jax.lax.scan(add_tokens, zeros_Dd, (ids_CN, scaled_CNd))
    return grad_Dd + shifted_d


def _sum_tokens(
    bag: bags.Bag, ids_N: jax.Array, scaled_Nd: jax.Array, dtype: jnp.dtype, slots: int, parts: int
) -> jax.Array:
    """Returns the sum (D, d) over tokens of their scaled gradients, `parts` ranges of rows one after another."""
    sums = []
    for part in range(parts):
        if parts > 1:  # not before the last part's product is done, and not the forward pass's one-hot
            ids_N, *sums = jax.lax.optimization_barrier((ids_N, *sums))
        hot, axes, shape = _hot_operand(bag, ids_N, slots, part, parts)
        sum_ = _hot_product(f"n{axes},nd->{axes}d", hot, scaled_Nd, bag.platform, dtype)
        if axes == "vk":
            sum_ = jnp.pad(sum_, ((0, 0), (0, shape[1] - slots), (0, 0)))
        sums.append(sum_.reshape(-1, scaled_Nd.shape[1]))
    return jnp.concatenate(sums)


def _hot_operand(
    bag: bags.Bag, ids_N: jax.Array, slots: int, part: int = 0, parts: int = 1
) -> tuple[jax.Array, str, tuple[int, ...]]:
    """Returns the 0/1 operand, the einsum letters of its axes after n, and W's shape without d.

    Of `parts` ranges of symbols, the operand holds the range number `part`.
    """
    used_NK = jnp.arange(slots) < _lengths(bag, ids_N)[:, None]
    symbols_NK = jnp.where(used_NK, jnp.asarray(bag.symbols)[ids_N][:, :slots].astype(jnp.float32), -1.0)
    grid = (bag.symbol_stride, bag.slot_stride) == (bag.slots, 1)
    radix = bag.rows // bag.slots if grid else bag.rows
    symbols = jnp.arange(radix * part // parts, radix * (part + 1) // parts, dtype=jnp.float32)
    if grid:
        return symbols_NK[:, None, :] == symbols[:, None], "vk", (radix, bag.slots)
    counts_NV = sum((symbols_NK[:, slot, None] == symbols).astype(jnp.float32) for slot in range(slots))
    return counts_NV, "v", (bag.rows,)


def _hot_product(subscripts: str, hot: jax.Array, other: jax.Array, platform: str, dtype: jnp.dtype) -> jax.Array:
    if dtype == jnp.bfloat16 and platform != "tpu":
        # A TPU rounds float32 operands by itself.  A GPU would multiply them as TF32: twice the bytes, half the speed.
        hot, rounded = hot.astype(dtype), other.astype(dtype)
        return jnp.einsum(subscripts, hot, rounded, preferred_element_type=other.dtype)
    precision = _precision(dtype)
    if platform == "gpu" and dtype == jnp.float32:
        precision = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6  # HIGHEST leaves a GPU's matrix units idle
    return jnp.einsum(subscripts, hot.astype(other.dtype), other, precision=precision)


def _weighted(summed_Nd: jax.Array, weights_Dd: jax.Array, bag: bags.Bag, lengths_N: jax.Array) -> jax.Array:
    """Returns the embeddings of ids whose rows sum to `summed_Nd`."""
    scale, shift = _weights_by_length(bag, weights_Dd.dtype)
    out_Nd = scale[lengths_N][:, None] * summed_Nd
    return out_Nd if shift is None else out_Nd + shift[lengths_N][:, None] * weights_Dd.sum(axis=0)


def _scaled(bag: bags.Bag, ids_N: jax.Array, grad_Nd: jax.Array) -> tuple[jax.Array, jax.Array | float]:
    """Returns the gradient of each id's sum of rows, and what the shift adds to the gradient of every row."""
    scale, shift = _weights_by_length(bag, grad_Nd.dtype)
    lengths_N = _lengths(bag, ids_N)
    shifted_d = 0.0 if shift is None else (shift[lengths_N][:, None] * grad_Nd).sum(axis=0)
    return scale[lengths_N][:, None] * grad_Nd, shifted_d


def _lengths(bag: bags.Bag, ids_N: jax.Array) -> jax.Array:
    return jnp.asarray(bag.lengths)[ids_N]


def _precision(dtype: jnp.dtype) -> jax.lax.Precision:
    return jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST


def _weights_by_length(bag: bags.Bag, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    return jnp.asarray(bag.scale, dtype), None if bag.shift is None else jnp.asarray(bag.shift, dtype)
