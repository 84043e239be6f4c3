"""Exact nearest neighbours: against brute force, over block borders, with ties and vectors of nothing."""

import subprocess
import sys

import numpy as np
import pytest

from kronecker.embedding import bags, codec
from kronecker.probes import neighbours

TOKENS = [b"run", b"runs", b"ran", b"RUN", b" run", b"", b"running", b"rum", None, b"\xff\x00"]


def brute_force(matrix: np.ndarray, queries: np.ndarray) -> np.ndarray:
    matrix, queries = matrix.astype(np.float64), queries.astype(np.float64)
    return queries @ matrix.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(matrix, axis=1)


def test_neighbours_are_those_of_brute_force_wherever_blocks_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    rng = np.random.default_rng(0)
    matrix, queries = rng.normal(size=(50, 6)), rng.normal(size=(4, 6))
    rows = neighbours.Rows(matrix, queries)
    cosines = brute_force(matrix, queries)
    assert np.array_equal(neighbours.nearest(rows, 9), np.argsort(-cosines, axis=1)[:, :9])
    assert rows.cosines(0, 50) == pytest.approx(cosines, abs=2e-6)


def test_a_mean_is_taken_from_rows_and_queries():
    matrix = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    rows = neighbours.Rows(matrix, np.array([[3.0, 1.0]]), np.array([1.0, 1.0]))
    assert neighbours.nearest(rows, 3).tolist() == [[1, 0, 2]]  # centred: query (2, 0), rows (0, 0), (1, 0), (0, 1)
    assert rows.cosines(0, 3)[0] == pytest.approx([0, 1, 0])


@pytest.mark.parametrize("block", [1, 2, 100])
def test_ties_go_to_the_lower_id(monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    matrix = np.array([[0.0, 1.0], [3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    rows = neighbours.Rows(matrix, np.array([[5.0, 0.0]]))
    assert neighbours.nearest(rows, 5).tolist() == [[1, 2, 4, 0, 3]]
    assert rows.cosines(0, 5).tolist() == [[0, 1, 1, 0, 1]]  # the zero vector's cosine is 0, not NaN


def test_what_is_left_out_is_never_a_neighbour_and_too_few_are_marked():
    found = neighbours.nearest(neighbours.Rows(np.eye(3), np.eye(3)[:2]), 3, exclude=[{0}, {0, 1, 2}])
    assert found.tolist() == [[1, 2, -1], [-1, -1, -1]]


def test_one_token_has_no_neighbour_but_itself():
    assert neighbours.nearest(neighbours.Rows(np.ones((1, 2)), np.ones((1, 2))), 3).tolist() == [[0]]


@pytest.mark.parametrize("pos_dim", [2, 4, 16])
def test_cosines_of_codes_are_those_of_the_codes_written_out(pos_dim: int):
    table = codec.byte_table(TOKENS, pos_dim, padded_vocab=12)
    queries = [b"runner", b"ran", b"", b"\xff\x00"]
    codes = codec.dense_code(table, np.arange(12), "length")
    asked = codec.dense_code(codec.byte_table(queries, pos_dim), np.arange(4), "length")
    assert neighbours.Codes(table, queries).cosines(0, 12) == pytest.approx(asked @ codes.T, abs=1e-12)
    assert neighbours.Codes(table, queries).cosines(3, 8) == pytest.approx(asked @ codes[3:8].T, abs=1e-12)


def test_codes_of_a_bag_and_of_a_table_are_one():
    table = codec.byte_table(TOKENS, 4)
    made = bags.dense_code(bags.kronecker_bag(table, "length"), np.arange(len(TOKENS)))
    assert neighbours.Codes(table, [b"runs"]).cosines(0, len(TOKENS)) == pytest.approx(made[1:2] @ made.T, abs=1e-12)


LARGE = """
import tracemalloc

import numpy as np

from kronecker.embedding import codec
from kronecker.probes import neighbours

rng = np.random.default_rng(0)
lengths = rng.integers(1, 33, 262_144)
letters = rng.integers(97, 123, (262_144, 32), dtype=np.uint8)
tokens = [row[:length].tobytes() for row, length in zip(letters, lengths)]
queries = tokens[::20_000]
tracemalloc.start()
found = neighbours.nearest(neighbours.Codes(codec.byte_table(tokens, 32), queries), 5)
assert (found[:, 0] == np.arange(0, 262_144, 20_000)).all()
print(tracemalloc.get_traced_memory()[1] / 1e9)
"""


def test_codes_of_a_large_vocabulary_are_searched_whole_in_half_a_gigabyte():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.005 < float(done.stdout) < 0.5  # GB, beside the vocabulary's bytes; the codes written out are 8.6
