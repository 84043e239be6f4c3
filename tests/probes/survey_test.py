"""The survey of embeddings, as functions and as the script that people run."""

import json
import subprocess
from pathlib import Path

import commands
import gguf_models
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kronecker import tokenization
from kronecker.probes import subjects, survey, words
from kronecker.run import result

ROOT = Path(__file__).parents[2]


def script(*arguments: str) -> subprocess.CompletedProcess:
    return commands.run("scripts/geometry.py", *arguments)


@pytest.fixture(scope="module")
def gpt2() -> tokenization.Tokenizer:
    return tokenization.load("gpt2")


@pytest.fixture(scope="module")
def tables(gpt2: tokenization.Tokenizer) -> dict[str, result.Result]:
    """Of GPT-2's codes, and of a table in which each word of the first family has its own upper case beside it."""
    matrix = np.random.default_rng(0).standard_normal((gpt2.vocab_size, 16)).astype(np.float32)
    capital = {word: gpt2.encode_batch([word.capitalize()])[0] for word in ("run", "running")}
    for word, ids in capital.items():
        assert len(ids) == 1
        matrix[ids[0]] = matrix[gpt2.encode_batch([word])[0]].mean(axis=0)
    found = [subjects.Codec("codec", gpt2, 32), subjects.Table("table", matrix, gpt2)]
    return {one.name: one for one in survey.survey(found, {"P": "32"}, k=5, pairs=50)}


def test_every_table_of_the_paper_is_there_with_its_conditions(tables: dict[str, result.Result]):
    assert list(tables) == ["loose", "anisotropy", "edit_distance", "stability", "byte_pairs", "unseen"]
    assert all(one.source for one in tables.values())
    assert tables["loose"].conditions == {"P": "32", "embeddings": "codec; table"}
    assert all(one.paper_conditions for one in tables.values() if one.paper)


def test_a_random_table_does_not_weigh_on_the_mean_stability(gpt2: tokenization.Tokenizer):
    found = [subjects.Codec("a", gpt2, 32), subjects.Codec("b", gpt2, 16), subjects.random(gpt2, 8)]
    stability = next(one for one in survey.survey(found, {}, pairs=10) if one.name == "stability")
    pairs = {row[:2]: row[2] for row in stability.rows[:-1]}
    assert pairs["a", "random"] < 0.1
    assert stability.rows[-1][2] == pairs["a", "b"] > 0.5


def test_a_neighbour_that_is_the_word_in_another_case_is_not_loose(tables: dict[str, result.Result]):
    rows = {row[0]: row[1:] for row in tables["loose"].rows}
    run = 1 - (0.2 + 0.2) / 5  # two of the family's five words have one such neighbour of five
    assert rows["table"] == pytest.approx((run, 1, 1, 1, (run + 3) / 4))
    assert all(0 < value <= 1 for value in rows["codec"])


def test_random_rows_are_centred_and_know_no_spelling(tables: dict[str, result.Result]):
    assert abs(tables["anisotropy"].rows[1][1]) < 0.01
    _, same, stem, unrelated, *counts = tables["edit_distance"].rows[1]
    assert max(abs(same), abs(stem), abs(unrelated)) < 0.15  # means of 50 cosines in 16 dimensions
    assert counts == [50, 50, 50]


def test_codes_order_pairs_by_their_spelling(tables: dict[str, result.Result]):
    _, _, stem, unrelated, *_ = tables["edit_distance"].rows[0]
    assert stem > unrelated + 0.3


def test_the_byte_pairs_are_the_papers_but_for_the_one_that_it_has_wrong(tables: dict[str, result.Result]):
    pairs = zip(tables["byte_pairs"].rows, tables["byte_pairs"].paper, strict=True)
    off = {ours[:2]: ours[2] for ours, paper in pairs if abs(ours[2] - paper[2]) > 5e-4}
    assert off == {("decode", "encode"): pytest.approx(4 / 6)}


def test_no_unseen_word_is_a_token(gpt2: tokenization.Tokenizer):
    assert len(set(survey.UNSEEN)) == 20
    assert all(len(ids) > 1 for ids in gpt2.encode_batch(list(survey.UNSEEN)))


def test_the_script_measures_codes_published_tables_and_a_random_table_and_writes_them(
    tmp_path: Path, gpt2: tokenization.Tokenizer
):
    matrix = np.random.default_rng(1).standard_normal((gpt2.vocab_size, 8)).astype(np.float16)
    safetensors.save_file({"wte.weight": matrix}, tmp_path / "model.safetensors")
    own = gguf_models.write(tmp_path / "own.gguf")
    done = script("gpt2", f"--tables={tmp_path}@gpt2,{own}", f"--json={tmp_path / 'geometry.json'}")
    assert done.returncode == 0, done.stderr
    assert "A random table scores 1" in done.stdout
    written = {one["name"]: one for one in json.loads((tmp_path / "geometry.json").read_text())}
    assert [row[0] for row in written["loose"]["rows"]] == [
        *("codec, gpt2", tmp_path.name),
        *("own.gguf", "codec, own.gguf", "random"),
    ]
    assert len(written["loose"]["columns"]) == 2 + len(words.GEOMETRY_FAMILIES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure; give a tokenizer, --runs or --tables: python scripts/geometry.py gpt2"),
        (["--tables=nowhere"], "--tables=nowhere: write MODEL@TOKENIZER"),
        (
            ["--tables=nowhere.safetensors@gpt2"],
            "nowhere.safetensors does not exist; give a .safetensors",
        ),
        (["--runs=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(arguments: list[str], said: str):
    done = script(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_table_smaller_than_its_tokenizer_is_one_line_and_exit_code_2(tmp_path: Path):
    safetensors.save_file({"wte.weight": np.ones((7, 2), np.float32)}, tmp_path / "model.safetensors")
    done = script(f"--tables={tmp_path}@gpt2")
    assert done.returncode == 2
    assert "7 rows, but gpt2 has 50,257 ids" in done.stderr
