"""Counts of ids in a training text: all of it, once, and never from a damaged file."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from configs import base
from kronecker import tokenization
from kronecker.data import manifests, preparation, stream, unigrams
from kronecker.schema import resolution


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[manifests.Prepared, tokenization.Tokenizer]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    tiny_runs.write_texts(folder / "text")
    c = base.get_config()
    c.data.source, c.data.folder, c.tokenizer = f"text:{folder / 'text'}", str(folder), "bpe:300"
    return preparation.ensure_prepared(resolution.resolve(c))


@pytest.fixture
def file(data: tuple[manifests.Prepared, tokenization.Tokenizer]) -> Path:
    (data[0].folder / f"unigrams-{data[0].fingerprint[:16]}.int64").unlink(missing_ok=True)
    return Path(data[0].folder / f"unigrams-{data[0].fingerprint[:16]}.int64")


def test_every_id_of_the_training_text_is_counted_and_none_of_the_held_out_text(data, file, monkeypatch):
    monkeypatch.setattr(unigrams, "BLOCK", 1000)  # several pieces
    prepared, tokenizer = data
    ids = stream.Stream(prepared, "train").read(0, prepared.tokens("train"))
    counts = unigrams.counts(prepared, tokenizer.vocab_size)
    np.testing.assert_array_equal(counts, np.bincount(ids, minlength=tokenizer.vocab_size))
    assert counts.sum() == prepared.tokens("train") > 10_000


def test_the_text_is_read_once_and_counts_that_do_not_fit_it_are_made_anew(data, file, monkeypatch):
    prepared, tokenizer = data
    counts = unigrams.counts(prepared, tokenizer.vocab_size)
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(stream.Stream, "read", None)
        np.testing.assert_array_equal(unigrams.counts(prepared, tokenizer.vocab_size), counts)
    damaged = [whole[:-40], b"", bytes([*whole[:100], whole[100] ^ 255, *whole[101:]])]
    for content in damaged:
        file.write_bytes(content)
        np.testing.assert_array_equal(unigrams.counts(prepared, tokenizer.vocab_size), counts)
        assert file.read_bytes() == whole
    other = counts.copy()
    other[0] += 1
    file.write_bytes(other.tobytes() + zlib.crc32(other.tobytes()).to_bytes(4, "little"))
    np.testing.assert_array_equal(unigrams.counts(prepared, tokenizer.vocab_size), counts)


def test_a_folder_that_cannot_be_written_costs_a_count_each_time(data, file, monkeypatch):
    monkeypatch.setattr(unigrams.storage, "writing", lambda _: (_ for _ in ()).throw(OSError("read-only")))
    prepared, tokenizer = data
    assert unigrams.counts(prepared, tokenizer.vocab_size).sum() == prepared.tokens("train")
    assert not file.exists()
