"""Llama's weights out of a Hugging Face folder or a GGUF file, as `llama.Llama` holds them.

A linear layer there is (out, in).  In GGUF the rows of queries and keys have another order: coordinates i and i + h/2
of a head, which rotary positions turn together, are neighbours.

Shapes: V vocabulary, d model width, h head width.
"""

import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from kronecker.interop import gguf_file, llama, tensors
from kronecker.run import rundir
from kronecker.runtime import storage

CONFIG = "config.json"
TABLE = ("model.embed_tokens.weight", "token_embd.weight")  # in a folder, in a GGUF file
HEAD = ("lm_head.weight", "output.weight")
NORM = ("model.norm.weight", "output_norm.weight")


class Model(NamedTuple):
    """A decoder and its weights, float32, on the host."""

    shape: llama.Shape
    params: dict[str, Any]  # the decoder's tree without its input embedding; with `head` if the shape is not tied
    table: np.ndarray  # (V, d), the input embedding


class _Place(NamedTuple):
    """A parameter: where it stands there, and here."""

    names: tuple[str, str]  # in a folder, in a GGUF file
    ours: str
    size: tuple[int, ...]  # there
    shape: tuple[int, ...]  # here, of one layer
    turned: int = 0  # the number of heads, if rotary positions turn it


def read(location: str | pathlib.Path) -> Model:
    """Returns the model in a Hugging Face folder or a GGUF file on this machine.

    Raises FileNotFoundError if a file is missing; ValueError if one is damaged, or the model is no Llama, or has an
    option or a weight that `llama.Llama` lacks.
    """
    path = pathlib.Path(location)
    in_gguf = path.suffix == tensors.GGUF
    found = tensors.tensors(path)
    shape = _shape_in_gguf(path, found) if in_gguf else _shape_in_folder(path / CONFIG)
    flat: dict[str, list[np.ndarray]] = {}
    for place in _places(shape, not shape.tie_head or HEAD[in_gguf] in found):
        name = place.names[in_gguf]
        one = found.pop(name, None)
        if one is None or one.shape != place.size or one.dtype not in tensors.FLOATS:
            got = f"is {one.dtype} of shape {list(one.shape)}" if one else "is missing"
            raise ValueError(f"{path}: {name} {got}; it must be floats of shape {list(place.size)}; give a whole Llama")
        array = np.asarray(one.read(), np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} has values that are not finite; download the model again")
        if in_gguf and place.turned:
            array = array.reshape(place.turned, -1, 2, shape.d_model).swapaxes(1, 2).reshape(place.size)
        array = array.T if place.ours.endswith(("kernel", "head")) else array
        flat.setdefault(place.ours, []).append(array.reshape(place.shape))
    if found:
        raise ValueError(f"{path}: {min(found)} is no weight of Llama; give a model of its plain form")
    joined = {ours: np.stack(parts) if ours.startswith("blocks/") else parts[0] for ours, parts in flat.items()}
    table = joined.pop("table")
    if shape.tie_head and not np.array_equal(joined.pop("head", table.T), table.T):
        raise ValueError(
            f"{path}: {HEAD[0]} is not {TABLE[0]}, but {CONFIG} ties them; write tie_word_embeddings: false there"
        )
    return Model(shape, traverse_util.unflatten_dict(joined, sep="/"), table)


def _places(s: llama.Shape, with_head: bool) -> Iterator[_Place]:
    d, queries, keys = s.d_model, (s.heads, s.head_width), (s.kv_heads, s.head_width)
    yield _Place(TABLE, "table", (s.vocab_size, d), (s.vocab_size, d))
    yield _Place(NORM, "final_norm/scale", (d,), (d,))
    if with_head:
        yield _Place(HEAD, "head", (s.vocab_size, d), (d, s.vocab_size))
    for layer in range(s.layers):
        for theirs, in_gguf, ours in (
            ("input_layernorm", "attn_norm", "attention_norm"),
            ("post_attention_layernorm", "ffn_norm", "mlp_norm"),
        ):
            names = f"model.layers.{layer}.{theirs}.weight", f"blk.{layer}.{in_gguf}.weight"
            yield _Place(names, f"blocks/{ours}/scale", (d,), (d,))
        for theirs, in_gguf, ours, into, out, turned in (
            ("self_attn.q_proj", "attn_q", "query", (d,), queries, s.heads),
            ("self_attn.k_proj", "attn_k", "key", (d,), keys, s.kv_heads),
            ("self_attn.v_proj", "attn_v", "value", (d,), keys, 0),
            ("self_attn.o_proj", "attn_output", "out", (math.prod(queries),), (d,), 0),
            ("mlp.gate_proj", "ffn_gate", "gate", (d,), (s.hidden,), 0),
            ("mlp.up_proj", "ffn_up", "up", (d,), (s.hidden,), 0),
            ("mlp.down_proj", "ffn_down", "down", (s.hidden,), (d,), 0),
        ):
            names = f"model.layers.{layer}.{theirs}.weight", f"blk.{layer}.{in_gguf}.weight"
            size = math.prod(out), math.prod(into)
            yield _Place(names, f"blocks/{ours}/kernel", size, (*into, *out), turned)


