"""GPT-2 as Hugging Face's tools store it, a config and named arrays, and where each of our parameters stands in them.

Our decoder is GPT-2's, so a model changes its form by renaming and reshaping alone.  Their linear layers hold (in, out)
matrices, as ours do; only the head is transposed.  They always have biases: without model.bias these are zeros.

Shapes: V vocabulary without padding, d model width, H heads, h head width, C context.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
from etils import epath
from flax import traverse_util

from kronecker.interop import tensors
from kronecker.model import accounting, transformer
from kronecker.run import rundir
from kronecker.runtime import storage

CONFIG, WEIGHTS = "config.json", tensors.SINGLE
PREFIX = "transformer."  # of all names but HEAD; the files of GPT2Model lack it
TABLE, HEAD, FINAL_NORM = "wte.weight", "lm_head.weight", ("ln_f.weight", "ln_f.bias")
SIZES = {  # theirs -> ours
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "d_model",
    "n_positions": "context",
    "vocab_size": "vocab_size",
}
ABOUT = "kronecker"  # in the metadata of a file that we have written: JSON about the run
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants in older files: causal masks, not weights


@dataclasses.dataclass(frozen=True)
class Model:
    """GPT-2's weights as our decoder holds them, on this machine."""

    params: dict[str, Any]  # the decoder's tree without its input embedding; with `head` if the shape is not tied
    table: np.ndarray  # (V, d), the input embedding, padded as the shape is
    about: dict[str, Any]  # of our own export: the run that it is of; else empty


@dataclasses.dataclass(frozen=True)
class _Place:
    """One parameter: where it stands, there and here."""

    theirs: str
    their_shape: tuple[int, ...]
    ours: str  # its path in the tree
    shape: tuple[int, ...]  # here, of one layer
    layer: int | None = None  # None: it is not stacked by layer


def config(shape: transformer.Shape, eot_id: int, dtype: str) -> dict[str, Any]:
    """Returns the content of config.json; `dtype` is that of the arrays."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(shape, ours) for theirs, ours in SIZES.items()},
        "n_ctx": shape.context,  # a converter to GGUF needs it
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": transformer.LAYER_NORM_EPS,
        "initializer_range": transformer.INIT_STD,
        "embd_pdrop": shape.dropout,
        "resid_pdrop": shape.dropout,
        "attn_pdrop": 0.0,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "tie_word_embeddings": shape.tie_head,
        "dtype": dtype,
        "use_cache": True,
    }


def arrays(
    params: Mapping[str, Any], table_Vd: np.ndarray, shape: transformer.Shape, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Returns GPT-2's arrays by name, from the decoder's parameters and the embedding of each id.

    `scale` is that of a tied head's logits, for which GPT-2 has no parameter: the final norm is multiplied by it.
    """
    ours = traverse_util.flatten_dict(
        {name: part for name, part in params.items() if name != accounting.INPUT}, sep="/"
    )
    found = {TABLE: table_Vd}
    for place in _places(shape):
        leaf = ours.get(place.ours, np.zeros((shape.layers, *place.shape)[place.layer is None :], table_Vd.dtype))
        leaf = leaf if place.layer is None else leaf[place.layer]
        found[place.theirs] = leaf.reshape(place.their_shape)
    if scale != 1:
        for name in FINAL_NORM:
            found[name] = found[name] * np.asarray(scale, found[name].dtype)
    found = {PREFIX + name: array for name, array in found.items()}
    if not shape.tie_head:
        found[HEAD] = ours["head"].T[: shape.vocab_size]
    return found


