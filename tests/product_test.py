"""The product against the dense code, in float64 and float32, value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from kronecker import bag, codec

WIDTH = 24


def tokens_of_every_length(pos_dim: int, seed: int = 0) -> list[bytes | None]:
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 256, length, np.uint8).tobytes() for length in range(pos_dim + 1) for _ in range(3)]
    return [*tokens, b"\0", b"\0" * pos_dim, None, b"a" * (pos_dim + 5)]


@pytest.fixture(params=[1, 8, 16, 32])
def table(request: pytest.FixtureRequest) -> codec.ByteTable:
    tokens = tokens_of_every_length(request.param)
    return codec.byte_table(tokens, request.param, padded_vocab=len(tokens) + 5)


@pytest.mark.parametrize("norm", ["z", "length"])
def test_product_and_gradient_equal_the_dense_code_in_float64(table: codec.ByteTable, norm: str):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        ids = rng.integers(0, len(table.lengths), (5, 31))
        weights, cotangent = rng.normal(size=(table.code_dim, WIDTH)), rng.normal(size=(5, 31, WIDTH))
        code = codec.dense_code(table, ids.ravel(), norm).reshape(5, 31, -1)
        arm = bag.kronecker_bag(table, norm)
        out, pullback = jax.vjp(lambda w: bag.product(w, arm, ids), jnp.asarray(weights))
        assert relative_error(out, code @ weights) < 1e-12
        assert relative_error(pullback(jnp.asarray(cotangent))[0], np.einsum("btn,btd->nd", code, cotangent)) < 1e-12


@pytest.mark.parametrize("norm", ["z", "length"])
def test_float32_product_is_within_1e_5_and_its_gradient_within_1e_6(table: codec.ByteTable, norm: str):
    rng = np.random.default_rng(2)
    ids = np.concatenate([np.arange(len(table.lengths)), rng.integers(0, len(table.lengths), 100)])
    weights = rng.normal(0, table.code_dim**-0.5, (table.code_dim, WIDTH)).astype(np.float32)
    cotangent = rng.normal(size=(len(ids), WIDTH)).astype(np.float32)
    code = codec.dense_code(table, ids, norm)
    out, pullback = jax.vjp(lambda w: bag.product(w, bag.kronecker_bag(table, norm), ids), jnp.asarray(weights))
    np.testing.assert_allclose(out, code @ weights, atol=1e-5)
    assert relative_error(pullback(jnp.asarray(cotangent))[0], code.T @ cotangent) < 1e-6


def test_the_shift_sends_gradient_to_rows_that_no_token_uses(table: codec.ByteTable):
    ids = np.flatnonzero(table.lengths)[:1]
    weights = jnp.ones((table.code_dim, WIDTH))
    gradient = jax.grad(lambda w: bag.product(w, bag.kronecker_bag(table, "z"), ids).sum())(weights)
    assert np.all(np.asarray(gradient) != 0)


def test_an_id_without_bytes_embeds_to_zero_under_z_norm(table: codec.ByteTable):
    ids = np.flatnonzero(table.lengths == 0)
    out = bag.product(jnp.ones((table.code_dim, WIDTH)), bag.kronecker_bag(table, "z"), ids)
    assert len(ids) > 5
    assert not np.any(np.asarray(out))


def test_no_token_at_all_gives_an_empty_result(table: codec.ByteTable):
    out = bag.product(jnp.ones((table.code_dim, WIDTH)), bag.kronecker_bag(table), np.zeros((0, 4), np.int32))
    assert out.shape == (0, 4, WIDTH)


def intermediate_sizes(jaxpr: core.Jaxpr) -> list[int]:
    inner = [sub for equation in jaxpr.eqns for sub in core.jaxprs_in_params(equation.params)]
    own = [var.aval.size for equation in jaxpr.eqns for var in equation.outvars]
    return own + [size for sub in inner for size in intermediate_sizes(sub)]


def test_no_array_of_codes_or_of_rows_by_position_is_ever_built(table: codec.ByteTable):
    ids = np.zeros((128, 128), np.int32)
    arm = bag.kronecker_bag(table)

    def loss(weights: jax.Array) -> jax.Array:
        return (bag.product(weights, arm, ids) ** 2).sum()

    traced = jax.make_jaxpr(jax.value_and_grad(loss))(jnp.zeros((table.code_dim, WIDTH)))
    largest_needed = max(ids.size * WIDTH, table.code_dim * WIDTH, ids.size * table.pos_dim)
    assert max(intermediate_sizes(traced.jaxpr)) <= largest_needed
    assert largest_needed < ids.size * table.code_dim
    assert table.pos_dim == 1 or largest_needed < ids.size * table.pos_dim * WIDTH


def test_an_unknown_norm_is_refused(table: codec.ByteTable):
    with pytest.raises(ValueError, match="norm is 'unit'; allowed: z, length"):
        bag.kronecker_bag(table, norm="unit")


def test_a_projection_of_the_wrong_height_is_refused(table: codec.ByteTable):
    with pytest.raises(ValueError, match="rows; this code has"):
        bag.product(jnp.ones((table.code_dim - 1, WIDTH)), bag.kronecker_bag(table), np.zeros(3, np.int32))


def relative_error(got: jax.Array, want: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want))
