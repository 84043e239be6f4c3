"""The exact product of a code and its projection: one public function, six ways to compute it.

    cached      the paper's: looks up the batch in the precomputed (V, D) codes and multiplies them by W
    onthefly    the paper's dynamic variant: computes the dense codes of the batch and multiplies them by W
    bag         merges the duplicates of a batch and sums the rows of W that each id uses
    gather      sums the rows of W that each token uses, with duplicates: one kernel on a GPU
    onehot      multiplies one-hot symbols on matrix units; a TPU's compiler fuses them, so they are never in memory
    induced     embeds the complete vocabulary, E = K W, and looks up the batch in it

All six give the same numbers.  `prepare` makes a bag ready for one of them; `choose` returns the one for "auto".

Shapes: N tokens (any leading shape), V vocabulary, K slots of a bag, D rows of the projection W, d model width, w a
device's part of it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from kronecker.embedding import bags, kernels, linear_map
from kronecker.runtime import sharding
from kronecker.schema.choices import AUTO, GATHER_GRADIENTS, IMPLEMENTATIONS

BUCKET_ROWS = 512
WIDTH_AXIS = sharding.RULES["width"]  # of the mesh
# Estimated for 16,384 tokens on an H100, not measured: scatter 0.2 to 0.4 ms with the update, onehot 0.35 ms.
FASTEST_GATHER_GRADIENT = "scatter"


@linear_map.by_usual_promotion
def product(
    projection_Dd: ArrayLike,
    bag: bags.Bag,
    ids: ArrayLike,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    batch_axes: Sequence[str] = sharding.BATCH_AXES,
) -> jax.Array:
    """Returns the embeddings of `ids`, shape ids.shape + (d,), in the projection's dtype.

    Sums are at least float32.  The result is linear in W, and only W has derivatives, in either mode and of any order.

        code = kronecker.kronecker_code(kronecker.byte_table(token_bytes, pos_dim=16))
        projection_Dd = code.projection(jax.random.key(0), 768)
        x = kronecker.product(projection_Dd, code.bag, ids)  # ids.shape + (768,)

    Args:
      projection_Dd: W, shape (bag.rows, d).
      bag: the arm's cells and weights, prepared for an implementation.
      ids: integer token ids of any shape.  Negative ids wrap once; then ids are clipped to the vocabulary.
      dtype: of the operands of matrix products; None: the projection's.  "bag" has no matrix products, and "gather"
        has them only in a gradient by one-hot products.
      mesh: splits the first axis of `ids` over its axes `batch_axes`: each device embeds its own tokens, and the
        devices only exchange one sum of the gradients of W.  If "fsdp" is one of these axes, it may also split the
        width of W: then they either gather W first, or each embeds all tokens in its columns of W and they exchange
        parts of embeddings, whichever moves less data.
        None: one device, or a first axis that cannot be split.
      batch_axes: names of mesh axes, or one name, of type Auto.

    Raises:
      TypeError: if ids are not integers, or W is not of floats.
      ValueError: if W is no matrix with one row per cell, the bag was cast to floats, the mesh lacks an axis, or an
        operand is split over axes of type Explicit.
    """
    of_numpy = isinstance(ids, np.ndarray | np.generic) and np.issubdtype(ids.dtype, np.integer)
    ids = jnp.asarray(_narrowed(ids, bag) if of_numpy else ids)  # before JAX keeps 32 bits
    projection_Dd = jnp.asarray(projection_Dd)
    batch_axes = (batch_axes,) if isinstance(batch_axes, str) else batch_axes
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"ids are {ids.dtype.name}; they must be integers")
    if mesh is not None and not set(batch_axes) <= set(mesh.axis_names):
        raise ValueError(
            f"the mesh has axes {mesh.axis_names} but batch_axes are {tuple(batch_axes)}; "
            "give as batch_axes the names of those that split the batch"
        )
    if mesh is not None and set(mesh.axis_types) != {AxisType.Auto}:
        types = f"axis_types=(AxisType.Auto,) * {len(mesh.axis_names)}"
        raise ValueError(f"the mesh has axes of types {mesh.axis_types}; make it with {types} from jax.sharding")
    _check_operands(projection_Dd, bag, ids)
    own = projection_Dd.dtype
    embed: Callable[..., Any] = functools.partial(_embed, dtype=jnp.dtype(dtype or own), out_dtype=own)
    parts = math.prod(mesh.shape[axis] for axis in batch_axes) if mesh is not None else 1
    if mesh is not None and ids.ndim and ids.shape[0] % parts == 0:
        # Without shard_map the compiler would merge duplicates over the tokens of all devices.
        whole, split = PartitionSpec(), PartitionSpec(tuple(batch_axes))
        columns = WIDTH_AXIS in batch_axes and _by_columns(projection_Dd, ids.size // parts, mesh)
        embed = jax.shard_map(
            functools.partial(_embed_columns, embed=embed) if columns else embed,
            mesh=mesh,
            in_specs=(PartitionSpec(None, WIDTH_AXIS) if columns else whole, whole, split),
            out_specs=split,
            axis_names=set(batch_axes),
            check_vma=False,
        )
        if set(batch_axes) < set(mesh.axis_names):  # which a shard_map can have only within jit
            embed = jax.jit(embed)
    # Cast here, so that devices sum their gradients in float32; XLA for CPUs aborts on such sums in bfloat16.
    return embed(*_vary_alike(_at_least_float32(projection_Dd), bag, ids))


@linear_map.by_usual_promotion
def induced_table(projection_Dd: ArrayLike, bag: bags.Bag, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns E = K W (V, d), in the projection's dtype, so that inference is an ordinary lookup.

    `bag` must be prepared for "induced" or with `induced_head`, or ValueError is raised; `dtype` is as in `product`.
    """
    if bag.order is None and bag.platform != "gpu":
        raise ValueError(f'the bag is prepared for {bag.implementation!r}; call prepare(bag, "induced") first')
    projection_Dd = jnp.asarray(projection_Dd)
    _check_operands(projection_Dd, bag)
    weights_Dd, bag = _vary_alike(_at_least_float32(projection_Dd), bag)
    table_Vd, row_V = _table(weights_Dd, bag, jnp.dtype(dtype or projection_Dd.dtype))
    return (table_Vd if row_V is None else table_Vd[row_V]).astype(projection_Dd.dtype)


