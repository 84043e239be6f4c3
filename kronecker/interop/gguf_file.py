"""GGUF files through the `gguf` package, which is imported here alone, when a file is opened.

The package trusts the counts in a file: one of 1 kB that announces 2^60 numbers would fill the memory.  So all that it
reads must lie within the file, and an array of the metadata has at most MOST_ENTRIES entries.
"""

import json
import pathlib
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

MISSING = "the package gguf is not installed; pip install 'kronecker-jax[gguf]'"
MOST_ENTRIES = 1 << 22  # vocabularies have up to 2^18 tokens, and up to twice as many merges
CONTROL = 3  # the type of a special token
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# The parts into which text is split before bytes are merged, beside GPT-2's, by the name in the file.
SPLITS: dict[str, list[dict[str, Any]]] = {"gpt-2": [], "smollm": [{"type": "Digits", "individual_digits": True}]}


def open_file(path: pathlib.Path) -> Any:
    """Returns gguf's reader of a file; raises ValueError if the file is damaged or the package is not installed."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise ValueError(f"{path}: {MISSING}") from None

    class Reader(gguf.GGUFReader):
        def _get(self, offset, dtype, count=1, override_order=None):
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data):,}, within what it announces")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs, raw_type):
            if raw_type == gguf.GGUFValueType.ARRAY and self._get(orig_offs + 4, np.uint64)[0] > MOST_ENTRIES:
                raise ValueError(f"an array of more than {MOST_ENTRIES:,} entries")
            return super()._get_field_parts(orig_offs, raw_type)

    try:
        return Reader(path)
    except Exception as error:
        raise ValueError(f"{path}: damaged GGUF file ({error}); download it again") from error


def read_tensor(path: pathlib.Path, tensor: Any) -> np.ndarray:
    """Returns a tensor of the reader: float32 if it is quantised or of bfloat16; raises ValueError if that fails."""
    import gguf

    if tensor.data.dtype != np.uint8:  # neither of the two
        return tensor.data
    try:
        return gguf.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ValueError(f"{path}: {tensor.name}: {error}; give a file of another quantisation") from error


def value(path: pathlib.Path, reader: Any, key: str, default: Any = None) -> Any:
    """Returns one value of the metadata; raises ValueError if it is no text, or not there and without a default."""
    if key not in reader.fields and default is None:
        raise ValueError(f"{path}: no {key} in its metadata; give a complete GGUF file of a model")
    try:
        return reader.fields[key].contents() if key in reader.fields else default
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {key} is damaged ({error}); download it again") from None


def tokenizer_json(path: pathlib.Path) -> str:
    """Returns the tokenizer in a GGUF file as a tokenizer.json, which the family `tokenizers:PATH` reads.

    That family refuses vocabularies without all 256 single bytes, such as SmolLM2's, which lacks 21 that text hardly
    contains.  Each of these gets an id after the last one of the model, which has no row for it.

    Raises ValueError if it is not a byte-level BPE of SPLITS, and as `open_file` does.
    """
    reader = open_file(path)
    kind, split = (value(path, reader, f"tokenizer.ggml.{key}", "none") for key in ("model", "pre"))
    if kind != "gpt2" or split not in SPLITS:
        raise ValueError(
            f"{path}: its tokenizer is {kind!r} with the split {split!r}, but only byte-level ones ('gpt2') with the "
            f"splits {', '.join(SPLITS)} are read; give the model's own tokenizer file"
        )
    tokens, types, merges = (value(path, reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
    for key, entries, entry in (("tokens", tokens, str), ("token_type", types, int), ("merges", merges, str)):
        if not isinstance(entries, list) or {*map(type, entries)} - {entry}:
            raise ValueError(
                f"{path}: tokenizer.ggml.{key} must be a list of {entry.__name__}; download the file again"
            )
    vocab = {token: i for i, token in enumerate(tokens)}
    vocab |= {byte: i for i, byte in enumerate(sorted({*ByteLevel.alphabet()} - vocab.keys()), len(vocab))}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [i for i, kind in enumerate(types) if kind == CONTROL]
    content = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **plain, "special": True} for i in special],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*SPLITS[split], BYTE_LEVEL]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [merge.split(" ") for merge in merges]},
    }
    return json.dumps(content)
