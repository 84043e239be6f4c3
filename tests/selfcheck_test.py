"""The check before training lets exact products pass and stops the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from kronecker import bag as bags
from kronecker import codec, implementations, selfcheck, tokenizers


@pytest.fixture(scope="module")
def table() -> codec.ByteTable:
    return codec.byte_table(tokenizers.load("gpt2").token_bytes, 16, padded_vocab=50_304)


def check(bag: bags.Bag, table: codec.ByteTable, dtype: str = "float32", norm: str = "z") -> None:
    group = base.get_config().embedding
    group.init_std, group.norm = table.code_dim**-0.5, norm
    selfcheck.check_product(bag, table, group, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("implementation", ["onthefly", "bag", "onehot", "induced"])
def test_an_exact_product_passes(table: codec.ByteTable, implementation: str, dtype: str):
    check(implementations.prepare(bags.kronecker_bag(table), implementation), table, dtype)


def test_both_norms_pass(table: codec.ByteTable):
    check(bags.kronecker_bag(table, "length"), table, norm="length")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda bag: bag.replace(shift=bag.shift * 1.1),
        lambda bag: bag.replace(scale=bag.scale * (1 + 1e-4)),
        lambda bag: bag.replace(symbols=np.roll(bag.symbols, 1, axis=0)),
        lambda bag: bag.replace(lengths=np.maximum(bag.lengths - 1, 0)),
        lambda bag: bag.replace(scale=bag.scale * np.nan),
    ],
    ids=["shift", "scale", "symbols", "lengths", "not a number"],
)
def test_a_product_of_other_data_is_refused(table: codec.ByteTable, wrong):
    with pytest.raises(FloatingPointError, match=r"the value of embedding\.implementation=bag is off by"):
        check(wrong(bags.kronecker_bag(table)), table)


def test_a_wrong_gradient_is_refused(table: codec.ByteTable, monkeypatch: pytest.MonkeyPatch):
    @jax.custom_vjp
    def loses_repeats(table_Md: jax.Array, index_N: jax.Array) -> jax.Array:
        return table_Md[index_N]

    def forward(table_Md, index_N):
        return table_Md[index_N], (index_N, table_Md.shape)

    def backward(saved, grad_Nd):
        index_N, shape = saved
        return jnp.zeros(shape).at[index_N].set(grad_Nd), None  # a scatter that keeps one update of many

    loses_repeats.defvjp(forward, backward)
    monkeypatch.setattr(implementations, "_look_up", loses_repeats)
    with pytest.raises(FloatingPointError, match=r"the gradient of embedding\.implementation=bag is off by"):
        check(bags.kronecker_bag(table), table)
