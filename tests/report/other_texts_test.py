"""Runs are compared on another text if all of them were evaluated on it; the files are those of eval.py --data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page
from run_folders import write_run

from kronecker.report import compare, comparison_page, other_texts, tables
from kronecker.run import finished_runs

DOCUMENTS, TEXT_BYTES = 12, 9000
TOKENS = np.arange(50, 50 + DOCUMENTS)


def evaluated(run: Path, gain: float, name: str = "manuals", text: str = "a" * 64, **more: Any) -> None:
    result = json.loads((run / "result.json").read_text())
    nats = (5 - gain) * TOKENS + 0.01 * np.random.default_rng(len(str(run))).normal(size=DOCUMENTS)
    content = {
        "name": name,
        "validation_loss": result["validation_loss"],
        "source": f"jsonl:my texts/{name}.jsonl",
        "text_field": "text",
        "split_field": "",
        "sequence": 128,
        "text_sha256": text,
        "tokenizer_fingerprint": result["tokenizer_fingerprint"],
        "checkpoint_sha256": "c" * 64,
        "step": result["step"],
        "text_bytes": TEXT_BYTES,
        "by_document": {"nats": nats.tolist(), "tokens": TOKENS.tolist(), "bytes": [750] * DOCUMENTS},
    }
    (run / "texts").mkdir(exist_ok=True)
    (run / "texts" / f"{name}.json").write_text(json.dumps(content | more))


@pytest.fixture
def pairs(tmp_path: Path) -> dict[tuple[str, int], Path]:
    """Two seeds of two arms; on the text manuals kronecker is 0.5 ahead, on the held-out one 0.1 behind."""
    found = {}
    for arm, loss, gain in (("table_untied", 4.0, 0.0), ("kronecker", 4.1, 0.5)):
        for seed in (0, 1):
            found[arm, seed] = write_run(tmp_path / f"{arm}-seed{seed}", arm, seed, loss)
            evaluated(found[arm, seed], gain)
    return found


def read(pairs: dict[tuple[str, int], Path]) -> compare.Comparison:
    folder = next(iter(pairs.values())).parent
    return compare.compare([finished_runs.read(run) for run in finished_runs.find([folder])])


def test_a_text_has_the_name_of_its_file_so_that_one_renamed_keeps_its_table(pairs: dict[tuple[str, int], Path]):
    for run in pairs.values():
        (run / "texts" / "manuals.json").rename(run / "texts" / "older.json")
        evaluated(run, 0.1, text="b" * 64)
    assert list(other_texts.to_json(read(pairs))) == ["manuals", "older"]


def test_the_comparison_on_another_text_is_of_its_losses(pairs: dict[tuple[str, int], Path]):
    (made,) = other_texts.compared(read(pairs))
    assert made.text == compare.Text("manuals", TOKENS.sum(), TOKENS.sum(), DOCUMENTS)
    (arm,) = made.others
    assert arm.difference.mean == pytest.approx(-0.5, abs=0.001)
    assert made.baseline.bits_per_byte[0] == pytest.approx(5 * TOKENS.sum() / np.log(2) / TEXT_BYTES, rel=1e-4)
    low, high = arm.documents
    assert low < -0.499 and high > -0.501
    assert read(pairs).others[0].difference.mean == pytest.approx(0.1)
    ((told, table),) = tables.on_other_texts(read(pairs))
    assert told == f"On manuals: {TOKENS.sum():,} tokens in 12 documents"
    assert not [header for header in table.headers if header.startswith("sooner")]
    assert other_texts.lacking(read(pairs)) == []
    written = json.loads(json.dumps(other_texts.to_json(read(pairs)), allow_nan=False))["manuals"]
    assert written["arms"]["kronecker"]["interval_over_documents"] == pytest.approx([low, high])


def test_runs_on_other_texts_or_windows_are_not_paired_and_the_output_says_what_to_type(
    pairs: dict[tuple[str, int], Path],
):
    last = pairs["kronecker", 1]
    for change in ({"text": "b" * 64}, {"sequence": 64}):
        evaluated(last, 0.5, **change)
        assert other_texts.compared(read(pairs)) == []
        first, second = other_texts.lacking(read(pairs))
        command = (
            f"python eval.py --workdir={last} '--data=jsonl:my texts/manuals.jsonl' --text_field=text --name=manuals"
        )
        assert any(told.endswith(f"1 of 4 runs were not evaluated on it; run: {command}.") for told in (first, second))
        others = f" and for {pairs['table_untied', 1]}, {pairs['kronecker', 0]}."
        assert any(told.endswith(others) for told in (first, second))
    (last / "texts" / "manuals.json").unlink()
    assert other_texts.compared(read(pairs)) == []
    assert len(other_texts.lacking(read(pairs))) == 1


def test_one_text_under_two_names_is_one_text(pairs: dict[tuple[str, int], Path]):
    (pairs["kronecker", 1] / "texts" / "manuals.json").unlink()
    evaluated(pairs["kronecker", 1], 0.5, name="handbooks")
    assert len(other_texts.compared(read(pairs))) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 299}, "step is 299, but 300 in result.json, so it is of another checkpoint; delete it and evaluate"),
        ({"validation_loss": 4.2}, "validation_loss is 4.2, but 4.1 in result.json"),
        ({"validation_loss": None}, "validation_loss is None, but 4.1 in result.json"),
        ({"tokenizer_fingerprint": "f"}, "tokenizer_fingerprint is f, but eeee"),
        ({"by_document": {}}, "by_document needs lists of numbers of equal length"),
        (
            {"by_document": {"nats": ["x"], "tokens": [1], "bytes": [1]}},
            "by_document needs lists of numbers of equal length",
        ),
        (
            {"by_document": {"nats": [10**400], "tokens": [1], "bytes": [1]}},
            "by_document needs lists of numbers of equal length",
        ),
        (
            {"by_document": {"nats": [1.0], "tokens": [1, 2], "bytes": [1]}},
            "by_document needs lists of numbers of equal length",
        ),
        (
            {"by_document": {"nats": [[1.0]], "tokens": [[1]], "bytes": [[1]]}},
            "by_document needs lists of numbers of equal length",
        ),
        ({"by_document": {"nats": [], "tokens": [], "bytes": []}}, "tokens and text_bytes must be whole numbers"),
        ({"text_bytes": 10**400}, "'text_bytes' is 10+.*, not a whole number up to"),
        (
            {"by_document": {"nats": [float("nan")], "tokens": [1], "bytes": [1]}},
            "by_document needs lists of numbers of equal length",
        ),
        ({"sequence": "128"}, "'sequence' is '128', not a whole number"),
    ],
)
def test_a_file_of_another_checkpoint_or_a_damaged_one_is_refused(
    pairs: dict[tuple[str, int], Path], change: dict[str, Any], said: str
):
    evaluated(pairs["kronecker", 0], 0.5, **change)
    with pytest.raises(ValueError, match=said) as refused:
        other_texts.compared(read(pairs))
    assert str(refused.value).startswith(str(pairs["kronecker", 0] / "texts" / "manuals.json"))
    assert "python eval.py --workdir=" in str(refused.value)


def test_files_on_one_text_with_other_tokens_are_not_compared(pairs: dict[tuple[str, int], Path]):
    fewer = {"nats": [1.0, 2.0], "tokens": [1, 2], "bytes": [5, 6]}
    more = {"nats": [1.0] * DOCUMENTS, "tokens": [7] * DOCUMENTS, "bytes": [5] * DOCUMENTS}
    for columns in (fewer, more):
        evaluated(pairs["table_untied", 0], 0.0, by_document=columns)
        assert other_texts.compared(read(pairs)) == []
        assert any("were not evaluated on it; run: python eval.py" in told for told in other_texts.lacking(read(pairs)))


def test_a_text_of_one_token_has_no_bits_per_byte_in_the_file(pairs: dict[tuple[str, int], Path]):
    for run in pairs.values():
        evaluated(run, 0.0, text_bytes=0)
    (of_text,) = other_texts.to_json(read(pairs)).values()
    assert of_text["arms"]["kronecker"]["validation_bits_per_byte"] is None
    json.dumps(of_text, allow_nan=False)


def test_the_page_has_a_table_for_each_text(pairs: dict[tuple[str, int], Path], tmp_path: Path):
    for run in pairs.values():
        evaluated(run, 0.0, name="letters", text="d" * 64)
    evaluated(pairs["kronecker", 0], 0.0, name="poems", text="e" * 64)
    comparison_page.write(read(pairs), tmp_path / "report.html", "Pairs")
    text = Page((tmp_path / "report.html").read_text()).text
    for said in ("On letters: ", "On manuals: ", "No table for the text poems"):
        assert said in text
