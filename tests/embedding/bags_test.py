"""Which ids look the same to a model: cells of a bag by hand, and codes that are shared."""

import itertools

import jax
import numpy as np
import pytest

from kronecker.embedding import bags, codec
from kronecker.model import build

# At P = 2 the first four share "ab"; a byte 0 is not nothing; None, empty and padding have no code to share.
TOKENS = (b"abc", b"abd", b"ab", b"abXY", b"a", b"a\x00", b"ba", None, b"", b"\x00", b"zz!", b"zz?")
KINDS = ("kronecker", "head_tail", "random_code", "hash_ngram", "shuffled_code", "shuffled_code_space")
SHARED_AT_2 = {(0, 1, 2, 3), (10, 11)}


def make_bag(kind: str, pos_dim: int) -> bags.Bag:
    truncation = "head_tail" if kind == "head_tail" else "head"
    table = codec.byte_table(TOKENS, pos_dim, padded_vocab=14, truncation=truncation)
    return build.make_bag(table, kind, "length")


def groups(shared_V: np.ndarray) -> set[tuple[int, ...]]:
    numbers = set(shared_V.tolist()) - {-1}
    return {tuple(np.flatnonzero(shared_V == number).tolist()) for number in numbers}


def test_the_cell_of_a_byte_is_its_value_times_p_plus_its_position_and_unused_slots_are_out_of_bounds():
    cells = make_bag("kronecker", 4).host_cells(np.array([6, 3, 4, 7, 13]))
    assert cells.tolist() == [
        [4 * ord("b"), 4 * ord("a") + 1, 1024, 1024],
        [4 * ord("a"), 4 * ord("b") + 1, 4 * ord("X") + 2, 4 * ord("Y") + 3],
        [4 * ord("a"), 1024, 1024, 1024],
        [1024] * 4,
        [1024] * 4,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_sees_the_cells_that_the_device_sums(kind: str):
    bag, ids = make_bag(kind, 3), np.arange(14)[::-1]
    np.testing.assert_array_equal(bag.host_cells(ids), np.asarray(bag.cells(ids, bag.lengths[ids])))


def test_ids_share_a_number_exactly_where_their_kept_bytes_are_equal():
    assert groups(bags.shared_code(make_bag("kronecker", 2))) == SHARED_AT_2


@pytest.mark.parametrize("pos_dim", [1, 2, 3, 4])
def test_shared_codes_are_the_codecs_collisions(pos_dim: int):
    table = codec.byte_table(TOKENS, pos_dim, padded_vocab=14)
    expected = set(codec.collisions(table))
    assert groups(bags.shared_code(bags.kronecker_bag(table))) == expected
    assert bags.sharing(bags.kronecker_bag(table)) == sum(map(len, expected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pos_dim", [1, 2, 3])
def test_ids_of_one_number_and_no_others_have_equal_dense_codes(kind: str, pos_dim: int):
    bag = make_bag(kind, pos_dim)
    shared, coded = bags.shared_code(bag), np.flatnonzero(bag.lengths)
    code = dict(zip(coded.tolist(), bags.dense_code(bag, coded), strict=True))
    for one, other in itertools.combinations(coded.tolist(), 2):
        together = shared[one] == shared[other] != -1
        assert together == np.array_equal(code[one], code[other]), (one, other)


@pytest.mark.parametrize(("kind", "shared"), [("hash_ngram", {(0, 1)}), ("kronecker", set())])
def test_a_bag_of_n_grams_has_no_order_and_the_kronecker_code_has(kind: str, shared: set[tuple[int, ...]]):
    table = codec.byte_table((b"abcabdab", b"abdabcab", b"abcabdac"), 8)  # the first two have the same 3-grams
    assert groups(bags.shared_code(build.make_bag(table, kind, "length"))) == shared


def test_rows_in_use_are_those_that_a_dense_code_lights():
    for kind in KINDS:
        bag = make_bag(kind, 3)
        lit = bags.dense_code(bag, np.arange(14)) > 0
        assert bags.rows_in_use(bag) == lit.any(axis=0).sum(), kind
        if kind != "hash_ngram":  # whose grams may share a cell
            np.testing.assert_array_equal(bags.uses(bag), lit.sum(axis=0))


def test_ids_without_bytes_share_no_code():
    assert bags.shared_code(make_bag("kronecker", 1))[[7, 8, 12, 13]].tolist() == [-1] * 4


@pytest.mark.parametrize("norm", ["z", "length"])
@pytest.mark.parametrize("pos_dim", [1, 3, 16])
def test_the_kronecker_bag_is_the_code_by_its_definition(norm: str, pos_dim: int):
    table, ids = codec.byte_table(TOKENS, pos_dim, padded_vocab=14), np.arange(14)
    bag = bags.kronecker_bag(table, norm)
    assert len(bag.scale) == bag.slots + 1
    np.testing.assert_allclose(bags.dense_code(bag, ids), codec.dense_code(table, ids, norm), rtol=1e-9, atol=1e-12)


def test_what_a_program_is_compiled_for_is_no_array_of_the_bag():
    assert [leaf.shape for leaf in jax.tree.leaves(make_bag("kronecker", 4))] == [(14, 4), (14,)]
