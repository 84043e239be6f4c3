"""A probe's result: one schema, printed whole."""

import dataclasses
import io
import json

import pytest

from kronecker.run import result

RESULT = result.Result(
    name="layered",
    title="Where families meet",
    source="6.8, Table 10",
    conditions={"model": "4 x 128", "tokenizer": "gpt2"},
    columns=("arm", "space", "loose", "words"),
    rows=(("kronecker", "E_raw", 0.9671, 48), ("table", "E_raw", None, 12_345)),
    paper=(("kronecker", "E_raw", 0.967, 48),),
    notes=("A random table scores 1.",),
    paper_conditions={"model": "GPT-2 124M", "seeds": "1"},
)


def test_a_row_with_a_cell_too_few_is_refused():
    with pytest.raises(ValueError, match="x: 2 columns, but 1 cells in"):
        result.Result("x", "x", "", {}, ("a", "b"), [("only",)])


def test_the_file_holds_everything_under_documented_keys():
    written = json.loads(json.dumps(result.to_json(RESULT)))
    assert list(written) == [field.name for field in dataclasses.fields(result.Result)]
    assert written["paper_conditions"] == {"model": "GPT-2 124M", "seeds": "1"}
    assert written["rows"][1] == ["table", "E_raw", None, 12_345]


def test_conditions_that_are_not_the_papers_are_told_from_both_sides():
    assert result.differences(RESULT) == {
        "model": ("4 x 128", "GPT-2 124M"),
        "seeds": ("", "1"),
        "tokenizer": ("gpt2", ""),
    }


def test_without_numbers_of_the_paper_there_is_nothing_to_differ_from():
    assert not result.differences(dataclasses.replace(RESULT, paper=()))


@pytest.mark.parametrize(
    ("cell", "text"),
    [(None, ""), (12_345, "12,345"), (0.9671, "0.967"), (-1234.5, "-1,234"), (-0.0001, "0.000"), ("E_raw", "E_raw")],
)
def test_cells_are_as_people_read_them(cell: result.Cell, text: str):
    assert result.text(cell) == text


def test_what_is_printed_is_plain_and_has_the_papers_row_apart():
    page = io.StringIO()
    result.show([RESULT], page)
    lines = page.getvalue().splitlines()
    assert "\x1b" not in page.getvalue()
    assert lines[0] == "Where families meet  (paper: 6.8, Table 10)"
    rows = [line.split() for line in lines]
    assert ["kronecker", "E_raw", "0.967", "48"] in rows
    assert ["table", "E_raw", "12,345"] in rows
    assert ["paper:", "kronecker", "E_raw", "0.967", "48"] in rows
    assert "  A random table scores 1." in lines
