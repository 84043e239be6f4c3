"""Tables as text: nothing is cut, the paper's rows are told from ours."""

import io

import pytest

from kronecker.runtime import printing

TABLE = printing.Table(
    ("arm", "loss\nnats", "verdict"), [("kronecker", "4.51"), (), ("table_tied", "4.6", "worse")], ("arm", "verdict")
)


def printed(*parts: printing.Table | str, **options: bool) -> list[str]:
    text = io.StringIO()
    printing.show(*parts, file=text, **options)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_numbers_stand_right_and_a_row_may_be_short_or_blank():
    head, names, rule, first, blank, last = printed(TABLE)
    assert (head.split(), names.split()) == (["loss"], ["arm", "nats", "verdict"])
    assert set(rule) == {"─"}
    assert (first, blank, last) == ("kronecker   4.51", "", "table_tied   4.6  worse")


def test_the_papers_rows_come_apart_and_say_whose_they_are():
    quoted = printing.Table(("arm", "loss"), [("ours", "1"), ("table", "2"), ("codes", "3")], ("arm",), quoted=2)
    assert printed(quoted)[2:] == ["ours             1", "", "paper: table     2", "paper: codes     3"]


@pytest.mark.parametrize("columns", ["40", "200"])
def test_a_wide_table_and_a_long_line_are_whole_at_any_width(columns: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", columns)
    cells, words = ("x" * 150, "y" * 150), "word " * 50
    lines = printed(printing.Table(("a", "b"), [cells], ("a", "b")), words)
    assert lines[-2:] == ["  ".join(cells), words.rstrip()]


def test_sentences_are_wrapped_where_asked():
    assert printed("word " * 30, wrap=True) == ["word " * 19 + "word", "word " * 9 + "word"]
