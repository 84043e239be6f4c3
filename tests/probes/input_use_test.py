"""What an input uses, against dense codes, and the step of an embedding against the shift of all its rows."""

import numpy as np
import pytest

from kronecker import tokenization
from kronecker.embedding import bags, codec
from kronecker.probes import input_use


def test_the_effective_rank_is_that_of_the_dense_cells():
    bag = bags.kronecker_bag(codec.byte_table([b"ab", b"ac", b"bc", b"abc", None, b"a"], 3), "length")
    singular = np.linalg.svd((bags.dense_code(bag, np.arange(6)) > 0).astype(float), compute_uv=False)
    want = (singular**2).sum() ** 2 / (singular**4).sum()
    assert input_use.effective_rank(bag) == pytest.approx(want, rel=1e-12)


def test_the_table_of_gpt2_has_the_documented_rows_and_the_steps_of_six_bytes():
    rows = {row[0]: row for row in input_use.measure(tokenization.load("gpt2")).rows}
    assert [rows[arm][1] for arm in ("kronecker", "shuffled_code", "head_tail", "random_code", "hash_ngram")] == [
        *(1_487, 1_487, 2_141, 3_829, 4_063)
    ]
    assert rows["kronecker"][3] == rows["shuffled_code"][3] < rows["random_code"][3]
    assert rows["kronecker"][6] == pytest.approx(64 * 6**0.5, rel=1e-3)
    assert rows["kronecker_unit"][6] == pytest.approx(6**0.5, rel=1e-6)
    assert rows["table_untied"][6:] == (1.0, 50.0)