def choose(platform: str) -> str:
    """Returns the implementation that "auto" stands for on a platform: "cpu", "gpu" or "tpu"."""
    if platform == "cpu":  # results/benchmark/encoder-cpu.json: the fastest from 256 tokens to 2.6 V tokens
        return "bag"
    if platform == "gpu":  # compiled, not measured: one fused kernel; "onehot" would store its one-hot in memory
        return "gather"
    return "onehot"  # results/benchmark/encoder-tpu*.json: at 1.3 V tokens "induced" is equal on v5e, slower on v6e


@linear_map.by_usual_promotion
def prepare(
    bag: bags.Bag,
    implementation: str,
    dtype: DTypeLike = jnp.float32,
    limit_mb: float = 1024,
    platform: str = "cpu",
    induced_head: bool = False,
    gather_gradient: str = AUTO,
) -> bags.Bag:
    """Returns `bag` with what `implementation` needs.

    Args:
      bag: of any arm.
      implementation: one of IMPLEMENTATIONS, or "auto": what `choose` returns.
      dtype: of the codes of "cached".
      limit_mb: largest size allowed for these codes, in units of 10^6 bytes.
      platform: where it will run: "cpu", "gpu" or "tpu".
      induced_head: whether to prepare for `induced_table` too.
      gather_gradient: one of GATHER_GRADIENTS, or "auto": the fastest one.

    Raises:
      ValueError: if the implementation or the gradient is unknown, or the codes need more than `limit_mb`.
    """
    if implementation == AUTO:
        implementation = choose(platform)
    if implementation not in IMPLEMENTATIONS:
        allowed = ", ".join((AUTO, *IMPLEMENTATIONS))
        raise ValueError(f"embedding.implementation is {implementation!r}; allowed: {allowed}")
    if gather_gradient not in (AUTO, *GATHER_GRADIENTS):
        allowed = ", ".join((AUTO, *GATHER_GRADIENTS))
        raise ValueError(f"embedding.gather_gradient is {gather_gradient!r}; allowed: {allowed}")
    codes = order = None
    buckets: tuple[tuple[int, int], ...] = ()
    if implementation == "cached":
        size_mb = bag.vocab * bag.rows * jnp.dtype(dtype).itemsize / 1e6
        if size_mb > limit_mb:
            raise ValueError(
                f"embedding.implementation=cached stores ({bag.vocab:,}, {bag.rows:,}) codes of {size_mb:,.0f} MB in "
                f"{jnp.dtype(dtype).name}, above embedding.cache_limit_mb = {limit_mb:,.0f}; raise the limit, or use "
                "another implementation, which stores no codes"
            )
        codes = jax.jit(_code_bits, static_argnums=1)(bag, jnp.dtype(dtype))
    if implementation == "induced" or induced_head:
        order = np.argsort(-np.asarray(bag.lengths), kind="stable").astype(np.int32)
        buckets = _buckets(bag) if platform == "tpu" else ()
    return bag.replace(
        implementation=implementation,
        gather_gradient=FASTEST_GATHER_GRADIENT if gather_gradient == AUTO else gather_gradient,
        platform=platform,
        codes=codes,
        codes_dtype=jnp.dtype(dtype).name,
        order=order,
        buckets=buckets,
    )


