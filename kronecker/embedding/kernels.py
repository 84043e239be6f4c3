"""The kernels of the product: embeddings of given ids from a projection and a bag.

`sum_rows` sums rows of W tile by tile, `gather` all at once; `one_hot` uses matrix products; `codes` computes dense
codes.  Each applies scale and shift, so each is exact by itself; `implementations.py` decides which ids they get.

Shapes: N tokens, M distinct ids, K slots, D rows of the projection W, d model width, S ids of a tile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from kronecker.embedding import bags, linear_map

TILE = 128  # ids per tile: few enough for a core's cache
SLOTS = 4  # slots of an id that are added at a time, to read and write the running sum less often
# Where one-hots are in memory, at most this many tokens times D / HOT_PARTS are at once.
HOT_TOKENS, HOT_PARTS = 16_384, 4


def _sum_rows_transpose(grad_Md: jax.Array, bag: bags.Bag, ids_M: jax.Array, lengths_M: jax.Array) -> jax.Array:
    """Returns the gradient (D, d) of W; all tiles share one accumulator."""
    grad_Md = jnp.pad(grad_Md, ((0, -grad_Md.shape[0] % TILE), (0, 0)))
    count, cells, lengths = _tiles(bag, ids_M, lengths_M)
    scale, shift = _weights_by_length(bag, grad_Md.dtype)

    def add_tile(tile, sums):
        grad_Dd, shifted_d = sums
        cells_TKS, lengths_S = cells[tile], lengths[tile]
        grad_Sd = jax.lax.dynamic_slice(grad_Md, (tile * TILE, 0), (TILE, grad_Md.shape[1]))
        if shift is not None:
            shifted_d += shift[lengths_S] @ grad_Sd
        grad_Sd *= scale[lengths_S][:, None]

        def add_slots(turn, sum_Dd):
            for cells_S in cells_TKS[turn]:
                sum_Dd = sum_Dd.at[cells_S].add(grad_Sd, mode="drop")
            return sum_Dd

        return jax.lax.fori_loop(0, _turns(lengths_S), add_slots, grad_Dd), shifted_d

    width = grad_Md.shape[1]
    sums = jnp.zeros_like(grad_Md, shape=(bag.rows, width)), jnp.zeros_like(grad_Md, shape=(width,))
    grad_Dd, shifted_d = jax.lax.fori_loop(0, count, add_tile, sums)
    return grad_Dd if shift is None else grad_Dd + shifted_d


@linear_map.with_transpose(_sum_rows_transpose)
def sum_rows(weights_Dd: jax.Array, bag: bags.Bag, ids_M: jax.Array, lengths_M: jax.Array) -> jax.Array:
    """Returns the embeddings (M, d) of ids that are sorted by length, longest first, in the weights' dtype.

    Each tile of ids is summed slot by slot, up to the length of its longest id; ids of length 0 are fillers, whose
    rows are zero and cost nothing.  So the work grows with the number of used cells, not with K, and the temporary
    memory is that of the result.  W is float32 or float64.
    """
    count, cells, lengths = _tiles(bag, ids_M, lengths_M)
    scale, shift = _weights_by_length(bag, weights_Dd.dtype)
    column_sum_d = None if shift is None else weights_Dd.sum(axis=0)

    def embed_tile(tile, out_Md):
        cells_TKS, lengths_S = cells[tile], lengths[tile]

        def add_slots(turn, sum_Sd):
            for cells_S in cells_TKS[turn]:
                sum_Sd += weights_Dd.at[cells_S].get(mode="fill", fill_value=0)
            return sum_Sd

        zeros_Sd = jnp.zeros_like(weights_Dd, shape=(TILE, weights_Dd.shape[1]))
        tile_Sd = scale[lengths_S][:, None] * jax.lax.fori_loop(0, _turns(lengths_S), add_slots, zeros_Sd)
        if shift is not None:
            tile_Sd += shift[lengths_S][:, None] * column_sum_d
        return jax.lax.dynamic_update_slice(out_Md, tile_Sd, (tile * TILE, 0))

    out_Md = jnp.zeros_like(weights_Dd, shape=(lengths.size, weights_Dd.shape[1]))
    return jax.lax.fori_loop(0, count, embed_tile, out_Md)[: ids_M.shape[0]]


class Groups(struct.PyTreeNode):
    """The distinct ids of a batch, longest first, followed by fillers."""

    ids: jax.Array  # int32 (M,); M is min(N, V), rounded up to complete tiles
    lengths: jax.Array  # int32 (M,); 0 for a filler
    group: jax.Array  # int32 (N,), the index of each token's id in `ids`


def merge(bag: bags.Bag, ids_N: jax.Array) -> Groups:
    """Returns the groups of a batch.

    Sorts keys without values, which would take XLA's CPU backend four times as long; tokens look up their group by id.
    """
    filler = (bag.slots + 1) * bag.vocab
    count = ids_N.shape[0]
    few = isinstance(count, int) and count < bag.vocab  # a symbolic count, for `jax.export`, may be any
    ids_M = ids_N if few else jnp.arange(bag.vocab, dtype=jnp.int32)
    keys_M = (bag.slots - _lengths(bag, ids_M).astype(jnp.int32)) * bag.vocab + ids_M
    if few:
        keys_M = jnp.sort(keys_M)
        unwanted_M = jnp.concatenate([jnp.zeros(1, bool), keys_M[1:] == keys_M[:-1]])
    else:
        unwanted_M = jnp.ones(bag.vocab, bool).at[ids_N].set(False)
    keys_M = jnp.sort(jnp.where(unwanted_M, filler, keys_M))
    keys_M = jnp.pad(keys_M, (0, -keys_M.shape[0] % TILE), constant_values=filler)
    ids_M, places_M = keys_M % bag.vocab, jnp.arange(keys_M.shape[0], dtype=jnp.int32)
    at_M = jnp.where(keys_M < filler, ids_M, bag.vocab)
    group = jnp.zeros(bag.vocab + 1, jnp.int32).at[at_M].set(places_M)  # the last one is that of the fillers
    return Groups(ids_M, jnp.maximum(bag.slots - keys_M // bag.vocab, 0), group[ids_N])


def _sum_merged_transpose(grad_Nd: jax.Array, bag: bags.Bag, groups: Groups) -> jax.Array:
    """Returns the gradient (D, d) of W; sums the gradients of a group before it adds them to the rows of W."""

    def add(groups):
        zeros_Md = jnp.zeros_like(grad_Nd, shape=(groups.ids.shape[0], grad_Nd.shape[1]))
        grad_Md = zeros_Md.at[groups.group].add(grad_Nd, mode="promise_in_bounds")
        return _sum_rows_transpose(grad_Md, bag, groups.ids, groups.lengths)

    return _by_half(groups, add)


def _merge_batches(bag: bags.Bag, groups: Groups) -> tuple[bags.Bag, Groups]:
    """Returns the groups of all tokens of batches that were merged one by one."""
    return bag, merge(bag, jnp.take_along_axis(groups.ids, groups.group, axis=1).reshape(-1))


@linear_map.with_transpose(_sum_merged_transpose, _merge_batches)
def sum_merged(weights_Dd: jax.Array, bag: bags.Bag, groups: Groups) -> jax.Array:
    """Returns the embeddings (N, d) of a merged batch, with W in float32 or float64."""

    def embed(groups):
        rows_Md = sum_rows(weights_Dd, bag, groups.ids, groups.lengths)
        return rows_Md.at[groups.group].get(mode="promise_in_bounds")

    return _by_half(groups, embed)


def _by_half(groups: Groups, function: Callable[[Groups], jax.Array]) -> jax.Array:
    """Returns function(groups); skips the second half of the groups if all are fillers, as for most batches.

    Writing zeros for these fillers would take a tenth of the time of the input embedding.
    """
    half = -(-groups.ids.shape[0] // (2 * TILE)) * TILE
    if half == groups.ids.shape[0]:
        return function(groups)
    first = groups.replace(ids=groups.ids[:half], lengths=groups.lengths[:half])
    return jax.lax.cond(groups.group.max() < half, lambda: function(first), lambda: function(groups))


def _tiles(bag: bags.Bag, ids_M: jax.Array, lengths_M: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the number of tiles with used cells, the cells (M/S, turns, SLOTS, S) and the lengths (M/S, S)."""
    padding = (0, -ids_M.shape[0] % TILE)
    ids_M, lengths_M = jnp.pad(ids_M, padding), jnp.pad(lengths_M.astype(jnp.int32), padding)
    cells_MK = bag.cells(ids_M, lengths_M)
    count = (jnp.sum(lengths_M > 0) + TILE - 1) // TILE
    cells_MK = jnp.pad(cells_MK, ((0, 0), (0, -bag.slots % SLOTS)), constant_values=bag.rows)
    cells = cells_MK.reshape(-1, TILE, cells_MK.shape[1] // SLOTS, SLOTS).transpose(0, 2, 3, 1)
    return count, cells, lengths_M.reshape(-1, TILE)


def _turns(lengths_S: jax.Array) -> jax.Array:
    """Returns how many steps of SLOTS slots the longest id of a tile needs; it is the first one."""
    return (lengths_S[0] + SLOTS - 1) // SLOTS


def codes(bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the dense codes (N, D) of `ids_N`, with the shift."""
    scale, shift = _weights_by_length(bag, dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32))
    lengths_N = _lengths(bag, ids_N)
    token_N1 = jnp.arange(ids_N.shape[0])[:, None]
    code_ND = jnp.zeros((ids_N.shape[0], bag.rows), scale.dtype)
    cells_NK = bag.cells(ids_N, lengths_N)
    used_NK = cells_NK < bag.rows
    values_NK = jnp.where(used_NK, scale[lengths_N][:, None], 0)
    code_ND = code_ND.at[token_N1, jnp.where(used_NK, cells_NK, 0)].add(values_NK)
    if shift is not None:
        code_ND += shift[lengths_N][:, None]
    return code_ND.astype(dtype)


def multiply(code_ND: jax.Array, weights_Dd: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns code times W (N, d), in the weights' dtype, with operands in `dtype`."""
    return jnp.matmul(
        code_ND.astype(dtype),
        weights_Dd.astype(dtype),
        precision=_precision(dtype),
        preferred_element_type=weights_Dd.dtype,
    )


def _join_ids(bag: bags.Bag, ids_BN: jax.Array) -> tuple[bags.Bag, jax.Array]:
    return bag, ids_BN.reshape(-1)


def _sum_by_one_hot(grad_Nd: jax.Array, bag: bags.Bag, ids_N: jax.Array, *, dtype: jnp.dtype, slots: int) -> jax.Array:
    """Returns the gradient (D, d) of W from that of the embeddings, by products with one-hot symbols.

    Each sum has a fixed order, so equal inputs give equal bits.  The one-hot of the forward pass is not reused.  Except
    on a TPU it is in memory, so it is computed for some tokens and some rows at a time.
    """
    scaled_Nd, shifted_d = _scaled(bag, ids_N, grad_Nd)
    if bag.platform == "tpu":
        grad_Dd = _sum_tokens(bag, ids_N, scaled_Nd, dtype, slots, parts=1)
    elif not isinstance(ids_N.shape[0], int) or ids_N.shape[0] <= HOT_TOKENS:
        grad_Dd = _sum_tokens(bag, ids_N, scaled_Nd, dtype, slots, HOT_PARTS)
    else:
        padding = -ids_N.shape[0] % HOT_TOKENS  # the padding adds zeros to the rows of id 0
        ids_CN = jnp.pad(ids_N, (0, padding)).reshape(-1, HOT_TOKENS)
        scaled_CNd = jnp.pad(scaled_Nd, ((0, padding), (0, 0))).reshape(*ids_CN.shape, -1)

        def add_tokens(sum_Dd, tokens):
            return sum_Dd + _sum_tokens(bag, *tokens, dtype, slots, HOT_PARTS), None

        zeros_Dd = jnp.zeros_like(grad_Nd, shape=(bag.rows, grad_Nd.shape[1]))
        grad_Dd, _ = jax.lax.scan(add_tokens, zeros_Dd, (ids_CN, scaled_CNd))
    return grad_Dd + shifted_d


def _gather_transpose(grad_Nd: jax.Array, bag: bags.Bag, ids_N: jax.Array, *, dtype: jnp.dtype) -> jax.Array:
    if bag.gather_gradient == "onehot":
        return _sum_by_one_hot(grad_Nd, bag, ids_N, dtype=dtype, slots=bag.slots)
    scaled_Nd, shifted_d = _scaled(bag, ids_N, grad_Nd)
    cells_NK = bag.cells(ids_N, _lengths(bag, ids_N))
    rows_NKd = jnp.broadcast_to(scaled_Nd[:, None], (*cells_NK.shape, grad_Nd.shape[1]))
    grad_Dd = jnp.zeros_like(grad_Nd, shape=(bag.rows, grad_Nd.shape[1])).at[cells_NK].add(rows_NKd, mode="drop")
    return grad_Dd + shifted_d


@linear_map.with_transpose(_gather_transpose, _join_ids)
def gather(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, *, dtype: jnp.dtype) -> jax.Array:
    """Returns the embeddings (N, d) of `ids_N`, each the sum of the rows of its slots, in the weights' dtype.

    A GPU's compiler makes one kernel of it, which stores no rows; unused slots read nothing.  W is float32 or float64.
    The bag's `gather_gradient` selects how the backward pass sums into W; `dtype` is that of its one-hot products.
    """
    del dtype
    lengths_N = _lengths(bag, ids_N)
    rows_NKd = weights_Dd.at[bag.cells(ids_N, lengths_N)].get(mode="fill", fill_value=0)
    return _weighted(rows_NKd.sum(axis=1), weights_Dd, bag, lengths_N)


@linear_map.with_transpose(_sum_by_one_hot, _join_ids)
def one_hot(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, *, dtype: jnp.dtype, slots: int) -> jax.Array:
    """Returns the embeddings (N, d) of `ids_N` as one product with one-hot symbols, in the weights' dtype.

    The axis of symbols comes before that of slots, and the comparison is in float32, so that a TPU's compiler fuses the
    one-hot into the product, forward and backward, and never stores it.  A GPU's compiler stores the one of the forward
    pass: N times D values of one or two bytes.

    The bag's rows are symbol * K + slot, or the symbols themselves; no id uses more than `slots` slots.  With `dtype`
    bfloat16, W and the gradient are rounded to bfloat16 and sums are float32; float32 needs three passes of a matrix
    unit on a TPU and six on a GPU.
    """
    hot, axes, shape = _hot_operand(bag, ids_N, slots)
    weights = weights_Dd.reshape(*shape, -1)[:, :slots] if axes == "vk" else weights_Dd
    summed_Nd = _hot_product(f"n{axes},{axes}d->nd", hot, weights, bag.platform, dtype)
    return _weighted(summed_Nd, weights_Dd, bag, _lengths(bag, ids_N))


def _sum_tokens(
    bag: bags.Bag, ids_N: jax.Array, scaled_Nd: jax.Array, dtype: jnp.dtype, slots: int, parts: int
) -> jax.Array:
    """Returns the sum (D, d) over tokens of their scaled gradients, computed in `parts` ranges of rows."""
    sums = []
    for part in range(parts):
        if parts > 1:  # one part at a time, and without reuse of the forward pass's one-hot
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
    """Returns the 0/1 operand of symbol range `part` of `parts`, the einsum letters of its axes after n, and the shape
    of W without d.
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
        # A TPU itself rounds float32 operands.  A GPU would use TF32, with twice the bytes at half the speed.
        hot, rounded = hot.astype(dtype), other.astype(dtype)
        return jnp.einsum(subscripts, hot, rounded, preferred_element_type=other.dtype)
    precision = _precision(dtype)
    if platform == "gpu" and dtype == jnp.float32:
        precision = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6  # HIGHEST would not use a GPU's matrix units
    return jnp.einsum(subscripts, hot.astype(other.dtype), other, precision=precision)


def _weighted(summed_Nd: jax.Array, weights_Dd: jax.Array, bag: bags.Bag, lengths_N: jax.Array) -> jax.Array:
    """Returns the embeddings of ids whose rows sum to `summed_Nd`, with scale and shift applied."""
    scale, shift = _weights_by_length(bag, weights_Dd.dtype)
    out_Nd = scale[lengths_N][:, None] * summed_Nd
    return out_Nd if shift is None else out_Nd + shift[lengths_N][:, None] * weights_Dd.sum(axis=0)


def _scaled(bag: bags.Bag, ids_N: jax.Array, grad_Nd: jax.Array) -> tuple[jax.Array, jax.Array | float]:
    """Returns the gradient of each id's sum of rows, and the term that the shift adds to the gradient of every row."""
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
