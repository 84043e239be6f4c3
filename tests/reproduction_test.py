"""What is measured for the page of the paper's tables: once, and again when what it depends on changes."""

from pathlib import Path

import pytest

from kronecker import reproduction
from kronecker.probes import result

RESULT = result.Result("x", "X", "6.8", {"model": "small"}, ["a", "b"], [["one", 1], ["two", None]], [], [])


def part(counted: list[str], **made_of: object) -> reproduction.Part:
    def measure() -> list[result.Result]:
        counted.append("measured")
        return [RESULT]

    return reproduction.Part("probes", "the probes", made_of, measure)


@pytest.mark.parametrize(
    ("made_of", "again", "times"),
    [({"run": (1, "a")}, False, 1), ({"run": (2, "a")}, False, 2), ({}, False, 2), ({"run": (1, "a")}, True, 2)],
)
def test_a_part_is_measured_again_when_what_it_is_made_of_changes(
    tmp_path: Path, made_of: dict, again: bool, times: int, capsys: pytest.CaptureFixture[str]
):
    counted: list[str] = []
    assert reproduction.measure([part(counted, run=(1, "a"))], tmp_path) == {"probes": [RESULT]}
    assert reproduction.measure([part(counted, **made_of)], tmp_path, again) == {"probes": [RESULT]}
    assert len(counted) == times
    said = capsys.readouterr().err.splitlines()
    assert said == ["[1/1] the probes: measuring", f"[1/1] the probes: {'there before' if times == 1 else 'measuring'}"]


@pytest.mark.parametrize("content", ['{"made_of": {}, "results": [{"name": "x"}]}', '{"made_of"', "[]"])
def test_a_damaged_file_of_a_part_is_named(tmp_path: Path, content: str):
    (tmp_path / "probes.json").write_text(content)
    with pytest.raises(ValueError, match=r"probes\.json: not what this version writes .*; delete it"):
        reproduction.measure([part([])], tmp_path)
