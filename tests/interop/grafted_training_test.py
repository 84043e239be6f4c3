"""A small random Llama goes on with its table and with codes, through the script that people run."""

import json
import subprocess
import types
from pathlib import Path
from typing import Any

import commands
import llama_models
import numpy as np
import pytest

from configs import base
from kronecker.interop import grafted_training
from kronecker.model import build
from kronecker.schema import arms, resolution

ROOT = Path(__file__).parents[2]
STEPS = 12
WORDS = ["the", "other", "12", "then", "they", "there", "heat", "theme"]


def graft(*arguments: str) -> subprocess.CompletedProcess:
    return commands.run("scripts/graft.py", *arguments)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("graft")
    text = folder / "text.jsonl"
    documents = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 40)) for i in range(200)]
    text.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    keys = {
        "data.source": f"jsonl:{text}",
        "data.folder": folder,
        "data.validation_fraction": 0.1,
        "train.batch": 4,
        "train.sequence": 16,
        "train.steps": STEPS,
        "train.lr": 3e-3,
        "eval.every": 6,
        "eval.sequences": 8,
        "embedding.pos_dim": 4,
    }
    done = graft(
        str(llama_models.write_gguf(folder / "tiny.gguf")),
        "--config=configs/base.py",
        *(f"--config.{key}={value}" for key, value in keys.items()),
        *("--arms=table_tied,table_untied,kronecker,kronecker/unfitted,random_code", f"--out={folder / 'graft.json'}"),
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "graft.json").read_text())


def test_both_tables_and_all_batches_begin_with_one_loss(found: dict[str, Any]):
    arms = found["arms"]
    assert arms["table_tied"]["held out"][0][1] == pytest.approx(arms["table_untied"]["held out"][0][1], abs=1e-5)
    assert arms["table_tied"]["train"][0] == pytest.approx(arms["table_untied"]["train"][0], abs=1e-5)
    assert {len(arm["train"]) for arm in arms.values()} == {STEPS}


def test_every_arm_is_measured_before_within_and_after_and_learns(found: dict[str, Any]):
    for name, arm in found["arms"].items():
        assert [step for step, _ in arm["held out"]] == [0, 6, STEPS], name
        assert arm["held out"][-1][1] < arm["held out"][0][1], name


def test_the_three_residuals_and_the_losses_of_both_fits_are_reported_of_each_code(found: dict[str, Any]):
    assert list(found["fits"]) == ["kronecker", "random_code"]
    for fit in found["fits"].values():
        assert 0 <= fit["unexplained by occurrence, fit by occurrence"] < fit["unexplained by occurrence, uniform fit"]
        assert 0 < fit["unexplained by id"] < 1
        assert fit["loss of the uniform fit"] > 0
        assert fit["loss of the fit by occurrence"] > 0


def test_a_graft_without_its_fit_begins_worse_and_has_as_many_parameters(found: dict[str, Any]):
    fitted, unfitted = (found["arms"][name] for name in ("kronecker", "kronecker/unfitted"))
    assert unfitted["held out"][0][1] > fitted["held out"][0][1]
    assert unfitted["parameters"] == fitted["parameters"]


def test_counts_and_conditions_are_in_the_file(found: dict[str, Any]):
    assert found["counted"]["train"] > found["counted"]["held out"] > 0
    assert (found["model"], found["P"], found["steps"]) == ("tiny.gguf", 4, STEPS)
    assert found["machine"]["versions"]["jax"]


def test_arms_that_have_neither_table_nor_code_or_another_head_are_refused():
    config = resolution.resolve(base.get_config())
    for name, tied, said in (
        ("factorized", True, "is neither a table nor a code alone"),
        ("table_plus_kronecker", True, "is neither a table nor a code alone"),
        ("kronecker_tied", True, "its head is not the model's"),
        ("table_tied", False, "its head is not the model's"),
        ("nowhere", True, "no such arm; there are table_untied, table_tied"),
        ("kronecker/random", True, "no such arm; there are .*hash_ngram, and CODE/unfitted"),
        ("table_untied/unfitted", True, "it has no fit to leave out; write table_untied, or kronecker/unfitted"),
    ):
        with pytest.raises(ValueError, match=rf"--arms={name}: .*{said}"):
            grafted_training.configs_of(config, [name], tied)


@pytest.mark.parametrize(("redraw", "draw"), [(False, 0), (True, 7)])
def test_a_code_is_the_draw_that_the_config_names(monkeypatch: pytest.MonkeyPatch, redraw: bool, draw: int):
    config = base.get_config()
    config.update_from_flattened_dict(arms.ARMS["random_code"].overrides | {"embedding.redraw": redraw, "seed": 7})
    (own,) = grafted_training.configs_of(resolution.resolve(config), ["random_code"], True).values()
    made = []
    monkeypatch.setattr(build, "make_bag", lambda codes, *of_code: made.append(of_code))
    with pytest.raises(AttributeError):  # after the code
        grafted_training._start(
            types.SimpleNamespace(shape=types.SimpleNamespace(d_model=4), table=np.ones((2, 4))),
            own,
            (b"a", b"b"),
            np.ones(2),
            np.ones(2),
            False,
        )
    assert made == [("random_code", "z", draw)]
