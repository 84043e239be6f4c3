"""The check before training lets exact products pass and stops the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from kronecker import tokenization
from kronecker.embedding import bags, codec, implementations, kernels, selfcheck


@pytest.fixture(scope="module")
def table() -> codec.ByteTable:
    return codec.byte_table(tokenization.load("gpt2").token_bytes, 16, padded_vocab=50_304)


def times(factor: float, numbers: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(factor * number for number in numbers)


def check(bag: bags.Bag, table: codec.ByteTable, dtype: str = "float32", norm: str = "z") -> None:
    group = base.get_config().embedding
    group.norm = norm
    selfcheck.check_product(bag, table, group, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "how",
    [
        {"implementation": "onthefly"},
        {"implementation": "bag"},
        {"implementation": "gather"},
        {"implementation": "gather", "gather_gradient": "onehot"},
        {"implementation": "gather", "gather_gradient": "onehot", "platform": "gpu", "induced_head": True},
        {"implementation": "onehot"},
        {"implementation": "onehot", "platform": "gpu"},
        {"implementation": "induced"},
    ],
    ids=str,
)
def test_an_exact_product_passes(table: codec.ByteTable, how: dict[str, str], dtype: str):
    check(implementations.prepare(bags.kronecker_bag(table), **how), table, dtype)


def test_both_norms_pass(table: codec.ByteTable):
    check(bags.kronecker_bag(table, "length"), table, norm="length")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda bag: bag.replace(shift=times(1.1, bag.shift)),
        lambda bag: bag.replace(scale=times(1 + 1e-4, bag.scale)),
        lambda bag: bag.replace(symbols=np.roll(bag.symbols, 1, axis=0)),
        lambda bag: bag.replace(lengths=np.maximum(bag.lengths - 1, 0)),
        lambda bag: bag.replace(scale=times(np.nan, bag.scale)),
    ],
    ids=["shift", "scale", "symbols", "lengths", "not a number"],
)
def test_a_product_of_other_data_is_refused(table: codec.ByteTable, wrong):
    with pytest.raises(FloatingPointError, match=r"the value of embedding\.implementation=bag has a relative error of"):
        check(wrong(bags.kronecker_bag(table)), table)


def test_a_wrong_gradient_is_refused(table: codec.ByteTable, monkeypatch: pytest.MonkeyPatch):
    exact = kernels.sum_merged

    @jax.custom_vjp
    def loses_repeats(weights_Dd: jax.Array, bag: bags.Bag, groups: kernels.Groups) -> jax.Array:
        return exact(weights_Dd, bag, groups)

    def forward(weights_Dd, bag, groups):
        return exact(weights_Dd, bag, groups), (weights_Dd, bag, groups)

    def backward(saved, grad_Nd):
        weights_Dd, bag, groups = saved
        count = len(grad_Nd)
        first_M = jnp.full(len(groups.ids), count).at[groups.group].min(jnp.arange(count))
        once_N1 = jnp.zeros((count, 1)).at[first_M].set(1.0, mode="drop")
        _, pullback = jax.vjp(lambda w: exact(w, bag, groups), weights_Dd)
        return pullback(grad_Nd * once_N1)[0], None, None  # one token of each id, as a scatter that loses updates

    loses_repeats.defvjp(forward, backward)
    monkeypatch.setattr(kernels, "sum_merged", loses_repeats)
    with pytest.raises(
        FloatingPointError, match=r"the gradient of embedding\.implementation=bag has a relative error of"
    ):
        check(bags.kronecker_bag(table), table)


def test_a_small_error_of_the_scale_is_refused_under_bfloat16_too(table: codec.ByteTable):
    for implementation in ("bag", "onehot"):
        bag = implementations.prepare(bags.kronecker_bag(table), implementation)
        with pytest.raises(FloatingPointError, match="has a relative error of"):
            check(bag.replace(scale=times(1.01, bag.scale)), table, "bfloat16")


def test_a_wrong_induced_table_is_refused(table: codec.ByteTable):
    bag = implementations.prepare(bags.kronecker_bag(table), "bag", induced_head=True)
    with pytest.raises(FloatingPointError, match="has a relative error of"):
        check(bag.replace(order=np.roll(bag.order, 7)), table)


def test_the_longest_ids_are_among_those_checked():
    table = codec.byte_table([bytes(range(length)) for length in range(97)], 96)
    bag = bags.kronecker_bag(table)
    with pytest.raises(FloatingPointError, match="the value of"):
        check(bag.replace(scale=(*bag.scale[:96], 2 * bag.scale[96])), table)
