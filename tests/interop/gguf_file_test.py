"""GGUF files that the package `gguf` wrote: tensors of every kind, a tokenizer, and damaged files."""

import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import gguf_models
import numpy as np
import pytest
import tokenizers

from kronecker import tokenization
from kronecker.interop import gguf_file, tensors

TEXT = "the 12 other 1212 thé\n the"


@pytest.mark.parametrize(("kind", "error"), [("F32", 0), ("F16", 1e-3), ("BF16", 2e-2), ("Q8_0", 2e-2), ("Q4_1", 0.3)])
def test_the_table_is_read_out_of_every_kind_of_file(tmp_path: Path, kind: str, error: float):
    file = gguf_models.write(tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType[kind])
    assert np.abs(tensors.input_table(file).astype(np.float32) - gguf_models.MATRIX).max() <= error
    assert tensors.tensors(file)["token_embd.weight"].shape == gguf_models.MATRIX.shape


def test_its_tokenizer_gives_the_ids_of_its_merges_and_an_id_beyond_the_table_to_a_byte_without_one(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(gguf_file.tokenizer_json(gguf_models.write(tmp_path / "model.gguf")))
    ours = tokenization.load(f"tokenizers:{path}")
    ids = ours.encode_batch([TEXT])[0]
    assert ours.decode(ids) == TEXT.encode()
    assert ids.max() < len(gguf_models.TOKENS)
    assert [gguf_models.TOKENS[i] for i in ids[:6]] == ["t", "he", "Ġ", "1", "2", "Ġ"]  # not "12"
    assert ours.vocab_size == len(gguf_models.TOKENS) + 1
    assert ours.token_bytes.index(ours.token_bytes[-1]) == len(gguf_models.TOKENS)
    assert ours.eot_id == 0


def test_a_file_without_splits_of_its_own_is_split_as_gpt2_does(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(gguf_file.tokenizer_json(gguf_models.write(tmp_path / "model.gguf", "gpt-2")))
    assert gguf_models.TOKENS.index("12") in tokenizers.Tokenizer.from_str(path.read_text()).encode(TEXT).ids


def test_an_unknown_split_is_refused_by_name(tmp_path: Path):
    file = gguf_models.write(tmp_path / "model.gguf", "llama-bpe")
    with pytest.raises(ValueError, match=r"the split 'llama-bpe'.*splits gpt-2, smollm are read; give the model's own"):
        gguf_file.tokenizer_json(file)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"merges": [1, 2]}, r"tokenizer\.ggml\.merges must be a list of str"),
        ({"token_type": ["a", "b"]}, r"tokenizer\.ggml\.token_type must be a list of int"),
        ({"tokens": "a"}, r"tokenizer\.ggml\.tokens must be a list of str"),
        ({"tokens": [b"\xff\xfe"]}, r"tokenizer\.ggml\.tokens is damaged \(.*invalid start byte"),
    ],
)
def test_a_tokenizer_of_other_types_or_without_text_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str):
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    fields = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b"], "token_type": [1, 1], "merges": ["a b"]} | changes
    for key, value in fields.items():
        (writer.add_array if isinstance(value, list) else writer.add_string)(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=rf"model\.gguf: {reason}.*download"):
        gguf_file.tokenizer_json(file)


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = gguf_models.write(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"model\.gguf: the package gguf is not installed; pip install '.*\[gguf\]'"):
        tensors.input_table(file)


def test_files_cut_short_at_any_place_are_refused(tmp_path: Path):
    whole = gguf_models.write(tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 64, 9), *range(64, len(whole), len(whole) // 25), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf: damaged GGUF file .*download it again"):
            tensors.input_table(cut)


@pytest.mark.parametrize("count", [1 << 60, 1 << 40, 1 << 23])
@pytest.mark.parametrize("kind", [gguf.GGUFValueType.UINT8, gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY])
def test_counts_beyond_the_file_take_no_memory(tmp_path: Path, count: int, kind: gguf.GGUFValueType):
    file = tmp_path / "model.gguf"
    key = struct.pack("<Q1sI", 1, b"k", gguf.GGUFValueType.ARRAY)
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IQ", kind, count) + b"\0" * 1000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"damaged GGUF file"):
        tensors.input_table(file)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
