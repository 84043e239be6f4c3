"""Input tables of published models: out of files that the formats' own libraries wrote."""

import json
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kronecker.interop import tensors

NAME = "model.embed_tokens.weight"
MATRIX = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
OTHER = np.zeros((3, 3), np.float32)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_matrix_is_read_out_of_a_file_in_its_own_type(tmp_path: Path, dtype: type):
    safetensors.save_file({"a": OTHER, NAME: MATRIX.astype(dtype), "z": OTHER}, tmp_path / "m.safetensors")
    found = tensors.input_table(tmp_path / "m.safetensors")
    assert found.dtype == dtype
    assert np.array_equal(found, MATRIX.astype(dtype))


def test_only_the_tensor_is_read_not_the_file(tmp_path: Path):
    safetensors.save_file({"big": np.zeros((4096, 4096), np.float32), NAME: MATRIX}, tmp_path / "model.safetensors")
    tracemalloc.start()
    assert np.array_equal(tensors.input_table(tmp_path), MATRIX)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_sharded_checkpoint_gives_it_out_of_its_shard(tmp_path: Path):
    safetensors.save_file({"lm_head.weight": OTHER}, tmp_path / "model-00001-of-00002.safetensors")
    # The second shard also holds a tensor that the index has in the first one.
    more = {NAME: MATRIX, "lm_head.weight": MATRIX}
    safetensors.save_file(more, tmp_path / "model-00002-of-00002.safetensors")
    where = {"lm_head.weight": "model-00001-of-00002.safetensors", NAME: "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert np.array_equal(tensors.input_table(tmp_path), MATRIX)
    assert np.array_equal(tensors.input_table(tmp_path, "lm_head.weight"), OTHER)


def test_one_whole_file_comes_before_an_index_as_in_transformers(tmp_path: Path):
    test_a_sharded_checkpoint_gives_it_out_of_its_shard(tmp_path)
    safetensors.save_file({NAME: OTHER}, tmp_path / "model.safetensors")
    assert np.array_equal(tensors.input_table(tmp_path), OTHER)


@pytest.mark.parametrize("name", tensors.TABLES)
def test_every_usual_name_is_found(tmp_path: Path, name: str):
    safetensors.save_file({name: MATRIX, "other": OTHER}, tmp_path / "model.safetensors")
    assert np.array_equal(tensors.input_table(tmp_path), MATRIX)


def test_another_name_can_be_asked_for(tmp_path: Path):
    safetensors.save_file({"enc.emb": MATRIX, NAME: OTHER}, tmp_path / "model.safetensors")
    assert np.array_equal(tensors.input_table(tmp_path, "enc.emb"), MATRIX)


def test_a_missing_tensor_is_one_line_that_names_what_is_near(tmp_path: Path):
    safetensors.save_file({"tok.emb": MATRIX}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor .*name it with --tensor, for example tok\.emb$"):
        tensors.input_table(tmp_path)
    with pytest.raises(ValueError, match=r"no tensor wte; name it with --tensor"):
        tensors.input_table(tmp_path, "wte")


@pytest.mark.parametrize("wrong", [np.zeros(4, "f4"), np.zeros((2, 2), "i4"), np.zeros((1, 2, 3), "f4")])
def test_what_is_no_float_matrix_is_refused(tmp_path: Path, wrong: np.ndarray):
    safetensors.save_file({NAME: wrong}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="an embedding is a matrix of"):
        tensors.input_table(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"no such file at all", b"\x05" + b"\x00" * 7 + b"{]}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="safetensors file"):
        tensors.input_table(tmp_path)


def test_a_file_cut_short_is_refused(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    safetensors.save_file({NAME: MATRIX}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"damaged, .*download it again"):
        tensors.input_table(tmp_path)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is no file; give a \.safetensors"):
        tensors.input_table(tmp_path)


def test_a_folder_without_a_checkpoint_says_what_it_should_hold(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"or a folder with model\.safetensors or model\.safetensors\.index\.json"
    ):
        tensors.input_table(tmp_path)


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"weight_map": 3}', "'weight_map' is 3, not an object"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "is not in its folder"),
        ('{"weight_map": {"a": ".."}}', "is not in its folder"),
        ('{"weight_map": {"a": ""}}', "is not in its folder"),
    ],
)
def test_a_damaged_index_is_one_line_that_names_it(tmp_path: Path, index: str, fault: str):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=rf"index\.json: .*{fault}.*; download"):
        tensors.input_table(tmp_path)
