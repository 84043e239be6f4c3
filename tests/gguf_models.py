"""Writes GGUF files with the package `gguf`: a small table and a byte-level tokenizer that lacks one byte."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from kronecker.interop import gguf_file

MATRIX = np.random.default_rng(0).standard_normal((259, 64)).astype(np.float32)
LETTERS = sorted(ByteLevel.alphabet())
RARE = LETTERS[7]  # a byte that the vocabulary lacks
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2")]
TOKENS = ["<|endoftext|>", *(letter for letter in LETTERS if letter != RARE), *map("".join, MERGES)]


def write(
    file: Path,
    pre: str = "smollm",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    tensors: dict[str, np.ndarray] | None = None,
    describe: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    """Writes a file of MATRIX alone, or of other tensors; `describe` adds to its metadata."""
    writer = gguf.GGUFWriter(file, "llama")
    describe(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf_file.CONTROL] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    for name, array in (tensors or {"token_embd.weight": MATRIX}).items():
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