def describe(bag: bags.Bag) -> str:
    """Returns in words how the product of a prepared bag is computed."""
    if bag.implementation == "gather":
        return f"gather, gradient by {bag.gather_gradient}"
    return bag.implementation


def rounds(bag: bags.Bag) -> tuple[bool, bool]:
    """Returns whether bfloat16 operands round the product of a prepared bag, and whether they round the gradient."""
    multiplies = bag.implementation in ("cached", "onthefly", "onehot") or bool(bag.buckets)
    uses_gather = bag.implementation == "gather" or (bag.platform == "gpu" and bag.order is not None)
    return multiplies, multiplies or (uses_gather and bag.gather_gradient == "onehot")


def _by_columns(projection_Dd: jax.Array, tokens: int, mesh: Mesh) -> bool:
    """Returns whether exchanging embeddings, both passes, moves less than gathering W and summing its gradient.

    `tokens` are those of a device.
    """
    rows, width = projection_Dd.shape
    parts = mesh.shape[WIDTH_AXIS]
    return parts > 1 and width % parts == 0 and 2 * tokens < 3 * rows


def _embed_columns(
    projection_Dw: jax.Array, bag: bags.Bag, ids: jax.Array, embed: Callable[..., jax.Array]
) -> jax.Array:
    ids = jax.lax.all_gather(ids, WIDTH_AXIS, axis=0, tiled=True)
    return jax.lax.all_to_all(embed(projection_Dw, bag, ids), WIDTH_AXIS, 0, ids.ndim, tiled=True)


def _embed(weights_Dd: jax.Array, bag: bags.Bag, ids: jax.Array, dtype: jnp.dtype, out_dtype: jnp.dtype) -> jax.Array:
    ids_N = _narrowed(ids, bag).reshape(-1).astype(jnp.int32)
    ids_N = jnp.clip(jnp.where(ids_N < 0, ids_N + bag.vocab, ids_N), 0, bag.vocab - 1)
    out_Nd = _EMBED[bag.implementation](weights_Dd, bag, ids_N, dtype=dtype)
    return out_Nd.reshape(*ids.shape, out_Nd.shape[-1]).astype(out_dtype)


def _narrowed(ids: Any, bag: bags.Bag) -> Any:
    """Returns integers of JAX or NumPy, those of a wide type clipped, so that they fit into 32 bits."""
    known = jnp.iinfo(ids.dtype)
    wide = known.max > np.iinfo(np.int32).max
    return ids.clip(max(known.min, -bag.vocab), bag.vocab - 1) if wide else ids


def _check_operands(projection_Dd: jax.Array, bag: bags.Bag, *ids: jax.Array) -> None:
    if not jnp.issubdtype(projection_Dd.dtype, jnp.inexact):
        raise TypeError(f"the projection is {projection_Dd.dtype.name}; it must be floats")
    if projection_Dd.ndim != 2:
        raise ValueError(f"the projection has shape {projection_Dd.shape}; it must be a matrix, ({bag.rows:,}, width)")
    if len(projection_Dd) != bag.rows:
        raise ValueError(f"projection has {len(projection_Dd):,} rows, the code {bag.rows:,}; use one pos_dim for both")
    if cast := {leaf.dtype.name for leaf in jax.tree.leaves(bag) if not jnp.issubdtype(leaf.dtype, jnp.integer)}:
        raise ValueError(f"the bag has arrays of {', '.join(cast)}; cast only the projection: a code is integers")
    for x in (projection_Dd, *ids):
        if any(spec := jax.typeof(x).sharding.spec):
            raise ValueError(
                f"an operand of shape {x.shape} is split by {spec} over mesh axes of type Explicit; call the embedding "
                "through jax.sharding.auto_axes, with the out_sharding of the embeddings"
            )


