"""Tensors of published models, and which one is the input table: .safetensors files, Hugging Face folders, GGUF files.

Files are memory-mapped, so that one tensor of a large file is read alone.

Shapes: V vocabulary, d width.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import safetensors

from kronecker.interop import gguf_file
from kronecker.run import rundir
from kronecker.runtime import storage

# Names of the input embedding, the most usual first; the last two are those of GGUF and of tables without a model.
TABLES = (
    *("model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
    *("model.language_model.embed_tokens.weight", "transformer.wte.weight", "wte.weight"),
    *("gpt_neox.embed_in.weight", "embed_tokens.weight", "token_embd.weight", "embedding.weight"),
)
INDEX, SINGLE, GGUF = "model.safetensors.index.json", "model.safetensors", ".gguf"
FLOATS = ("F64", "F32", "F16", "BF16")


class Tensor(NamedTuple):
    """A tensor that is not yet read."""

    dtype: str  # of the array, as in safetensors
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def tensors(location: str | pathlib.Path) -> dict[str, Tensor]:
    """Returns name -> tensor of a model on this machine.

    `location` is a .safetensors or .gguf file, or a folder that holds model.safetensors or shards with their index.

    Raises FileNotFoundError if there is none; ValueError if a file is damaged, or the package gguf is not installed.
    """
    path = pathlib.Path(location)
    indexed = path.is_dir() and (path / INDEX).exists() and not (path / SINGLE).exists()  # as transformers reads it
    placed = _shards(path / INDEX) if indexed else {}
    files = [path / name for name in sorted(set(placed.values()))] or [path / SINGLE if path.is_dir() else path]
    for file in files:
        if not file.is_file():
            got = "is no file" if file.exists() else "does not exist"
            raise FileNotFoundError(
                f"{file} {got}; give a .safetensors or {GGUF} file, or a folder with {SINGLE} or {INDEX}"
            )
        storage.check_ends(file)
    return {
        name: one
        for file in files
        for name, one in (_of_gguf if file.suffix == GGUF else _of_file)(file)
        if placed.get(name, file.name) == file.name  # a shard may also hold what the index has in another one
    }


def input_table(location: str | pathlib.Path, tensor: str = "") -> np.ndarray:
    """Returns the input embedding (V, d) of a model on this machine, of any float type.

    `location` is as in `tensors`; `tensor` is the embedding's name, empty for the first of TABLES that is there.

    Raises ValueError if the tensor is missing or no matrix of floats, and as `tensors` does.
    """
    found, wanted = tensors(location), (tensor,) if tensor else TABLES
    name = next((name for name in wanted if name in found), None)
    if name is None:
        near = sorted(name for name in found if "emb" in name or "wte" in name)
        raise ValueError(
            f"{location}: no tensor {' or '.join(wanted)}; name it with --tensor"
            + (f", for example {', '.join(near[:3])}" if near else "")
        )
    table = found[name]
    if table.dtype not in FLOATS or len(table.shape) != 2:
        raise ValueError(
            f"{location}: {name} is {table.dtype} of shape {list(table.shape)}; "
            f"an embedding is a matrix of {', '.join(FLOATS)}; name another tensor with --tensor"
        )
    return table.read()


def _shards(index: pathlib.Path) -> dict[str, str]:
    """Returns tensor's name -> name of its shard."""
    held = rundir.parsed(storage.read_whole(index), str(index), {"weight_map": dict}, "download it again")
    placed = {name: str(shard) for name, shard in held["weight_map"].items()}
    if outside := [name for name in placed.values() if pathlib.PurePath(name).name != name or name in ("", "..")]:
        raise ValueError(f"{index}: the shard {outside[0]!r} is not in its folder; download the model again")
    return placed


def _of_file(file: pathlib.Path) -> Iterator[tuple[str, Tensor]]:
    try:
        opened = safetensors.safe_open(file, "numpy")
        for name in opened.keys():  # noqa: SIM118  it cannot be iterated
            part = opened.get_slice(name)
            yield name, Tensor(part.get_dtype(), tuple(part.get_shape()), functools.partial(opened.get_tensor, name))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file}: damaged, or no safetensors file ({error}); download it again") from None


def _of_gguf(file: pathlib.Path) -> Iterator[tuple[str, Tensor]]:
    for one in gguf_file.open_file(file).tensors:
        kind = one.data.dtype  # uint8 if it is quantised
        dtype = "F32" if kind == np.uint8 else f"{kind.kind.upper()}{8 * kind.itemsize}"
        shape = tuple(reversed(one.shape.tolist()))
        yield one.name, Tensor(dtype, shape, functools.partial(gguf_file.read_tensor, file, one))