def is_own(folder: epath.Path) -> bool:
    """Returns whether the weights in a local folder are an export of ours."""
    try:
        with safetensors.safe_open(folder / WEIGHTS, "numpy") as opened:
            return ABOUT in (opened.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def read(folder: epath.PathLike, shape: transformer.Shape) -> Model:
    """Returns the weights of a GPT-2 folder for a decoder of this shape; padded ids get zeros.

    Raises FileNotFoundError if a file is missing; ValueError if one is damaged, or the model has another shape than the
    decoder, or an option that it lacks.
    """
    folder = storage.open_path(folder, "folder")
    if storage.is_remote(folder):
        raise ValueError(f"{folder}: GPT-2 folders are read from a local disk; copy it there")
    tied = _check_config(folder / CONFIG, shape)
    found, about = _read_arrays(pathlib.Path(folder))
    if tied:
        found.setdefault(HEAD, found.get(TABLE))
    expected = {place.theirs: place.their_shape for place in _places(shape)}
    expected |= dict.fromkeys((TABLE, HEAD), (shape.vocab_size, shape.d_model))
    for name, size in expected.items():
        array = found.get(name)
        if array is None or array.shape != size:
            got = "is missing" if array is None else f"has shape {array.shape}; {CONFIG} asks for {size}"
            raise ValueError(f"{folder / WEIGHTS}: {name} {got}; give the folder of a whole GPT-2 model")
        if not np.isfinite(array).all():
            raise ValueError(f"{folder / WEIGHTS}: {name} has values that are not finite; download it again")
    if tied and not np.array_equal(found[HEAD], found[TABLE]):
        raise ValueError(
            f"{folder / WEIGHTS}: {HEAD} is not {TABLE}, but {CONFIG} ties them; write tie_word_embeddings: false there"
        )
    if unknown := found.keys() - expected.keys():
        raise ValueError(f"{folder / WEIGHTS}: {min(unknown)} is no weight of GPT-2; give the folder of a GPT-2 model")
    flat: dict[str, list[np.ndarray]] = {}
    for place in _places(shape):
        if not shape.bias and place.theirs.endswith(".bias"):
            if found[place.theirs].any():
                raise ValueError(f"{folder}: {place.theirs} is not zero, but model.bias is False; set model.bias=True")
        else:
            flat.setdefault(place.ours, []).append(found[place.theirs].reshape(place.shape))
    stacked = {place.ours for place in _places(shape) if place.layer is not None}
    params = {path: np.stack(parts) if path in stacked else parts[0] for path, parts in flat.items()}
    padding = ((0, shape.padded_vocab - shape.vocab_size), (0, 0))
    if not shape.tie_head:
        params["head"] = np.pad(found[HEAD], padding).T
    own = rundir.parsed(about.get(ABOUT, "{}").encode(), f"{folder / WEIGHTS}: {ABOUT}", {}, "export the run again")
    return Model(traverse_util.unflatten_dict(params, sep="/"), np.pad(found[TABLE], padding), own)


def _places(s: transformer.Shape) -> Iterator[_Place]:
    d, heads = s.d_model, (s.heads, s.d_model // s.heads)
    yield _Place("wpe.weight", (s.context, d), "positions", (s.context, d))
    for name, ours in zip(FINAL_NORM, ("scale", "bias"), strict=True):
        yield _Place(name, (d,), f"final_norm/{ours}", (d,))
    for layer in range(s.layers):
        for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            yield _Place(f"h.{layer}.{theirs}.weight", (d,), f"blocks/{ours}/scale", (d,), layer)
            yield _Place(f"h.{layer}.{theirs}.bias", (d,), f"blocks/{ours}/bias", (d,), layer)
        for theirs, ours, into, out in (
            ("attn.c_attn", "attention/qkv", (d,), (3, *heads)),
            ("attn.c_proj", "attention/out", heads, (d,)),
            ("mlp.c_fc", "up", (d,), (4 * d,)),
            ("mlp.c_proj", "down", (4 * d,), (d,)),
        ):
            sizes = math.prod(into), math.prod(out)
            yield _Place(f"h.{layer}.{theirs}.weight", sizes, f"blocks/{ours}/kernel", (*into, *out), layer)
            yield _Place(f"h.{layer}.{theirs}.bias", sizes[1:], f"blocks/{ours}/bias", out, layer)


def _check_config(path: epath.Path, shape: transformer.Shape) -> bool:
    """Returns whether the head is the table; raises ValueError for what our decoder does not compute as the model."""
    theirs = rundir.read_json(path, {"model_type": str})
    if theirs is None:
        raise FileNotFoundError(f"{path} does not exist; give a folder that holds it and {WEIGHTS}")
    allowed: dict[str, tuple[Any, ...]] = {  # the first is what a file that lacks the option means
        "model_type": ("gpt2",),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (transformer.LAYER_NORM_EPS,),
        "n_inner": (None, 4 * shape.d_model),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
        "tie_word_embeddings": (True,) if shape.tie_head else (True, False),
    }
    for name, values in allowed.items():
        if (got := theirs.get(name, values[0])) not in values:
            remedy = "set model.tie_head=False" if name == "tie_word_embeddings" else "give another model"
            words = " or ".join(json.dumps(value) for value in values)
            raise ValueError(f"{path}: {name} is {json.dumps(got):.80}; our decoder has {words} only; {remedy}")
    for name, key in SIZES.items():
        if (got := theirs.get(name)) != (own := getattr(shape, key)):
            remedy = f"set model.{key}={got}" if type(got) is int else "give the folder of a whole GPT-2 model"
            remedy = "set tokenizer to that of the model" if key == "vocab_size" else remedy
            raise ValueError(f"{path}: {name} is {json.dumps(got):.80}, but model.{key} is {own}; {remedy}")
    return theirs.get("tie_word_embeddings", True)


def _read_arrays(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of a folder by their names without PREFIX, and the metadata of a single file."""
    found = {}
    for name, one in tensors.tensors(folder).items():
        if name.endswith(_MASKS):
            continue
        if one.dtype not in tensors.FLOATS:
            raise ValueError(f"{folder}: {name} is {one.dtype}; give weights that are not quantised")
        if (bare := name.removeprefix(PREFIX)) in found:
            raise ValueError(f"{folder}: {bare} is there twice, with {PREFIX} and without; download the model again")
        found[bare] = one.read()
    single = folder / WEIGHTS
    return found, (single.exists() and safetensors.safe_open(single, "numpy").metadata()) or {}
