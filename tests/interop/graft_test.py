"""The least-squares fit of a projection to a table, against tables whose answer is known and against dense algebra."""

import dataclasses

import numpy as np
import pytest

from kronecker.embedding import bags, codec, controls
from kronecker.interop import graft

WORDS = [b"", b"a", b"b", b" a", b" the", b"the", b"other", b"mother", b"moth", b"th", b"he", b"t", b"\xc3\xa9", b"xy"]
WIDTH = 3
TABLE = codec.byte_table(WORDS, pos_dim=4)
RNG = np.random.default_rng(0)
CODES = {
    "z": bags.kronecker_bag(TABLE, "z"),
    "length": bags.kronecker_bag(TABLE, "length"),
    "hashed": controls.hash_ngram_bag(TABLE, "length"),  # an id may use one cell twice
}
E_VD = RNG.standard_normal((len(WORDS), WIDTH))
COUNTS = np.arange(len(WORDS)) ** 2


def codes(bag: bags.Bag) -> np.ndarray:
    return bags.dense_code(bag, np.arange(len(WORDS)))


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("weights", [None, 1 + COUNTS])
def test_a_table_that_is_a_code_times_a_projection_is_recovered(name: str, weights: np.ndarray | None):
    bag = CODES[name]
    projection = RNG.standard_normal((bag.rows, WIDTH))
    table = graft.table_of(bag, projection)
    assert table == pytest.approx(codes(bag) @ projection)
    fitted = graft.fit(bag, table.astype(np.float32), weights, ridge=1e-9)
    assert np.abs(codes(bag) @ fitted - table).max() < 1e-5 * np.abs(table).max()
    assert graft.unexplained(bag, fitted, table, weights) < 1e-9


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("weights", [None, COUNTS])
def test_the_fit_is_that_of_dense_least_squares(name: str, weights: np.ndarray | None):
    bag = CODES[name]
    root = np.sqrt(np.ones(len(WORDS)) if weights is None else weights)[:, None]
    dense = np.linalg.lstsq(root * codes(bag), root * E_VD, rcond=None)[0]
    fitted = graft.fit(bag, E_VD, weights, ridge=1e-10)
    assert root * codes(bag) @ fitted == pytest.approx(root * codes(bag) @ dense, abs=2e-4)


def test_a_weight_of_n_counts_as_n_ids():
    bag, n = CODES["z"], 3
    whole, twice = graft.fit(bag, E_VD, np.full(len(WORDS), 7.0)), graft.fit(bag, E_VD)
    assert codes(bag) @ whole == pytest.approx(codes(bag) @ twice)  # a common factor of all weights changes nothing
    weights = np.where(np.arange(len(WORDS)) == 7, n, 1)
    ids = np.repeat(np.arange(len(WORDS)), weights)
    repeated = replace_ids(bag, ids)
    assert graft.fit(bag, E_VD, weights) == pytest.approx(graft.fit(repeated, E_VD[ids]), abs=1e-8)
    assert graft.unexplained(bag, whole, E_VD, weights) == pytest.approx(graft.unexplained(repeated, whole, E_VD[ids]))


def replace_ids(bag: bags.Bag, ids: np.ndarray) -> bags.Bag:
    return dataclasses.replace(bag, symbols=bag.symbols[ids], lengths=bag.lengths[ids])


def test_each_fit_is_the_best_by_its_own_measure():
    collide = codec.byte_table([b"ab", b"ba", b"aa", b"bb"], pos_dim=2)  # four ids on a plane of three dimensions
    bag, table, counts = bags.kronecker_bag(collide), RNG.standard_normal((4, WIDTH)), np.array([90, 5, 1, 0])
    found = graft.graft(bag, table, counts)
    assert found.residuals[graft.WEIGHTED] < found.residuals[graft.UNIFORM]
    assert found.residuals[graft.BY_ID] < graft.unexplained(bag, found.by_occurrence, table)
    # the three ids that occur determine all that the code can give
    assert found.residuals[graft.WEIGHTED] < 0.05 < found.residuals[graft.BY_ID]


def test_residuals_on_other_text_are_those_of_its_counts():
    other = COUNTS[::-1]
    found = graft.graft(CODES["z"], E_VD, 1 + COUNTS, other)
    assert found.residuals[graft.WEIGHTED] == graft.unexplained(CODES["z"], found.by_occurrence, E_VD, other)