def _vary_alike(*trees: Any) -> Any:
    """Returns the trees, in a `jax.shard_map` that checks types as varying over the same axes of the mesh.

    So W is cast here, outside of the kernels, and JAX sums its gradient over the devices that share it.
    """
    varying = frozenset().union(*(jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(trees)))

    def cast(leaf: bags.Array) -> bags.Array:
        missing = tuple(varying - jax.typeof(leaf).mat.varying)
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, trees)


def _cached(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    code_ND = jax.lax.bitcast_convert_type(jnp.asarray(bag.codes)[ids_N], bag.codes_dtype)
    return kernels.multiply(code_ND, weights_Dd, dtype)


def _code_bits(bag: bags.Bag, dtype: jnp.dtype) -> jax.Array:
    code_VD = kernels.codes(bag, jnp.arange(bag.vocab), dtype)
    return jax.lax.bitcast_convert_type(code_VD, f"uint{8 * dtype.itemsize}")


def _onthefly(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return kernels.multiply(kernels.codes(bag, ids_N, dtype), weights_Dd, dtype)


def _bag(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    del dtype
    if not ids_N.size:
        return jnp.zeros((0, weights_Dd.shape[1]), weights_Dd.dtype)
    return kernels.sum_merged(weights_Dd, bag, kernels.merge(bag, ids_N))


def _onehot(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return kernels.one_hot(weights_Dd, bag, ids_N, dtype=dtype, slots=bag.slots)


def _induced(weights_Dd: jax.Array, bag: bags.Bag, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    table_Vd, row_V = _table(weights_Dd, bag, dtype)
    return table_Vd.at[ids_N if row_V is None else row_V[ids_N]].get(mode="promise_in_bounds")


_EMBED = {
    "cached": _cached,
    "onthefly": _onthefly,
    "bag": _bag,
    "gather": kernels.gather,
    "onehot": _onehot,
    "induced": _induced,
}


def _table(weights_Dd: jax.Array, bag: bags.Bag, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    """Returns K W (V, d), and the row of each id in it; None: the row of an id is the id."""
    if bag.platform == "gpu":
        return kernels.gather(weights_Dd, bag, jnp.arange(bag.vocab), dtype=dtype), None
    ids_V = jnp.arange(bag.vocab, dtype=jnp.int32)
    return _sorted_table(weights_Dd, bag, dtype), jnp.zeros_like(ids_V).at[jnp.asarray(bag.order)].set(ids_V)


def _sorted_table(weights_Dd: jax.Array, bag: bags.Bag, dtype: jnp.dtype) -> jax.Array:
    order_V = jnp.asarray(bag.order)
    if not bag.buckets:
        return kernels.sum_rows(weights_Dd, bag, order_V, jnp.asarray(bag.lengths)[order_V])
    ends = np.cumsum([count for count, _ in bag.buckets])
    parts = [
        kernels.one_hot(weights_Dd, bag, order_V[end - count : end], dtype=dtype, slots=slots)
        for end, (count, slots) in zip(ends, bag.buckets, strict=True)
    ]
    return jnp.concatenate(parts)


def _buckets(bag: bags.Bag) -> tuple[tuple[int, int], ...]:
    """Returns (number of ids, slots) of the ids that use more than half of the slots, and of the others.

    More parts save little and compile slowly.  The first part is a multiple of BUCKET_ROWS, to fill matrix units.
    """
    short = bag.slots // 2
    if not short:
        return ((bag.vocab, bag.slots),)
    count = min(-(-int((bag.lengths > short).sum()) // BUCKET_ROWS) * BUCKET_ROWS, bag.vocab)
    return tuple(part for part in ((count, bag.slots), (bag.vocab - count, short)) if part[0])


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
