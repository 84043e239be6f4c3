"""Runs of arms with a code that start from a GPT-2 folder: W is fitted to its table, the rest is the model's."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_runs

from kronecker.data import preparation
from kronecker.data.stream import Stream
from kronecker.embedding import bags, codec
from kronecker.interop import gpt2_folder, graft, starting
from kronecker.model import build
from kronecker.schema import config_files, resolution

ARMS = ("table_untied", "kronecker", "kronecker_unit", "table_plus_kronecker", "kronecker_tied")
KEYS = {"tokenizer": "bpe:300", "embedding.pos_dim": 8, "train.steps": 1, "train.lr": 1e-9, "model.vocab_multiple": 64}


def config(data: Path, arm: str):
    c = config_files.load(f"configs/demo.py:arm={arm}")
    source = {"data.folder": str(data), "data.source": f"text:{data / 'text'}"}
    c.update_from_flattened_dict(tiny_runs.OPTIONS | KEYS | source)
    return resolution.resolve(c)


@pytest.fixture(scope="module")
def started(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arm -> model, bag, parameters and facts, from one folder whose table is a code times a projection."""
    folder, rng = tmp_path_factory.mktemp("gpt2"), np.random.default_rng(0)
    prepared, tokenizer = preparation.ensure_prepared(config(data, "kronecker"))
    found: dict[str, Any] = {"folder": folder, "ids": Stream(prepared, "train").read(0, 32)[None]}
    for arm in ARMS:
        c = resolution.with_vocabulary(config(data, arm), tokenizer.vocab_size)
        built = build.build(c, tokenizer.token_bytes)
        if "table" not in found:
            bag = bags.kronecker_bag(codec.byte_table(tokenizer.token_bytes, KEYS["embedding.pos_dim"]))
            dense = bags.dense_code(bag, np.arange(tokenizer.vocab_size))
            found["table"] = dense @ (rng.standard_normal((dense.shape[1], 16)) / dense.shape[1] ** 0.5)
            shapes = jax.eval_shape(built.model.init, jax.random.key(0), np.zeros((1, 1), int))["params"]
            params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
            arrays = gpt2_folder.arrays(params, found["table"].astype(np.float32), built.model.shape)
            safetensors.numpy.save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / gpt2_folder.WEIGHTS
            )
            (folder / gpt2_folder.CONFIG).write_text(json.dumps(gpt2_folder.config(built.model.shape, 0, "float32")))
        if c.model.tie_head:
            with pytest.raises(ValueError, match="tie_word_embeddings is false"):
                starting.find(str(folder), c, tokenizer, prepared, built.bag)
            continue
        for key in ("embedding.scale", "model.unigram_bias"):
            other = c.copy_and_resolve_references()
            other.update_from_flattened_dict({key: 0.5 if key.endswith("scale") else True})
            with pytest.raises(ValueError, match=f"{key} is set, but GPT-2 has none"):
                starting.find(str(folder), other, tokenizer, prepared, built.bag)
        start = starting.find(str(folder), c, tokenizer, prepared, built.bag)
        found[arm] = built, start.params, start.facts
    return found


def test_a_table_within_the_code_gives_the_logits_of_the_table(started: dict[str, Any]):
    ids = started["ids"]  # of the text: others have no weight in the fit
    (table, params, _), (code, fitted, facts) = started["table_untied"], started["kronecker"]
    logits = table.model.apply({"params": params}, ids)
    assert code.model.apply({"params": fitted}, ids, code.bag) == pytest.approx(np.asarray(logits), abs=2e-3)
    assert facts[graft.WEIGHTED] < 1e-6
    plus, its, _ = started["table_plus_kronecker"]  # its code adds nothing yet
    assert plus.model.apply({"params": its}, ids, plus.bag) == pytest.approx(np.asarray(logits), abs=1e-5)


def test_facts_are_the_hash_and_for_a_code_the_three_residuals(started: dict[str, Any]):
    assert list(started["table_untied"][2]) == list(started["table_plus_kronecker"][2]) == ["sha256"]
    assert list(started["kronecker_unit"][2]) == ["sha256", graft.BY_ID, graft.UNIFORM, graft.WEIGHTED]


@pytest.mark.slow
def test_a_run_of_the_kronecker_arm_begins_with_the_fit_and_records_it(
    started: dict[str, Any], data: Path, tmp_path: Path
):
    workdir = tmp_path / "run"
    options = KEYS | {"checkpoint.init_from": f"hf:{started['folder']}"}
    (ended,) = tiny_runs.finish(tiny_runs.start(workdir, data, options))
    began = json.loads((workdir / "env.json").read_text())["began_with"]
    assert began == {"run": options["checkpoint.init_from"], **started["kronecker"][2]}
    assert f"starts from the weights of hf:{started['folder']}" in ended