def moments(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    mean = np.average(rows, axis=0, weights=weights)
    return mean, np.average(((rows - mean) ** 2).sum(axis=1), weights=weights)


def test_the_control_has_rows_of_the_fits_mean_and_variance_and_explains_nothing_more():
    table = 3 + RNG.standard_normal((200, 40))
    bag = bags.kronecker_bag(codec.byte_table([b"%d" % (7919 * i) for i in range(200)], pos_dim=8))
    weights, fitted = np.arange(200) + 1, graft.graft(bag, table, np.arange(200) + 1)
    drawn = graft.unfitted(bag, table, weights, seed=0)
    got, wanted = (moments(graft.table_of(bag, one), weights) for one in (drawn, fitted.projection))
    assert got[0] == pytest.approx(wanted[0], rel=1e-3)
    assert got[1] == pytest.approx(wanted[1], rel=1e-3)
    assert graft.unexplained(bag, fitted.projection, table, weights) < 1
    assert graft.unexplained(bag, drawn, table, weights) == pytest.approx(2, abs=0.2)  # two tables at random
    assert np.array_equal(drawn, graft.unfitted(bag, table, weights, seed=0))
    assert not np.allclose(drawn, graft.unfitted(bag, table, weights, seed=1))


@pytest.mark.parametrize("name", ["z", "length"])
def test_a_graft_begins_with_the_mean_and_the_variance_of_the_table(name: str):
    weights = 1 + COUNTS[1:]  # without the id that has no bytes, whose row is always 0
    bag = replace_ids(CODES[name], np.arange(1, len(WORDS)))
    collide = replace_ids(bag, np.arange(len(weights)) // 2 * 2)  # pairs of ids share a code: a fit loses variance
    table = 3 + RNG.standard_normal((len(weights), WIDTH))
    found = graft.graft(collide, table, weights, ridge=1e-9)

    mean, variance = moments(table, weights)
    fitted_mean, fitted_variance = moments(graft.table_of(collide, found.by_occurrence), weights)
    assert fitted_variance < 0.9 * variance
    begun = moments(graft.table_of(collide, found.projection), weights)
    for got, wanted in zip(begun, (mean, variance), strict=True):
        assert got == pytest.approx(wanted, rel=1e-6)
    assert fitted_mean == pytest.approx(mean, rel=1e-4)
    # A tied head that divides by the factor gives the same probabilities: logits differ by one number for all ids.
    begun, fitted = (graft.table_of(collide, one) @ mean for one in (found.projection, found.by_occurrence))
    assert np.ptp(begun / found.factor - fitted) < 1e-4


@pytest.mark.parametrize("name", ["z", "length"])
def test_ids_without_bytes_move_neither_mean_nor_variance(name: str):
    """Their rows are 0 and drag the fit's mean away: the others make up for them."""
    weights = np.full(len(WORDS), 5)  # the first has no bytes
    table = 3 + 9 * RNG.standard_normal((len(WORDS), WIDTH))
    found = graft.graft(CODES[name], table, weights)
    (mean, variance), (fitted_mean, _) = (
        moments(rows, weights) for rows in (table, graft.table_of(CODES[name], found.by_occurrence))
    )
    assert np.abs(fitted_mean - mean).max() > 0.05
    rows = graft.table_of(CODES[name], found.projection)
    assert not rows[0].any()
    got = moments(rows, weights)
    assert got[0] == pytest.approx(mean, rel=1e-6)
    assert got[1] == pytest.approx(variance, rel=1e-6)


def test_where_rows_of_0_alone_give_the_variance_the_mean_is_met_without_a_stretch():
    table = 100 + RNG.standard_normal((len(WORDS), WIDTH))
    found = graft.graft(CODES["z"], table, np.full(len(WORDS), 5))
    assert found.factor == 1
    assert graft.table_of(CODES["z"], found.projection).mean(axis=0) == pytest.approx(table.mean(axis=0), rel=1e-6)


def test_a_code_with_one_row_for_all_ids_is_not_stretched():
    bag = bags.kronecker_bag(codec.byte_table([b"a", b"a", b"a"], pos_dim=1), "length")
    found = graft.graft(bag, RNG.standard_normal((3, WIDTH)), np.ones(3), ridge=1e-12)
    assert found.projection == pytest.approx(found.by_occurrence)


def test_the_unexplained_share_is_1_for_the_best_single_row_and_0_for_the_table():
    unit = bags.kronecker_bag(codec.byte_table([b"a", b"a", b"a"], pos_dim=1), "length")  # one code for all ids
    table, weights = RNG.standard_normal((3, WIDTH)), np.array([1, 2, 5])
    assert graft.unexplained(unit, graft.fit(unit, table, weights, 1e-12), table, weights) == pytest.approx(1)


def test_padding_of_the_code_beyond_the_table_changes_nothing():
    padded = bags.kronecker_bag(codec.byte_table(WORDS, pos_dim=4, padded_vocab=32))
    assert np.array_equal(graft.fit(padded, E_VD, COUNTS), graft.fit(CODES["z"], E_VD, COUNTS))


@pytest.mark.parametrize(
    ("table", "weights", "said"),
    [
        (np.ones((99, 2)), None, "a table of 99 rows, a code of 14 ids"),
        (E_VD, np.ones(3), r"weights of shape \(3,\)"),
        (E_VD, np.zeros(len(WORDS)), "at least 0, and one above it"),
        (E_VD, np.eye(len(WORDS))[0], "no id that occurs has bytes"),
        (E_VD, -COUNTS, "at least 0, and one above it"),
        (E_VD, np.full(len(WORDS), np.nan), "at least 0, and one above it"),
    ],
)
def test_what_cannot_be_fitted_is_refused(table: np.ndarray, weights: np.ndarray | None, said: str):
    with pytest.raises(ValueError, match=said):
        graft.fit(CODES["z"], table, weights)
