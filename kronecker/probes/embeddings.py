"""Input-embedding matrices of other models: from a safetensors checkpoint, or drawn at random.

Only the embedding tensor of a checkpoint is read, through a memory map.

Shapes: V vocabulary, d width.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

# Names of the input embedding in published decoders, the most usual first.
TENSOR_NAMES = (
    *("model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
    *("model.language_model.embed_tokens.weight", "transformer.wte.weight", "wte.weight"),
    *("gpt_neox.embed_in.weight", "embed_tokens.weight"),
)
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


def gaussian(vocab: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns a table (V, d) of independent standard normal numbers: the reference of every metric."""
    return np.random.default_rng(seed).standard_normal((vocab, width), dtype=np.float32)


def from_safetensors(location: str | pathlib.Path, tensor: str = "") -> np.ndarray:
    """Returns the input embedding (V, d) of a checkpoint on this machine, of any float type and memory-mapped.

    Args:
      location: a .safetensors file, or a folder that holds model.safetensors or its shards with their index.
      tensor: its name; empty: the first of TENSOR_NAMES that is there.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: if a file is damaged, the tensor is missing, or it is no float matrix.
    """
    path = pathlib.Path(location)
    file, name = path, tensor
    if path.is_dir():
        index, file = path / INDEX, path / SINGLE
        if index.exists():
            where = json.loads(index.read_text())["weight_map"]
            name = _choose(tensor, where, str(path))
            file = path / where[name]
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a .safetensors file or a folder with {SINGLE} or {INDEX}")
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if not 0 < size <= LARGEST_HEADER:
            raise ValueError(f"{file} is no .safetensors file (header of {size:,} bytes); give one, or its folder")
        try:
            header = json.loads(opened.read(size))
        except ValueError as error:
            raise ValueError(f"{file}: damaged safetensors file ({error}); download it again") from None
    name = _choose(name, header, str(file))
    entry = header[name]
    if entry["dtype"] not in DTYPES or len(entry["shape"]) != 2:
        raise ValueError(
            f"{file}: {name} is {entry['dtype']} of shape {entry['shape']}; "
            f"an embedding is a matrix of {', '.join(DTYPES)}; name another tensor with --tensor"
        )
    dtype, shape, begin = DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
    if file.stat().st_size < begin + math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"{file} is incomplete; download it again")
    return np.memmap(file, dtype, "r", begin, shape)


def _choose(tensor: str, names: Mapping[str, Any], source: str) -> str:
    wanted = (tensor,) if tensor else TENSOR_NAMES
    found = next((name for name in wanted if name in names), None)
    if found is None:
        near = sorted(name for name in names if "emb" in name or "wte" in name)
        raise ValueError(
            f"{source}: no tensor {' or '.join(wanted)}; name it with --tensor"
            + (f", for example {', '.join(near[:3])}" if near else "")
        )
    return found
