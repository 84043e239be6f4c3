"""The draws of random codes by their definition, and the size of a symbol; tests/schema/arms_test.py has the cells."""

import itertools

import jax
import numpy as np
import pytest

from kronecker import tokenization
from kronecker.embedding import bags, codec, controls, implementations

GPT2 = tokenization.load("gpt2")
SHUFFLES = [controls.shuffled_code_bag, controls.shuffled_code_space_bag]


def mixed(value: int) -> int:
    return int(controls.mix(np.array([value % 2**64], np.uint64))[0])


def test_a_random_code_that_an_earlier_id_has_is_drawn_again():
    table = codec.byte_table([b"ab"] * 1200, 3)
    codes: list[list[int]] = []
    draws = []
    for token_id in range(1200):
        for draw in itertools.count():
            code = [mixed(mixed(mixed(token_id) + draw) + position) % 256 for position in range(2)] + [0]
            if code not in codes:
                break
        codes.append(code)
        draws.append(draw)
    assert controls.random_code_bag(table).symbols.tolist() == codes
    assert sum(draws) > 5


def test_random_codes_of_one_byte_are_a_permutation_that_repeats():
    table = codec.byte_table([b"a"] * 300, 2)
    symbols = controls.random_code_bag(table).symbols
    assert symbols[np.argsort(controls.mix(np.arange(300, dtype=np.uint64)))].tolist() == [
        [place % 256, 0] for place in range(300)
    ]


@pytest.mark.parametrize(("pos_dim", "dtype"), [(1, "uint8"), (2, "uint16"), (256, "uint16"), (257, "uint32")])
def test_a_symbol_takes_the_bytes_that_its_rows_need(pos_dim: int, dtype: str):
    table = codec.byte_table([b"a", None], pos_dim, truncation="head_tail")
    assert controls.head_tail_bag(table).symbols.dtype == dtype


@pytest.mark.parametrize("pos_dim", [1, 3, 6])
def test_a_bag_of_grams_has_a_slot_for_each_gram_of_the_longest_token(pos_dim: int):
    bag = controls.hash_ngram_bag(codec.byte_table([b"a" * pos_dim, b"a"], pos_dim))
    assert (bag.slots, bag.lengths.tolist()) == (3 * pos_dim + 1, [3 * pos_dim + 1, 4])


@pytest.mark.parametrize("norm", ["z", "length"])
@pytest.mark.parametrize("make", SHUFFLES)
def test_a_shuffle_exchanges_codes_within_a_length_and_changes_nothing_else_of_the_vocabulary(make, norm: str):
    table = codec.byte_table(GPT2.token_bytes, 16, 50_304, special=GPT2.special_ids)
    own, bag = bags.kronecker_bag(table, norm), make(table, norm)
    np.testing.assert_array_equal(bag.lengths, own.lengths)
    for length in range(17):
        of_length = table.lengths == length
        before, after = (sorted(map(bytes, one.symbols[of_length])) for one in (own, bag))
        assert before == after
    np.testing.assert_array_equal(bags.uses(bag), bags.uses(own))
    assert (bag.scale, bag.shift) == (own.scale, own.shift)
    moved = (bag.symbols != own.symbols).any(axis=1)
    spaced = table.bytes[:, 0] == 0x20
    kept = spaced == (bag.symbols[:, 0] == 0x20)
    assert kept.all() == (make is controls.shuffled_code_space_bag)
    assert moved[table.lengths > 0].mean() > 0.998  # the others are special, alone of their kind, or share their code
    assert not moved[[*GPT2.special_ids]].any()
    np.testing.assert_array_equal(make(table, norm).symbols, bag.symbols)


@pytest.mark.parametrize("make", SHUFFLES)
def test_a_shuffled_code_is_multiplied_as_its_dense_code_in_float64(make):
    tokens = [b"ab", b" b", b"cd", b" d", b"a", b"b", None, b"xyz", b" yz", b" zz", b"<|end|>"]
    table = codec.byte_table(tokens, 4, special=[10])
    bag, ids, rng = make(table), np.arange(len(tokens)).repeat(2), np.random.default_rng(0)
    np.testing.assert_array_equal(bag.symbols[10], table.bytes[10])
    weights, grad = rng.normal(size=(bag.rows, 8)), rng.normal(size=(len(ids), 8))
    code = bags.dense_code(bag, ids)
    prepared = implementations.prepare(bag, "bag")
    out, pullback = jax.vjp(lambda w: implementations.product(w, prepared, ids), weights.astype(np.float32))
    np.testing.assert_allclose(out, code @ weights, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(pullback(grad.astype(np.float32))[0], code.T @ grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make", [*SHUFFLES, controls.random_code_bag])
def test_another_draw_is_another_code_with_as_many_cells_for_each_id(make):
    table = codec.byte_table(GPT2.token_bytes, 16, 50_304, special=GPT2.special_ids)
    first, second = make(table), make(table, draw=1)
    np.testing.assert_array_equal(make(table, draw=0).symbols, first.symbols)
    np.testing.assert_array_equal(second.lengths, first.lengths)
    assert (second.symbols != first.symbols).any(axis=1).mean() > 0.99
