"""What `prepare` makes of a bag for each implementation and platform, and ids at the ends of a vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kronecker.embedding import bags, codec, controls, implementations, kernels
from kronecker.schema import choices

WIDTH = 8


def bag_of(lengths: list[int], pos_dim: int) -> bags.Bag:
    rng = np.random.default_rng(0)
    return bags.kronecker_bag(
        codec.byte_table([rng.integers(0, 256, size, np.uint8).tobytes() for size in lengths], pos_dim)
    )


@pytest.fixture(scope="module")
def bag() -> bags.Bag:
    return bag_of([3, 1, 4, 1, 5, 2], 6)


@pytest.mark.parametrize(("platform", "chosen"), [("cpu", "bag"), ("gpu", "gather"), ("tpu", "onehot")])
def test_auto_is_the_platforms_own(bag: bags.Bag, platform: str, chosen: str):
    prepared = implementations.prepare(bag, "auto", platform=platform)
    assert (prepared.implementation, prepared.gather_gradient, prepared.platform) == (chosen, "scatter", platform)


@pytest.mark.parametrize("implementation", choices.IMPLEMENTATIONS)
def test_a_bag_holds_what_its_implementation_needs_and_no_more(bag: bags.Bag, implementation: str):
    plain = implementations.prepare(bag, implementation)
    assert (plain.implementation, plain.platform, plain.buckets) == (implementation, "cpu", ())
    assert (plain.codes is not None) == (implementation == "cached")
    assert (plain.order is not None) == (implementation == "induced")
    with_head = implementations.prepare(bag, implementation, induced_head=True, gather_gradient="onehot")
    assert with_head.order.tolist() == [4, 2, 0, 5, 1, 3]  # longest first, and then as they were
    assert with_head.gather_gradient == "onehot"


@pytest.mark.parametrize(
    ("implementation", "how", "rounds"),
    [
        ("cached", {}, (True, True)),
        ("onthefly", {}, (True, True)),
        ("onehot", {}, (True, True)),
        ("bag", {}, (False, False)),
        ("gather", {}, (False, False)),
        ("gather", {"gather_gradient": "onehot"}, (False, True)),
        ("bag", {"gather_gradient": "onehot", "platform": "gpu"}, (False, False)),
        ("bag", {"gather_gradient": "onehot", "platform": "gpu", "induced_head": True}, (False, True)),
        ("induced", {"gather_gradient": "onehot"}, (False, False)),
        ("induced", {"gather_gradient": "onehot", "platform": "gpu"}, (False, True)),
        ("induced", {"platform": "gpu"}, (False, False)),
        ("induced", {"platform": "tpu"}, (True, True)),
        ("bag", {"platform": "tpu", "induced_head": True}, (True, True)),
    ],
)
def test_operands_are_rounded_where_there_are_matrix_products(
    bag: bags.Bag, implementation: str, how: dict, rounds: tuple[bool, bool]
):
    prepared = implementations.prepare(bag, implementation, **how)
    assert implementations.rounds(prepared) == rounds
    by = f", gradient by {how.get('gather_gradient', 'scatter')}" if implementation == "gather" else ""
    assert implementations.describe(prepared) == implementation + by


@pytest.mark.parametrize(
    ("lengths", "pos_dim", "buckets"),
    [
        ([8] * 513 + [5] * 20 + [4] * 700 + [0, 1], 8, ((1024, 8), (211, 4))),
        ([8] * 512 + [4], 8, ((512, 8), (1, 4))),
        ([8] * 400 + [1], 8, ((401, 8),)),
        ([4, 3, 1], 8, ((3, 4),)),
        ([3] * 600, 5, ((600, 5),)),
        ([2] * 3, 5, ((3, 2),)),
        ([1] * 600, 1, ((600, 1),)),
    ],
)
def test_a_tpus_table_has_a_part_of_long_ids_and_one_of_short(
    lengths: list[int], pos_dim: int, buckets: tuple[tuple[int, int], ...]
):
    assert implementations.prepare(bag_of(lengths, pos_dim), "induced", platform="tpu").buckets == buckets


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_table_of_two_parts_is_exact_and_so_is_its_gradient(dtype: str):
    rng = np.random.default_rng(1)
    table = codec.byte_table([rng.integers(0, 256, i % 7, np.uint8).tobytes() for i in range(1300)], 6)
    ids, exact = rng.integers(0, 1300, 200), dtype == "float32"
    code = codec.dense_code(table, ids, "z")
    weights = jnp.asarray(rng.normal(size=(table.code_dim, WIDTH)), "float32")
    cotangent = rng.normal(size=(200, WIDTH)).astype(np.float32)
    bag = implementations.prepare(bags.kronecker_bag(table), "induced", platform="tpu")
    assert [slots for _, slots in bag.buckets] == [6, 3]

    @jax.jit
    def value_and_gradient(weights):
        out, pullback = jax.vjp(lambda w: implementations.product(w, bag, ids, dtype), weights)
        return out, pullback(cotangent)[0]

    wanted = code @ np.asarray(weights), code.T @ cotangent
    for got, want in zip(value_and_gradient(weights), wanted, strict=True):
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < (1e-6 if exact else 2**-8)


@pytest.mark.parametrize("implementation", choices.IMPLEMENTATIONS)
def test_the_first_and_the_last_id_are_themselves_and_stand_for_those_beyond(bag: bags.Bag, implementation: str):
    weights = jax.random.normal(jax.random.key(0), (bag.rows, WIDTH))
    prepared = implementations.prepare(bag, implementation)
    embed = jax.jit(lambda ids: implementations.product(weights, prepared, ids))
    rows = embed(np.arange(6))
    assert len(np.unique(rows, axis=0)) == 6
    ids, same = [0, 1, 5, -1, -5, -6, -7, -99, 6, 99], [0, 1, 5, 5, 1, 0, 0, 0, 5, 5]
    np.testing.assert_array_equal(embed(np.array(ids)), rows[np.array(same)])
    alone = embed(np.array([99]))  # in other shapes products are rounded in another way
    np.testing.assert_allclose(alone, rows[5:], rtol=1e-4)


@pytest.mark.parametrize("implementation", choices.IMPLEMENTATIONS)
def test_batches_under_vmap_are_those_that_are_joined(bag: bags.Bag, implementation: str):
    weights = jax.random.normal(jax.random.key(0), (bag.rows, WIDTH))
    embed = functools.partial(implementations.product, weights, implementations.prepare(bag, implementation))
    ids = np.arange(14).reshape(2, 7) % 6
    np.testing.assert_allclose(jax.jit(jax.vmap(embed))(ids), jax.jit(embed)(ids), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 128, 129, 300, 301, 999])
def test_a_batch_has_as_many_groups_as_tokens_or_ids_in_complete_tiles(tokens: int):
    groups = jax.eval_shape(functools.partial(kernels.merge, bag_of([3] * 300, 4)), np.zeros(tokens, np.int32))
    tiles = -(-min(tokens, 300) // kernels.TILE)
    assert groups.ids.shape == groups.lengths.shape == (tiles * kernels.TILE,)


@pytest.mark.parametrize("vocab", [100, 128, 130])  # less than a tile, one, and one with a part of another
def test_an_induced_table_of_incomplete_tiles_has_the_gradient_of_the_code(vocab: int):
    bag = bag_of([i % 4 + 1 for i in range(vocab)], 4)
    prepared, code_VD = implementations.prepare(bag, "induced"), bags.dense_code(bag, np.arange(vocab))
    wanted = np.random.default_rng(0).normal(size=(vocab, WIDTH)).astype(np.float32)
    loss = jax.jit(jax.grad(lambda weights: (implementations.induced_table(weights, prepared) * wanted).sum()))
    np.testing.assert_allclose(loss(np.ones((bag.rows, WIDTH), np.float32)), code_VD.T @ wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x64", [True, False])
def test_an_id_of_64_bits_is_not_cut_to_32(x64: bool):
    ids, same = [2**32 + 1, 2**40, -(2**32) - 1, -(2**40), -1, -2, 0], [2, 2, 0, 0, 2, 1, 0]
    bag = implementations.prepare(bag_of([1, 2, 3], 4), "gather")
    weights = np.random.default_rng(0).normal(size=(bag.rows, WIDTH)).astype(np.float32)
    with jax.enable_x64(x64):
        product = jax.jit(implementations.product) if x64 else implementations.product  # jit has cut what it is given
        rows = np.asarray(product(weights, bag, np.array([*ids, *same])))
        assert np.array_equal(product(weights, bag, np.array(ids)[0]), rows[0])
        assert np.array_equal(product(weights, bag, jnp.array([2], jnp.int4)), rows[:1])
    np.testing.assert_array_equal(rows[:7], rows[7:])
    assert len(np.unique(rows, axis=0)) == 3


@pytest.mark.parametrize(
    ("implementation", "how"),
    [
        ("induced", {}),
        ("induced", {"platform": "tpu"}),
        ("induced", {"platform": "gpu"}),
        ("gather", {"platform": "gpu"}),
        ("bag", {"induced_head": True}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_induced_table_has_a_row_for_each_id_in_the_projections_type(
    bag: bags.Bag, implementation: str, how: dict, dtype: str
):
    weights = jax.random.normal(jax.random.key(0), (bag.rows, WIDTH), dtype)
    table = jax.jit(implementations.induced_table)(weights, implementations.prepare(bag, implementation, **how))
    want = bags.dense_code(bag, np.arange(6)) @ np.asarray(weights, np.float64)
    assert table.dtype == dtype
    error = np.linalg.norm(np.asarray(table, np.float64) - want) / np.linalg.norm(want)
    assert error < (2**-7 if dtype == "bfloat16" else 1e-6)


@pytest.mark.parametrize(("implementation", "platform"), [("bag", "cpu"), ("onehot", "tpu")])
def test_a_bag_without_an_order_has_no_induced_table(bag: bags.Bag, implementation: str, platform: str):
    with pytest.raises(ValueError, match=rf"""prepared for '{implementation}'; call prepare\(bag, "induced"\) first"""):
        implementations.induced_table(
            jnp.ones((bag.rows, WIDTH)), implementations.prepare(bag, implementation, platform=platform)
        )


def test_codes_may_take_a_gigabyte_and_exactly_what_is_allowed(bag: bags.Bag):
    with pytest.raises(ValueError, match=r"codes of 1,024 MB in float32, above embedding.cache_limit_mb = 1,024;"):
        implementations.prepare(bag_of([1] * 62_505, 16), "cached")
    megabytes = 6 * bag.rows * 2 / 1e6
    assert implementations.prepare(bag, "cached", jnp.bfloat16, megabytes).codes.shape == (6, bag.rows)
    with pytest.raises(ValueError, match=r"\(6, 1,536\) codes of 0 MB in bfloat16, above"):
        implementations.prepare(bag, "cached", jnp.bfloat16, megabytes - 1e-6)


def errors(bag: bags.Bag, dtype: str) -> tuple[float, float]:
    """Returns the relative errors of the product of all ids, most of them twice, and of its gradient."""
    rng = np.random.default_rng(2)
    ids = np.concatenate([np.arange(bag.vocab), np.arange(1, bag.vocab)])
    code = bags.dense_code(bag, ids)
    weights = rng.normal(size=(bag.rows, WIDTH)).astype(np.float32)
    cotangent = rng.normal(size=(len(ids), WIDTH)).astype(np.float32)

    @jax.jit
    def value_and_gradient(weights, bag):
        out, pullback = jax.vjp(lambda w: implementations.product(w, bag, ids, dtype), weights)
        return out, pullback(cotangent)[0]

    wanted = code @ weights.astype(np.float64), code.T @ cotangent.astype(np.float64)
    return tuple(
        float(np.linalg.norm(got - want) / np.linalg.norm(want))
        for got, want in zip(value_and_gradient(weights, bag), wanted, strict=True)
    )


# On a TPU float32 operands are rounded by the matrix unit, which is not here.
@pytest.mark.parametrize(
    ("implementation", "how"),
    [
        ("cached", {}),
        ("onthefly", {}),
        ("bag", {}),
        ("gather", {}),
        ("gather", {"gather_gradient": "onehot"}),
        ("onehot", {}),
        ("induced", {"platform": "gpu"}),
        ("induced", {"platform": "gpu", "gather_gradient": "onehot"}),
    ],
)
def test_bfloat16_operands_are_rounded_where_the_bag_says_so_and_nowhere_else(
    bag: bags.Bag, implementation: str, how: dict
):
    prepared = implementations.prepare(bag, implementation, **how)
    assert tuple(error > 2**-12 for error in errors(prepared, "bfloat16")) == implementations.rounds(prepared)
    assert max(errors(prepared, "float32")) < 1e-6


@pytest.mark.parametrize("kind", ["hash_ngram", "head_tail"])
@pytest.mark.parametrize(
    ("implementation", "how"),
    [
        ("onehot", {}),
        ("onehot", {"platform": "tpu"}),
        ("gather", {"platform": "gpu", "gather_gradient": "onehot"}),
    ],
)
def test_a_bag_whose_symbols_are_rows_is_exact_by_one_hot_products(kind: str, implementation: str, how: dict):
    table = codec.byte_table([b"abab", b"c", b"", b"defghij"], 5, truncation="head_tail")
    made = {"hash_ngram": controls.hash_ngram_bag, "head_tail": controls.head_tail_bag}[kind](table)
    assert max(errors(implementations.prepare(made, implementation, **how), "float32")) < 1e-6
