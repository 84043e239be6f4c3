"""GPT-2 folders read back: our own exports bit for bit, and what does not fit refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kronecker.interop import gpt2_folder, tensors
from kronecker.model import transformer

SHAPE = transformer.Shape(layers=2, heads=2, d_model=8, context=16, vocab_size=30, padded_vocab=32)


def replaced(**changes) -> transformer.Shape:
    return transformer.Shape(**{name: getattr(SHAPE, name) for name in SHAPE.__dataclass_fields__} | changes)


def drawn(shape: transformer.Shape, dtype: str = "float32") -> tuple[dict, np.ndarray]:
    """Returns a decoder's parameters and its table, whose padded rows are zeros."""

    class Zeros(transformer.nn.Module):
        @transformer.nn.compact
        def __call__(self, ids, bag):
            return jax.numpy.zeros((*ids.shape, shape.d_model))

    untied = replaced(bias=shape.bias, tie_head=False)
    tree = jax.eval_shape(
        transformer.Transformer(untied, Zeros()).init, jax.random.key(0), jax.numpy.zeros((1, 1), int)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(dtype), tree["params"])
    params["head"][:, shape.vocab_size :] = 0
    if shape.tie_head:
        del params["head"]
    table = rng.standard_normal((shape.padded_vocab, shape.d_model)).astype(dtype)
    table[shape.vocab_size :] = 0
    return params, table


