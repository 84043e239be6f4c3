"""What is measured for the page of the paper's tables: once, and again when what it depends on changes."""

import json
import os
import sys
from pathlib import Path

import pytest

from kronecker.paper import reproduction
from kronecker.run import result

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
    assert said == ["[1/1] the probes: measuring", f"[1/1] the probes: {'up to date' if times == 1 else 'measuring'}"]


def test_parts_are_chosen_by_name_in_their_own_order():
    known = [reproduction.Part(name, name, {}, list) for name in ("a", "b", "c")]
    assert reproduction.chosen(known, ["c", "a"]) == [known[0], known[2]]
    assert reproduction.chosen(known, ["all"]) == known
    for names, said in ((["d", "a"], "d,a"), ([], "")):
        with pytest.raises(ValueError, match=f"^--parts={said}: allowed: all, a, b, c$"):
            reproduction.chosen(known, names)


def test_a_benchmark_that_fails_is_one_line_with_its_exit_code(tmp_path: Path):
    parts = reproduction.parts([], ["gpt2"], [sys.executable, "-c", "raise SystemExit(3)"])
    timed = reproduction.chosen(parts, [reproduction.RUNTIME])
    with pytest.raises(
        ValueError, match="ended with exit code 3; to leave it out, give other --parts: codes,parameters,probes"
    ):
        reproduction.measure(timed, tmp_path)
    assert not (tmp_path / "runtime.json").exists()


def test_a_benchmarks_result_is_read_from_its_file(tmp_path: Path):
    written = json.dumps([result.to_json(RESULT)])
    program = f"import sys; open(sys.argv[1].removeprefix('--out='), 'w').write({written!r})"
    parts = reproduction.parts([], ["gpt2"], [sys.executable, "-c", program])
    found = reproduction.measure(reproduction.chosen(parts, [reproduction.RUNTIME]), tmp_path)
    assert found == {"runtime": [RESULT]}
    (reproduction_file,) = tmp_path.iterdir()
    assert json.loads(reproduction_file.read_text())["made_of"]["cores"] == os.cpu_count()


@pytest.mark.parametrize("content", ['{"made_of": {}, "results": [{"name": "x"}]}', '{"made_of"', "[]"])
def test_a_damaged_file_of_a_part_is_named(tmp_path: Path, content: str):
    (tmp_path / "probes.json").write_text(content)
    with pytest.raises(ValueError, match=r"probes\.json: damaged, or written by another version .*; delete it"):
        reproduction.measure([part([])], tmp_path)


@pytest.mark.parametrize("specs", [[], ["gpt2", "gpt2"]])
def test_vocabularies_are_some_and_each_once(specs: list[str]):
    with pytest.raises(ValueError, match=r"--vocabularies=.*: give at least one tokenizer, and each once"):
        reproduction.parts([], specs, [])
