"""What other people's programs do to an embedding, tried with each implementation and with a plain table beside them.

A try is compared with the same try of a matrix product with the codes written out in full.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from jax.sharding import AxisType, Mesh, PartitionSpec

from kronecker.embedding import bags, codec, implementations
from kronecker.schema import choices

Embed = Callable[[jax.Array, jax.Array], jax.Array]

TABLE = "table"
VOCABULARY, POS_DIM, WIDTH = 12, 2, 3
EMBEDDINGS = [TABLE, *choices.IMPLEMENTATIONS]
EVERY_EMBEDDING = pytest.mark.parametrize("name", EMBEDDINGS)


@functools.cache
def table() -> codec.ByteTable:
    rng = np.random.default_rng(0)
    return codec.byte_table([rng.integers(0, 256, i % 3, np.uint8).tobytes() for i in range(VOCABULARY)], POS_DIM)


@functools.cache
def bag(name: str) -> bags.Bag:
    return implementations.prepare(bags.kronecker_bag(table()), name)


def embedding(name: str) -> tuple[Embed, Embed, jax.Array]:
    """Returns how it embeds, the same by codes written out in full, and its matrix."""
    code_VD = np.eye(VOCABULARY) if name == TABLE else codec.dense_code(table(), np.arange(VOCABULARY), "z")
    code_VD, held = jnp.asarray(code_VD, jnp.float32), None if name == TABLE else bag(name)

    def in_full(w, ids):
        return jnp.matmul(code_VD[ids], w, precision="highest")

    def embed(w, ids):
        return w[ids] if held is None else implementations.product(w, held, ids)

    return embed, in_full, jax.random.normal(jax.random.key(1), (code_VD.shape[1], WIDTH)) / 8


IDS_BT = jnp.asarray(np.random.default_rng(2).integers(0, VOCABULARY, (4, 5)))


def cubes(embed: Embed, ids: jax.Array = IDS_BT) -> Callable[[jax.Array], jax.Array]:
    return lambda w: (embed(w, ids) ** 3).sum()


def squared_norm(gradient: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda *arguments: (gradient(*arguments) ** 2).sum()


def shared(function: Callable[..., Any], *specs: PartitionSpec, out: PartitionSpec) -> Callable[..., Any]:
    """Returns the function in a `shard_map` of a stranger's, which checks how values vary; one device is enough."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("mine",), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=True)


def loss_over_devices(embed: Embed) -> Callable[[jax.Array], jax.Array]:
    def loss(w, ids):
        return jax.lax.psum(cubes(embed, ids)(w), "mine")

    spec = PartitionSpec()
    return lambda w: shared(loss, spec, PartitionSpec("mine"), out=spec)(w, IDS_BT)


def exported(function: Callable[..., jax.Array], w: jax.Array) -> jax.export.Exported:
    ids = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), IDS_BT.shape[1]), IDS_BT.dtype)
    return jax.export.export(jax.jit(function))(jax.ShapeDtypeStruct(w.shape, w.dtype), ids)


def by_scan(embed: Embed) -> Callable[[jax.Array], jax.Array]:
    return lambda w: jax.lax.scan(lambda sum_, ids: (sum_ + cubes(embed, ids)(w), None), 0.0, IDS_BT)[0]


def example_gradients(embed: Embed) -> Callable[[jax.Array], jax.Array]:
    return lambda w: jax.vmap(jax.grad(lambda w, ids: cubes(embed, ids)(w)), (None, 0))(w, IDS_BT)


TRIES: dict[str, Callable[[Embed, jax.Array], Any]] = {
    "reverse": lambda embed, w: jax.value_and_grad(cubes(embed))(w),
    "forward": lambda embed, w: jax.jvp(cubes(embed), (w,), (w + 1,)),
    "forward over reverse": lambda embed, w: jax.jvp(jax.grad(cubes(embed)), (w,), (w + 1,)),
    "reverse over reverse": lambda embed, w: jax.grad(squared_norm(jax.grad(cubes(embed))))(w),
    "transposed": lambda embed, w: jax.linear_transpose(lambda w: embed(w, IDS_BT), w)(jnp.ones((4, 5, WIDTH))),
    "vmap of scalar ids": lambda embed, w: jax.vmap(jax.vmap(lambda i: embed(w, i)))(IDS_BT),
    "gradient of vmap": lambda embed, w: jax.grad(
        lambda w: (jax.vmap(lambda ids: embed(w, ids), 1, 1)(IDS_BT) ** 3).sum()
    )(w),
    "vmap of matrices": lambda embed, w: jax.vmap(jax.grad(cubes(embed)), 2, 2)(jnp.stack([w, 2 * w], 2)),
    "vmap of both": lambda embed, w: jax.vmap(embed)(jnp.stack([w, 2 * w, w, w]), IDS_BT),
    "gradients by example": lambda embed, w: example_gradients(embed)(w),
    "gradient of their norms": lambda embed, w: jax.grad(squared_norm(example_gradients(embed)))(w),
    "scan": lambda embed, w: jax.grad(by_scan(embed))(w),
    "remat": lambda embed, w: jax.grad(jax.checkpoint(cubes(embed)))(w),
    "shard_map": lambda embed, w: jax.value_and_grad(loss_over_devices(embed))(w),
    "gradient in shard_map": lambda embed, w: shared(
        lambda w, ids: jax.grad(cubes(embed, ids))(w), PartitionSpec(), PartitionSpec("mine"), out=PartitionSpec()
    )(w, IDS_BT),
    "columns in shard_map": lambda embed, w: shared(
        embed, PartitionSpec(None, "mine"), PartitionSpec(), out=PartitionSpec(None, None, "mine")
    )(w, IDS_BT),
    "export of any batch": lambda embed, w: exported(embed, w).call(w, IDS_BT),
    "export of a gradient": lambda embed, w: exported(lambda w, ids: jax.grad(cubes(embed, ids))(w), w).call(w, IDS_BT),
}