def write(folder: Path, shape: transformer.Shape = SHAPE, dtype: str = "float32") -> tuple[dict, np.ndarray]:
    params, table = drawn(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    found = gpt2_folder.arrays(params, table[: shape.vocab_size], shape)
    arrays = {name: np.ascontiguousarray(array) for name, array in found.items()}
    about = {"format": "pt", gpt2_folder.ABOUT: json.dumps({"step": 3})}
    safetensors.numpy.save_file(arrays, folder / gpt2_folder.WEIGHTS, about)
    (folder / gpt2_folder.CONFIG).write_text(json.dumps(gpt2_folder.config(shape, 0, dtype)))
    return params, table


def same(one: dict, other: dict) -> bool:
    equal = jax.tree.map(lambda a, b: a.dtype == b.dtype and a.tobytes() == b.tobytes(), one, other)
    return jax.tree.all(equal)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_comes_back_bit_for_bit(bias: bool, tie_head: bool, dtype: str, tmp_path: Path):
    shape = replaced(bias=bias, tie_head=tie_head)
    params, table = write(tmp_path, shape, dtype)
    found = gpt2_folder.read(tmp_path, shape)
    assert same(found.params, jax.tree.map(np.ascontiguousarray, params))
    assert same({"table": found.table}, {"table": table})
    assert found.about == {"step": 3}


def test_a_tied_table_becomes_a_head_of_its_own(tmp_path: Path):
    _, table = write(tmp_path, replaced(tie_head=True))
    found = gpt2_folder.read(tmp_path, SHAPE)
    assert (found.params["head"] == table.T).all()


def test_a_scale_of_the_logits_is_in_the_final_norm():
    params, table = drawn(replaced(tie_head=True))
    plain, scaled = (gpt2_folder.arrays(params, table[:30], replaced(tie_head=True), scale) for scale in (1.0, 0.25))
    for name, array in plain.items():
        assert (scaled[name] == array * (0.25 if "ln_f" in name else 1)).all()


def test_files_of_gpt2_without_a_prefix_and_with_masks_are_read(tmp_path: Path):
    params, _ = write(tmp_path, replaced(tie_head=True))
    path = tmp_path / gpt2_folder.WEIGHTS
    plain = {name.removeprefix("transformer."): array for name, array in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(plain | {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}, path)
    found = gpt2_folder.read(tmp_path, replaced(tie_head=True))
    assert same(found.params, params)
    assert found.about == {}


def test_one_whole_file_comes_before_an_index_as_in_transformers(tmp_path: Path):
    params, _ = write(tmp_path)
    (tmp_path / tensors.INDEX).write_text('{"weight_map": {"wte.weight": "missing.safetensors"}}')
    assert same(gpt2_folder.read(tmp_path, SHAPE).params, params)


def changed_config(**changes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / gpt2_folder.CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def changed_arrays(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / gpt2_folder.WEIGHTS
        arrays = safetensors.numpy.load_file(path)
        change(arrays)
        safetensors.numpy.save_file(arrays, path)

    return rewrite


def first_bias(arrays: dict) -> np.ndarray:
    return arrays["transformer.h.0.ln_1.bias"]


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        (
            changed_config(activation_function="gelu"),
            {},
            'activation_function is "gelu"; our decoder has "gelu_new" or',
        ),
        (changed_config(n_inner=24), {}, "n_inner is 24; our decoder has null or 32 only"),
        (changed_config(layer_norm_epsilon=1e-6), {}, "layer_norm_epsilon is 1e-06; our decoder has 1e-05 only"),
        (changed_config(scale_attn_weights=False), {}, "scale_attn_weights is false"),
        (changed_config(scale_attn_by_inverse_layer_idx=True), {}, "scale_attn_by_inverse_layer_idx is true"),
        (changed_config(add_cross_attention=True), {}, "add_cross_attention is true"),
        (changed_config(quantization_config={"bits": 4}), {}, 'quantization_config is {"bits": 4}'),
        (changed_config(model_type="llama"), {}, 'model_type is "llama"; our decoder has "gpt2" only'),
        (changed_config(n_layer=3), {}, "n_layer is 3, but model.layers is 2; set model.layers=3"),
        (changed_config(n_positions=None), {}, "n_positions is null, but model.context is 16; give the folder"),
        (changed_config(), {"tie_head": True}, "tie_word_embeddings is false; .* set model.tie_head=False"),
        (changed_config(), {"vocab_size": 31}, "vocab_size is 30, but model.vocab_size is 31; set tokenizer to that"),
        (changed_config(), {"bias": False}, "ln_f.bias is not zero, but model.bias is False; set model.bias=True"),
        (changed_arrays(lambda arrays: arrays.pop("lm_head.weight")), {}, "lm_head.weight is missing"),
        (changed_arrays(lambda arrays: arrays.update(extra=np.ones(2))), {}, "extra is no weight of GPT-2"),
        (
            changed_arrays(lambda arrays: arrays.update({"wte.weight": np.zeros((30, 8), np.float32)})),
            {},
            r"wte.weight is there twice, with transformer\. and without; download the model again",
        ),
        (
            changed_arrays(lambda arrays: first_bias(arrays).fill(np.nan)),
            {},
            "ln_1.bias has values that are not finite",
        ),
        (
            changed_arrays(lambda arrays: arrays.update({"lm_head.weight": np.ones((30, 8), np.int8)})),
            {},
            "lm_head.weight is I8; give weights that are not quantised",
        ),
        (
            changed_arrays(lambda arrays: arrays.update({"lm_head.weight": np.ones((30, 8), ml_dtypes.float8_e4m3fn)})),
            {},
            "lm_head.weight is F8_E4M3; give weights that are not quantised",
        ),
        (
            changed_arrays(lambda arrays: arrays.update({"transformer.wpe.weight": np.ones((15, 8), np.float32)})),
            {},
            r"wpe.weight has shape \(15, 8\); config.json asks for \(16, 8\)",
        ),
        (
            changed_config(tie_word_embeddings=True),
            {},
            r"lm_head.weight is not wte.weight, but config.json ties them; write tie_word_embeddings: false there",
        ),
        (lambda folder: (folder / gpt2_folder.WEIGHTS).write_bytes(b"\xff" * 64), {}, "model.safetensors: damaged"),
        (lambda folder: (folder / gpt2_folder.CONFIG).write_text("{"), {}, "config.json: not JSON"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: Callable, shape: dict, message: str, tmp_path: Path):
    write(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        gpt2_folder.read(tmp_path, replaced(**shape))


@pytest.mark.parametrize("missing", [gpt2_folder.CONFIG, gpt2_folder.WEIGHTS])
def test_a_missing_file_is_named(missing: str, tmp_path: Path):
    write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} does not exist"):
        gpt2_folder.read(tmp_path, SHAPE)
    (tmp_path / missing).mkdir()
    with pytest.raises(OSError, match=missing):
        gpt2_folder.read(tmp_path, SHAPE)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        gpt2_folder.read(tmp_path, SHAPE)
