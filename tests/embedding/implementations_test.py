"""Every implementation of the product against the dense code: values, gradients, memory, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kronecker.embedding import bags, codec, implementations, kernels
from kronecker.schema import choices

WIDTH = 24
# Beside each implementation as a CPU has it, those of other platforms.
ELSEWHERE = {
    "gather, gradient by one-hot": {"implementation": "gather", "gather_gradient": "onehot"},
    "onehot for TPU": {"implementation": "onehot", "platform": "tpu"},
    "onehot for GPU": {"implementation": "onehot", "platform": "gpu"},
    "induced for TPU": {"implementation": "induced", "platform": "tpu"},
    "induced for GPU": {"implementation": "induced", "platform": "gpu"},
    "induced for GPU, gradient by one-hot": {
        "implementation": "induced",
        "platform": "gpu",
        "gather_gradient": "onehot",
    },
}
EVERY_IMPLEMENTATION = pytest.mark.parametrize("implementation", [*choices.IMPLEMENTATIONS, *ELSEWHERE])
EVERY_NORM = pytest.mark.parametrize("norm", choices.NORMS)


def tokens_of_every_length(pos_dim: int, seed: int = 0) -> list[bytes | None]:
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 256, length, np.uint8).tobytes() for length in range(pos_dim + 1) for _ in range(3)]
    return [*tokens, b"\0", b"\0" * pos_dim, None, b"a" * (pos_dim + 5)]


@pytest.fixture(params=[1, 6, 16, 32, 48], ids=lambda pos_dim: f"P{pos_dim}", scope="module")
def table(request: pytest.FixtureRequest) -> codec.ByteTable:
    tokens = tokens_of_every_length(request.param)
    return codec.byte_table(tokens, request.param, padded_vocab=len(tokens) + 5)


@pytest.fixture(scope="module")
def small_table() -> codec.ByteTable:
    tokens = tokens_of_every_length(8)
    return codec.byte_table(tokens, 8, padded_vocab=len(tokens) + 5)


def kronecker(table: codec.ByteTable, implementation: str, norm: str = "z", dtype: str = "float32") -> bags.Bag:
    how = ELSEWHERE.get(implementation, {"implementation": implementation})
    return implementations.prepare(bags.kronecker_bag(table, norm), dtype=jnp.dtype(dtype), **how)


def relative_error(got: jax.Array, want: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want))


def value_and_gradient(projection, bag, ids, cotangent, dtype=None):
    @jax.jit
    def both(w, bag, ids, cotangent):
        out, pullback = jax.vjp(lambda w: implementations.product(w, bag, ids, dtype), w)
        return out, pullback(cotangent)[0]

    return both(projection, bag, jnp.asarray(ids), cotangent)


@EVERY_NORM
@EVERY_IMPLEMENTATION
def test_value_and_gradient_equal_the_dense_code_in_float64(table: codec.ByteTable, implementation: str, norm: str):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        ids = rng.integers(0, len(table.lengths), (5, 31))
        weights, cotangent = rng.normal(size=(table.code_dim, WIDTH)), rng.normal(size=(5, 31, WIDTH))
        code = codec.dense_code(table, ids.ravel(), norm).reshape(5, 31, -1)
        bag = kronecker(table, implementation, norm, "float64")
        out, gradient = value_and_gradient(jnp.asarray(weights), bag, ids, jnp.asarray(cotangent))
        assert relative_error(out, code @ weights) < 1e-12
        assert relative_error(gradient, np.einsum("btn,btd->nd", code, cotangent)) < 1e-12


# Fewer tokens than the vocabulary has ids, and more; few of them distinct, and most.
@pytest.mark.parametrize(("tokens", "distinct"), [(700, 90), (700, 699), (3000, 90), (3000, 1000), (1, 1)])
def test_the_bag_is_exact_however_many_ids_repeat(tokens: int, distinct: int):
    rng = np.random.default_rng(8)
    table = codec.byte_table([rng.integers(0, 256, i % 9, np.uint8).tobytes() for i in range(1000)], 8)
    some = rng.permutation(1000)[:distinct]
    ids = np.concatenate([some, rng.choice(some, tokens - distinct)])
    with jax.enable_x64(True):
        weights, cotangent = rng.normal(size=(table.code_dim, WIDTH)), rng.normal(size=(tokens, WIDTH))
        code = codec.dense_code(table, ids, "z")
        bag = kronecker(table, "bag", "z", "float64")
        out, gradient = value_and_gradient(jnp.asarray(weights), bag, ids, jnp.asarray(cotangent))
        assert relative_error(out, code @ weights) < 1e-12
        assert relative_error(gradient, code.T @ cotangent) < 1e-12


@EVERY_IMPLEMENTATION
def test_float32_value_and_gradient_are_within_1e_6(table: codec.ByteTable, implementation: str):
    out, gradient, want, want_gradient = all_ids_and_repeats(table, implementation, "float32")
    assert relative_error(out, want) < 1e-6
    assert relative_error(gradient, want_gradient) < 1e-6


@EVERY_IMPLEMENTATION
def test_bfloat16_operands_cost_at_most_their_rounding(table: codec.ByteTable, implementation: str):
    out, gradient, want, want_gradient = all_ids_and_repeats(table, implementation, "bfloat16")
    assert out.dtype == gradient.dtype == jnp.float32
    assert relative_error(out, want) < 2**-8
    assert relative_error(gradient, want_gradient) < 2**-8


@pytest.mark.parametrize("implementation", ["bag", "gather", "induced", "induced for GPU"])
def test_sums_of_rows_are_not_rounded_under_bfloat16(small_table: codec.ByteTable, implementation: str):
    out, gradient, want, want_gradient = all_ids_and_repeats(small_table, implementation, "bfloat16")
    assert relative_error(out, want) < 1e-6
    assert relative_error(gradient, want_gradient) < 1e-6


def all_ids_and_repeats(table: codec.ByteTable, implementation: str, dtype: str):
    rng = np.random.default_rng(2)
    ids = np.concatenate([np.arange(len(table.lengths)), rng.integers(0, 9, 200)])
    weights = rng.normal(0, table.code_dim**-0.5, (table.code_dim, WIDTH)).astype(np.float32)
    cotangent = rng.normal(size=(len(ids), WIDTH)).astype(np.float32)
    code = codec.dense_code(table, ids, "z")
    bag = kronecker(table, implementation, "z", dtype)
    out, gradient = value_and_gradient(jnp.asarray(weights), bag, ids, jnp.asarray(cotangent), dtype)
    return out, gradient, code @ weights, code.T @ cotangent


@EVERY_IMPLEMENTATION
def test_a_bfloat16_projection_gives_bfloat16_embeddings_and_gradients(
    small_table: codec.ByteTable, implementation: str
):
    rng = np.random.default_rng(3)
    ids = rng.integers(0, len(small_table.lengths), 90)
    weights = jnp.asarray(rng.normal(size=(small_table.code_dim, WIDTH)), jnp.bfloat16)
    cotangent = jnp.asarray(rng.normal(size=(90, WIDTH)), jnp.bfloat16)
    code = codec.dense_code(small_table, ids, "z")
    out, gradient = value_and_gradient(weights, kronecker(small_table, implementation), ids, cotangent)
    assert out.dtype == gradient.dtype == jnp.bfloat16
    assert relative_error(out, code @ np.asarray(weights, np.float64)) < 2**-7
    assert relative_error(gradient, code.T @ np.asarray(cotangent, np.float64)) < 2**-7


@EVERY_IMPLEMENTATION
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (64,), (65,), (2, 3, 43)], ids=str)
def test_ids_may_have_any_shape(small_table: codec.ByteTable, implementation: str, shape: tuple[int, ...]):
    rng = np.random.default_rng(4)
    ids = np.asarray(rng.integers(0, len(small_table.lengths), shape))
    weights = rng.normal(size=(small_table.code_dim, WIDTH)).astype(np.float32)
    out = implementations.product(jnp.asarray(weights), kronecker(small_table, implementation), ids)
    want = codec.dense_code(small_table, ids.ravel(), "z") @ weights
    assert relative_error(out, want.reshape(*shape, WIDTH)) < 1e-6


@pytest.mark.parametrize("beyond", [0, 1, kernels.HOT_TOKENS])
def test_a_gradient_by_one_hot_is_exact_for_more_tokens_than_are_in_memory_at_a_time(
    small_table: codec.ByteTable, beyond: int
):
    rng = np.random.default_rng(9)
    ids = rng.integers(0, len(small_table.lengths), kernels.HOT_TOKENS + beyond)
    cotangent = rng.normal(size=(len(ids), 3)).astype(np.float32)
    bag = kronecker(small_table, "gather, gradient by one-hot")
    _, gradient = value_and_gradient(jnp.ones((small_table.code_dim, 3)), bag, ids, cotangent)
    code_VD = codec.dense_code(small_table, np.arange(len(small_table.lengths)), "z")
    by_id_Vd = np.zeros((len(code_VD), 3))
    np.add.at(by_id_Vd, ids, cotangent)
    assert relative_error(gradient, code_VD.T @ by_id_Vd) < 1e-5


def test_a_gradient_by_one_hot_needs_no_more_memory_for_more_tokens_than_are_in_memory_at_a_time(
    small_table: codec.ByteTable,
):
    bag = kronecker(small_table, "gather, gradient by one-hot")

    def needed(tokens: int) -> int:
        shapes = [(small_table.code_dim, 3), (tokens,), (tokens, 3)]
        like = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, ("f4", "i4", "f4"), strict=True)]
        pull = jax.jit(lambda w, ids, out: jax.vjp(lambda w: implementations.product(w, bag, ids), w)[1](out))
        return pull.lower(*like).compile().memory_analysis().temp_size_in_bytes

    assert needed(4 * kernels.HOT_TOKENS) < 1.5 * needed(kernels.HOT_TOKENS)


@EVERY_IMPLEMENTATION
def test_no_token_at_all_gives_an_empty_result_and_no_gradient(small_table: codec.ByteTable, implementation: str):
    weights, none = jnp.ones((small_table.code_dim, WIDTH)), np.zeros((0, 4), np.int32)
    out, gradient = value_and_gradient(weights, kronecker(small_table, implementation), none, jnp.zeros((0, 4, WIDTH)))
    assert out.shape == (0, 4, WIDTH)
    assert not np.any(np.asarray(gradient))


@EVERY_IMPLEMENTATION
def test_an_id_without_bytes_embeds_to_zero_under_z_norm(small_table: codec.ByteTable, implementation: str):
    ids = np.flatnonzero(small_table.lengths == 0)
    out = implementations.product(jnp.ones((small_table.code_dim, WIDTH)), kronecker(small_table, implementation), ids)
    assert len(ids) > 5
    assert not np.any(np.asarray(out))


@EVERY_IMPLEMENTATION
def test_the_shift_sends_gradient_to_rows_that_no_token_uses(small_table: codec.ByteTable, implementation: str):
    ids = np.flatnonzero(small_table.lengths)[:1]
    bag = kronecker(small_table, implementation)
    gradient = jax.grad(lambda w: implementations.product(w, bag, ids).sum())(jnp.ones((small_table.code_dim, WIDTH)))
    assert np.all(np.asarray(gradient) != 0)


@EVERY_IMPLEMENTATION
def test_fifty_steps_of_adamw_move_the_projection_as_the_dense_code_does(
    small_table: codec.ByteTable, implementation: str
):
    bag, adamw = kronecker(small_table, implementation), optax.adamw(1e-3, weight_decay=0.1)
    code_VD = jnp.asarray(codec.dense_code(small_table, np.arange(len(small_table.lengths)), "z"), jnp.float32)
    rng = np.random.default_rng(5)
    batches = jnp.asarray(rng.integers(0, len(small_table.lengths), (50, 64)))
    target_Vd = jnp.asarray(rng.normal(size=(len(small_table.lengths), WIDTH)), jnp.float32)

    def train(embed):
        def step(state, ids):
            weights, moments = state
            gradient = jax.grad(lambda w: ((embed(w, ids) - target_Vd[ids]) ** 2).mean())(weights)
            updates, moments = adamw.update(gradient, moments, weights)
            return (optax.apply_updates(weights, updates), moments), None

        scale = small_table.code_dim**-0.5
        start = jax.random.normal(jax.random.key(0), (small_table.code_dim, WIDTH)) * scale
        return jax.jit(lambda w: jax.lax.scan(step, (w, adamw.init(w)), batches)[0][0])(start), start

    ours, start = train(lambda w, ids: implementations.product(w, bag, ids))
    dense, _ = train(lambda w, ids: jnp.matmul(code_VD[ids], w, precision="highest"))
    assert np.abs(dense - start).max() > 0.02
    np.testing.assert_allclose(ours, dense, atol=1e-5)


def test_the_induced_table_holds_the_embedding_of_every_id(table: codec.ByteTable):
    weights = np.random.default_rng(6).normal(size=(table.code_dim, WIDTH)).astype(np.float32)
    out = implementations.induced_table(jnp.asarray(weights), kronecker(table, "induced"))
    assert relative_error(out, codec.dense_code(table, np.arange(len(table.lengths)), "z") @ weights) < 1e-6


def lowered(table: codec.ByteTable, implementation: str, tokens: int, width: int):
    def loss(weights, bag, ids):
        return (implementations.product(weights, bag, ids) ** 2).sum()

    weights = jax.ShapeDtypeStruct((table.code_dim, width), jnp.float32)
    ids = jax.ShapeDtypeStruct((tokens,), jnp.int32)
    return jax.jit(jax.value_and_grad(loss)).lower(weights, kronecker(table, implementation), ids)


def test_the_bag_needs_no_memory_for_codes_or_for_rows_by_position():
    rng = np.random.default_rng(7)
    tokens = [rng.integers(0, 256, rng.integers(1, 17), np.uint8).tobytes() for _ in range(20_000)]
    table, count, width = codec.byte_table(tokens, 16), 4096, 64
    temporary = lowered(table, "bag", count, width).compile().memory_analysis().temp_size_in_bytes
    forbidden = {
        "tokens x D": count * table.code_dim,
        "V x D": len(tokens) * table.code_dim,
        "tokens x P x d": count * table.pos_dim * width,
    }
    assert temporary < 4 * min(forbidden.values())
    # Two arrays of the result's size, one of the projection's, and a few numbers a token and slot.
    assert temporary < 4 * (3 * count * width + 2 * table.code_dim * width + 3 * count * table.pos_dim)


@pytest.mark.parametrize("implementation", ["bag", "gather", "onehot", "onthefly"])
def test_the_layer_keeps_a_byte_a_position_and_two_a_length(implementation: str):
    tokens = [bytes([value % 256, value // 256]) for value in range(2048)]
    bag = kronecker(codec.byte_table(tokens, 32), implementation)
    by_vocabulary = [leaf for leaf in jax.tree.leaves(bag) if leaf.shape[:1] == (2048,)]
    assert sum(leaf.nbytes for leaf in by_vocabulary) == 2048 * (32 + 2)


@EVERY_IMPLEMENTATION
def test_the_bytes_are_an_argument_of_the_program_and_not_in_it(implementation: str):
    tokens = [bytes([value % 256, value // 256]) for value in range(16_384)]
    table = codec.byte_table(tokens, 8)
    assert len(lowered(table, implementation, 128, 8).as_text()) < table.bytes.nbytes


def test_cached_codes_above_the_limit_are_refused_with_their_size(small_table: codec.ByteTable):
    wide = codec.byte_table([bytes([value % 256]) for value in range(50_304)], 16)
    with pytest.raises(ValueError, match=r"\(50,304, 4,096\) codes of 824 MB in float32, above .*cache_limit_mb = 800"):
        implementations.prepare(bags.kronecker_bag(wide), "cached", jnp.float32, limit_mb=800)
    assert implementations.prepare(bags.kronecker_bag(small_table), "cached").codes.shape == (
        len(small_table.lengths),
        small_table.code_dim,
    )


def test_an_unknown_implementation_is_refused(small_table: codec.ByteTable):
    with pytest.raises(ValueError, match="is 'fused'; allowed: auto, cached, onthefly, bag, gather, onehot"):
        implementations.prepare(bags.kronecker_bag(small_table), "fused")


def test_an_unknown_gradient_of_gather_is_refused(small_table: codec.ByteTable):
    with pytest.raises(ValueError, match="gather_gradient is 'sort'; allowed: auto, scatter, onehot"):
        implementations.prepare(bags.kronecker_bag(small_table), "gather", gather_gradient="sort")


def test_an_unknown_norm_is_refused(small_table: codec.ByteTable):
    with pytest.raises(ValueError, match="norm is 'unit'; allowed: z, length"):
        bags.kronecker_bag(small_table, norm="unit")


def test_a_projection_of_the_wrong_height_is_refused(small_table: codec.ByteTable):
    with pytest.raises(ValueError, match="use one pos_dim for both"):
        implementations.product(
            jnp.ones((small_table.code_dim - 1, WIDTH)), bags.kronecker_bag(small_table), np.zeros(3, np.int32)
        )