def _shape_in_folder(path: pathlib.Path) -> llama.Shape:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder with it and {tensors.SINGLE}, or a .gguf file")
    theirs = rundir.parsed(storage.read_whole(path), str(path), {}, "download it again")
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}  # the newer name and the older one
    rope = rope if isinstance(rope, dict) else {"rope_type": rope}
    for name, got, allowed in (
        ("model_type", theirs.get("model_type"), ("llama",)),
        ("hidden_act", theirs.get("hidden_act", "silu"), ("silu",)),
        ("attention_bias", theirs.get("attention_bias", False), (False,)),
        ("mlp_bias", theirs.get("mlp_bias", False), (False,)),
        ("quantization_config", theirs.get("quantization_config"), (None,)),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), ("default",)),
    ):
        _require(path, name, got, got in allowed, f"Llama here has {allowed[0]!r} alone")
    base = rope.get("rope_theta", theirs.get("rope_theta", 10_000.0))
    heads, width = theirs.get("num_attention_heads"), theirs.get("hidden_size")
    return _shape(
        path,
        {
            "layers": ("num_hidden_layers", theirs.get("num_hidden_layers")),
            "heads": ("num_attention_heads", heads),
            "kv_heads": ("num_key_value_heads", theirs.get("num_key_value_heads", heads)),
            "head_width": ("head_dim", theirs.get("head_dim") or _quotient(width, heads)),
            "d_model": ("hidden_size", width),
            "hidden": ("intermediate_size", theirs.get("intermediate_size")),
            "vocab_size": ("vocab_size", theirs.get("vocab_size")),
        },
        rope_base=("rope_theta", base),
        norm_eps=("rms_norm_eps", theirs.get("rms_norm_eps", 1e-6)),
        tie_head=bool(theirs.get("tie_word_embeddings", False)),
    )


def _shape_in_gguf(path: pathlib.Path, found: dict[str, tensors.Tensor]) -> llama.Shape:
    reader = gguf_file.open_file(path)

    def named(key: str, default: Any = None) -> tuple[str, Any]:
        name = f"llama.{key}"
        return name, gguf_file.value(path, reader, name) if name in reader.fields else default

    architecture = gguf_file.value(path, reader, "general.architecture", "none")
    _require(path, "general.architecture", architecture, architecture == "llama", "it must be 'llama'")
    scaling = named("rope.scaling.type", "none")
    _require(path, *scaling, scaling[1] == "none", "Llama here has 'none' alone")
    for name, factor in (named("rope.scaling.factor", 1), named("rope.scale_linear", 1)):  # of no type means linear
        _require(path, name, factor, factor in (0, 1), "Llama here has 1 alone")
    (_, heads), (_, width) = named("attention.head_count"), named("embedding_length")
    of_head = named("attention.key_length", named("rope.dimension_count", _quotient(width, heads))[1])
    turned = named("rope.dimension_count", of_head[1])
    _require(path, *turned, turned[1] == of_head[1], f"it must be {of_head[0]}, {of_head[1]}")
    table = found.get(TABLE[1])
    return _shape(
        path,
        {
            "layers": named("block_count"),
            "heads": named("attention.head_count"),
            "kv_heads": named("attention.head_count_kv", heads),
            "head_width": of_head,
            "d_model": named("embedding_length"),
            "hidden": named("feed_forward_length"),
            "vocab_size": (TABLE[1], table.shape[0] if table else None),
        },
        rope_base=named("rope.freq_base", 10_000.0),
        norm_eps=named("attention.layer_norm_rms_epsilon"),
        tie_head=HEAD[1] not in found,
    )


def _quotient(width: Any, heads: Any) -> Any:
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None


def _require(path: pathlib.Path, name: str, got: Any, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise ValueError(f"{path}: {name} is {got!s:.80}; {allowed}; give another model")


def _shape(
    path: pathlib.Path,
    sizes: dict[str, tuple[str, Any]],
    rope_base: tuple[str, Any],
    norm_eps: tuple[str, Any],
    tie_head: bool,
) -> llama.Shape:
    for name, size in sizes.values():
        _require(path, name, size, type(size) is int and 0 < size < 1 << 24, "it must be a whole number above 0")
    for name, number in (rope_base, norm_eps):
        is_number = isinstance(number, int | float) and 0 < number < math.inf
        _require(path, name, number, is_number, "it must be a number above 0")
    heads, groups, width = (sizes[key] for key in ("heads", "kv_heads", "head_width"))
    _require(path, *groups, heads[1] % groups[1] == 0, f"it must divide {heads[0]}, {heads[1]}")
    _require(path, *width, width[1] % 2 == 0, "it must be even")
    values = {key: size for key, (_, size) in sizes.items()}
    return llama.Shape(**values, rope_base=float(rope_base[1]), norm_eps=float(norm_eps[1]), tie_head=tie_head)
