"""The benchmark of data at scale: the sizes it makes, the fits, and what a process of its own measures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import base
from kronecker import tokenization
from kronecker.benchmark import scale
from kronecker.data import manifests, preparation, rows, sources
from kronecker.schema import resolution

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": f"document {i} " * (i % 40 + 1)}) + "\n" for i in range(500)))
    return f"jsonl:{file}"


def data(source: str, folder: Path) -> Any:
    c = base.get_config()
    c.data.update({"source": source, "folder": str(folder)})
    return resolution.resolve(c)


def test_texts_are_repeated_until_they_have_the_tokens(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scale, "FILE_BYTES", 50_000)
    source = sources.open_source(data(text, tmp_path).data)
    folder = scale.write_texts(source, "gpt2", 100_000, tmp_path / "text")
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    documents = [json.loads(line)["text"] for line in lines]
    assert documents[500:600] == documents[:100]
    assert len(list(folder.glob("*.jsonl"))) > 3
    tokens = sum(map(len, tokenization.load("gpt2").encode_batch(documents))) + len(documents)
    assert tokens == pytest.approx(100_000, rel=0.02)


def test_a_dataset_of_links_is_the_stream_again_and_again(text: str, tmp_path: Path):
    small, _ = preparation.ensure_prepared(data(text, tmp_path / "data"), 10_000)
    n = small.tokens("train")
    linked = manifests.open_prepared(scale.link(Path(small.folder), tmp_path / "far", 3 * n - 1))
    assert linked.tokens("train") == 3 * n
    once = rows.Stream(small, "train").read(0, n)
    np.testing.assert_array_equal(rows.Stream(linked, "train").read(0, 3 * n), np.tile(once, 3))


def test_fits_find_the_power_of_time_and_the_slope_of_memory():
    def one(tokens: float) -> dict[str, Any]:
        return {
            "prepare": {
                "tokens": tokens,
                "seconds": 1e-6 * tokens,
                "cpu_seconds": 1e-9 * tokens**1.5,
                "peak_bytes": 3e8 + 0.25 * tokens,
            },
            "start": {"open_seconds": 0.001, "first_batch_seconds": 0.1},
            "read": {"peak_bytes": 2e8},
        }

    found = scale.fits([one(1e7), one(1e8), one(4e8)])
    assert found["prepare_seconds_exponent"] == pytest.approx(1)
    assert found["prepare_cpu_seconds_exponent"] == pytest.approx(1.5)
    assert found["prepare_peak_slope"] == pytest.approx(0.25)
    assert found["prepare_peak_slope_from_the_second"] == pytest.approx(0.25)
    assert found["read_peak_slope"] == pytest.approx(0, abs=1e-6)
    assert found["open_seconds_exponent"] == pytest.approx(0, abs=1e-9)
    assert "prepare_peak_slope_from_the_second" not in scale.fits([one(1e7), one(1e8)])


@pytest.mark.slow
def test_a_process_measures_its_own_peak_and_reads_what_it_says(text: str, tmp_path: Path):
    held = np.ones(40_000_000)  # 320 MB that are this process's and not its child's
    made = scale._step("prepare", folder=str(tmp_path), source=text, tokenizer="gpt2", workers=1)
    assert made["before_bytes"] < made["peak_bytes"] < 600e6
    assert made["seconds"] > 0 < made["cpu_seconds"]
    prepared = manifests.open_prepared(made["folder"])
    assert made["tokens"] == prepared.tokens("train") + prepared.tokens("validation")
    read = scale._step("read", folder=made["folder"], sequence=8, batch=4, least=20, most=50, block=10, cold=True)
    assert (read["batches"], len(read["tokens_per_second"])) == (50, 5)
    assert held[0] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes=5,3"], "--sizes=5,3: give numbers of tokens that rise"),
        (["--sizes=many"], "--sizes=many: give numbers of tokens that rise"),
        (["--sizes=10_000", "--linked=5"], "--linked=5: give at least the largest of --sizes, 10000"),
        (["--tokenizer=bpe:300"], "--tokenizer=bpe:300: data takes one that need not be trained first"),
        (["--batch=3"], "--batch belongs to `benchmark.py step or train`, not to data"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: list[str], message: str):
    command = [sys.executable, "scripts/benchmark.py", "data", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