@functools.cache
def numbers_in_full(attempt: str, of_table: bool) -> list[jax.Array]:
    _, in_full, w = embedding(TABLE if of_table else "bag")
    return jax.tree.leaves(jax.jit(functools.partial(TRIES[attempt], in_full))(w))


@pytest.mark.parametrize("attempt", TRIES)
@EVERY_EMBEDDING
def test_a_program_gets_the_numbers_of_the_code_in_full(name: str, attempt: str):
    embed, _, w = embedding(name)
    got = jax.tree.leaves(jax.jit(functools.partial(TRIES[attempt], embed))(w))
    want = numbers_in_full(attempt, name == TABLE)
    assert [leaf.shape for leaf in got] == [leaf.shape for leaf in want]
    for ours, exact in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5 * float(jnp.abs(exact).max()))


@EVERY_EMBEDDING
def test_a_matrix_of_numpy_is_as_good_as_one_of_jax(name: str):
    embed, in_full, w = embedding(name)
    of_numpy, ids = np.asarray(w), np.asarray(IDS_BT)
    np.testing.assert_allclose(jax.jit(lambda: embed(of_numpy, ids))(), in_full(w, IDS_BT), atol=1e-5)
    if name == "induced":
        every = jax.jit(lambda: implementations.induced_table(of_numpy, bag(name)))()
        np.testing.assert_allclose(every, in_full(w, np.arange(VOCABULARY)), atol=1e-5)


@EVERY_EMBEDDING
def test_a_program_may_forbid_promotion_of_types_and_ranks(name: str):
    embed, in_full, w = embedding(name)

    def both(how):
        return jax.value_and_grad(lambda w: (jax.vmap(how, (None, 0))(w, IDS_BT).astype(jnp.float32) ** 3).sum())

    want = both(in_full)(w)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        if name != TABLE:
            implementations.prepare(bags.kronecker_bag(table()), name, induced_head=True)
        found = [jax.jit(both(embed))(w), jax.jvp(lambda w: both(embed)(w)[0], (w,), (w,))]
        half = both(embed)(w.astype(jnp.bfloat16))
    for got in (found[0], (found[1][0], want[1])):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), got, want)
    assert half[1].dtype == jnp.bfloat16


@EVERY_EMBEDDING
def test_checkify_finds_nothing_wrong_in_it(name: str):
    embed, in_full, w = embedding(name)
    checked = checkify.checkify(jax.value_and_grad(cubes(embed)), errors=checkify.all_checks)
    error, (value, _) = jax.jit(checked)(w)
    assert error.get() is None
    np.testing.assert_allclose(value, cubes(in_full)(w), rtol=1e-4)


@EVERY_EMBEDDING
def test_a_batch_of_no_examples_has_none(name: str):
    embed, _, w = embedding(name)
    assert jax.vmap(lambda ids: embed(w, ids))(IDS_BT[:0]).shape == (0, 5, WIDTH)
    assert jax.vmap(jax.grad(lambda w, ids: embed(w, ids).sum()), (None, 0))(w, IDS_BT[:0]).shape == (0, *w.shape)


