"""Parameter accounting: the paper's two rows to the digit, and what its percentages leave out."""

import pytest

from kronecker.probes import parameters


@pytest.mark.parametrize(
    ("model", "pos_dim", "table", "projection", "saved"),
    [
        (parameters.GPT2[0], 16, 38_597_376, 3_145_728, "91.85"),
        (parameters.PUBLISHED[-1], 32, 536_870_912, 33_554_432, "93.75"),
    ],
)
def test_the_papers_rows_are_exact(model: parameters.Model, pos_dim: int, table: int, projection: int, saved: str):
    found = parameters.account(model, pos_dim)
    assert (found.table, found.projection) == (table, projection)
    assert f"{100 * found.saved:.2f}" == saved
    (paper,) = [row for row in parameters.PAPER if row[0] == model.name]
    assert paper[1:3] == (model.vocab, model.width)
    assert paper[5:7] == pytest.approx((table, projection), rel=2e-4)  # it rounds the larger size to four digits
    assert paper[7] == saved


def test_a_model_whose_table_was_its_head_grows_by_the_projection():
    tied = parameters.account(parameters.Model("x", 1000, 10, tied=True), 2)
    untied = parameters.account(parameters.Model("x", 1000, 10, tied=False), 2)
    assert tied.change == 2 * 256 * 10
    assert untied.change == 2 * 256 * 10 - 1000 * 10


def test_the_table_has_each_model_at_each_pos_dim():
    measured = parameters.measure(pos_dims=(16, 32, 64))
    assert len(measured.rows) == 3 * len(parameters.PUBLISHED)
    llama = next(row for row in measured.rows if row[0] == "Llama 3.2 1B" and row[4] == 32)
    table, projection = 262_668_288, 16_777_216
    assert llama[1:8] == (128_256, 2048, "yes", 32, table, projection, "93.61")
    assert llama[8:] == (table, table + projection, projection)