@pytest.mark.parametrize("name", choices.IMPLEMENTATIONS)
def test_what_is_no_matrix_of_floats_with_a_row_for_each_cell_is_refused(name: str):
    _, _, w = embedding(name)
    prepared = implementations.prepare(bags.kronecker_bag(table()), name, induced_head=True)
    for wrong, kind, said in (
        (w[0, 0], ValueError, r"the projection has shape \(\); it must be a matrix, \(512, width\)"),
        (w[:, 0], ValueError, r"the projection has shape \(512,\)"),
        (w[:, None], ValueError, r"the projection has shape \(512, 1, 3\)"),
        (w[:100], ValueError, "projection has 100 rows, the code 512"),
        (w.astype(int), TypeError, "the projection is int32; it must be floats"),
    ):
        with pytest.raises(kind, match=said):
            implementations.product(wrong, prepared, IDS_BT)
        with pytest.raises(kind, match=said):
            implementations.induced_table(wrong, prepared)


@pytest.mark.parametrize(
    "ids", [np.ones((2, 3), np.float32), [0.0, 1.0], np.ones(3, bool)], ids=["array", "list", "bool"]
)
@EVERY_EMBEDDING
def test_ids_that_are_no_integers_are_refused(name: str, ids: Any):
    embed, _, w = embedding(name)
    if name == TABLE and np.asarray(ids).dtype == bool:
        pytest.skip("a table takes them for a mask")
    with pytest.raises(TypeError, match="must be integers" if name != TABLE else "must have integer|non-tuple"):
        embed(w, ids)


@EVERY_EMBEDDING
def test_weight_decay_over_a_tree_leaves_the_code_as_it_is(name: str):
    """Splits the tree by type of number, as `equinox.is_inexact_array` does."""
    _, _, w = embedding(name)
    tree = {"w": w, "ids": IDS_BT} if name == TABLE else {"w": w, "bag": jax.tree.map(jnp.asarray, bag(name))}
    leaves, form = jax.tree.flatten(tree)
    trained = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf if of_float else None for leaf, of_float in zip(leaves, trained, strict=True)]
    assert sum(trained) == 1

    def loss(floats):
        tree = form.unflatten([leaf if new is None else new for leaf, new in zip(leaves, floats, strict=True)])
        embed = tree["w"][tree["ids"]] if name == TABLE else implementations.product(tree["w"], tree["bag"], IDS_BT)
        return (embed**2).sum()

    optimizer = optax.adamw(0.1, weight_decay=0.5)
    updates, _ = optimizer.update(jax.jit(jax.grad(loss))(floats), optimizer.init(floats), floats)
    after = optax.apply_updates(floats, updates)
    assert [new is None for new in after] == [not of_float for of_float in trained]
    assert not np.allclose(after[trained.index(True)], w)


@EVERY_EMBEDDING
def test_axes_of_the_mesh_may_have_any_names(name: str):
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("mine", "model"), axis_types=(AxisType.Auto,) * 2)
    embed, in_full, w = embedding(name)
    if name != TABLE:
        embed = functools.partial(_product_of, bag(name), mesh=mesh, batch_axes=("mine",))
    got, want = (jax.jit(jax.grad(squared_norm(how)))(w, IDS_BT) for how in (embed, in_full))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
    if name != TABLE:
        with_one_name = implementations.product(w, bag(name), IDS_BT, mesh=mesh, batch_axes="mine")
        np.testing.assert_array_equal(with_one_name, embed(w, IDS_BT))
        np.testing.assert_allclose(jax.grad(squared_norm(embed))(w, IDS_BT), want, rtol=1e-4, atol=1e-3)  # without jit
        with pytest.raises(ValueError, match=r"has axes \('mine', 'model'\) but batch_axes are \('data', 'fsdp'\)"):
            implementations.product(w, bag(name), IDS_BT, mesh=mesh)


def test_a_code_cast_to_floats_is_refused():
    _, _, w = embedding("induced")
    cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), bag("induced"))
    for call in (
        functools.partial(implementations.product, w, cast, IDS_BT),
        lambda: implementations.induced_table(w, cast),
    ):
        with pytest.raises(ValueError, match="arrays of bfloat16; cast only the projection"):
            call()


@pytest.mark.parametrize("name", [TABLE, "bag"])
def test_axes_of_type_explicit_are_refused_without_a_sharding_of_the_result(name: str):
    embed, in_full, w = embedding(name)
    rows = PartitionSpec("mine")
    with jax.set_mesh(jax.make_mesh((1,), ("mine",), axis_types=(AxisType.Explicit,))):
        ids = jax.device_put(IDS_BT, rows)
        if name != TABLE:
            with pytest.raises(
                ValueError, match=r"of type Explicit; call the embedding through jax.sharding.auto_axes"
            ):
                embed(w, ids)
        x = jax.jit(jax.sharding.auto_axes(embed, out_sharding=rows))(w, ids)
    np.testing.assert_allclose(x, in_full(w, IDS_BT), atol=1e-5)


def _product_of(held: bags.Bag, w: jax.Array, ids: jax.Array, **how: Any) -> jax.Array:
    return implementations.product(w, held, ids, **how)
