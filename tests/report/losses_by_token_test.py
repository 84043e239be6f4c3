"""token_losses.npz and input_use.json that are damaged, hostile or of another shape are refused in one line."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import vocabulary, write_losses, write_run

from kronecker.report import inputs, losses_by_token
from kronecker.run import finished_runs, rundir

N, V = 500, 2
USE = dict.fromkeys(inputs.FIELDS, 1.0) | {"training_step": 300, "rows_in_use": 1, "rows": 1, "validation_loss": 4.0}
EACH = ("inputs", "targets", "train_count", "bytes", "script", "code_group", "special", "after_space", "nats", "step")


@pytest.fixture
def run(tmp_path: Path) -> finished_runs.Run:
    folder = write_run(tmp_path / "run", "kronecker", 0, 4.0)
    tokens = {"inputs": np.zeros(N, np.int32), "targets": np.ones(N, np.int32)}
    write_losses(folder, vocabulary(V, code_group=[0, -1]), nats=np.full(N, 4.0, np.float32), **tokens)
    (found,) = finished_runs.find([folder])
    return finished_runs.read(found)


def written_again(run: finished_runs.Run, change: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    """Returns a run's file after a change of its arrays."""
    file = Path(run.folder) / rundir.TOKEN_LOSSES
    with np.load(file) as opened:
        arrays = dict(opened)
    change(arrays)
    np.savez_compressed(file, **arrays)
    return file


def refused(run: finished_runs.Run, words: str) -> None:
    again = rf"rewrite it: python scripts/token_losses\.py --again {run.folder}$"
    with pytest.raises(ValueError, match=rf"^{run.folder}/token_losses\.npz: damaged \({words}.*\); {again}") as raised:
        losses_by_token.read(run)
    assert "\n" not in str(raised.value)


def test_what_token_losses_writes_is_read_and_without_the_count_of_text_too(run: finished_runs.Run):
    assert losses_by_token.read(run).keys() == losses_by_token.ARRAYS.keys() - {"validation_loss"}
    written_again(run, lambda arrays: arrays.pop("text_bytes"))
    assert losses_by_token.read(run).keys() == losses_by_token.ARRAYS.keys() - {*losses_by_token.NEWER}
    assert not losses_by_token.counts_text(run)


@pytest.mark.parametrize("name", EACH)
def test_a_missing_array_or_one_of_another_shape_or_type_is_refused(run: finished_runs.Run, name: str):
    before = {}
    written_again(run, lambda arrays: before.update({name: arrays.pop(name)}))
    refused(run, f".*{name}")
    for other in (np.append(before[name], before[name]), before[name][None], before[name].astype("S9")):
        written_again(run, lambda arrays, other=other: arrays.update({name: other}))
        refused(run, ".* is .* of shape")


@pytest.mark.parametrize(
    ("name", "value"),
    [("inputs", V), ("targets", -1), ("script", 3), ("code_group", -2), ("train_count", -1)],
)
def test_an_id_out_of_range_is_refused(run: finished_runs.Run, name: str, value: int):
    written_again(run, lambda arrays: arrays[name].__setitem__(1, value))
    refused(run, f"{name} has values from .*; allowed")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused(run: finished_runs.Run, value: float):
    written_again(run, lambda arrays: arrays["nats"].__setitem__(-1, value))
    refused(run, "nats has values that are not finite")


def test_losses_of_a_run_with_a_similar_loss_are_not_taken_for_its_own(run: finished_runs.Run):
    written_again(run, lambda arrays: arrays.update(validation_loss=np.array(4.0)))
    assert losses_by_token.read(run)["validation_loss"] == 4.0
    file = written_again(run, lambda arrays: arrays.update(validation_loss=np.array(4.001)))
    with pytest.raises(ValueError, match=rf"^{file}: belongs to another checkpoint or other data than result\.json"):
        losses_by_token.read(run)
    written_again(run, lambda arrays: arrays.update(validation_loss=np.array("4.0")))
    refused(run, "validation_loss is <U3")


class Opened:
    """A pickle of it makes a file when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_never_opened(run: finished_runs.Run, tmp_path: Path):
    mark, file = tmp_path / "opened", Path(run.folder) / rundir.TOKEN_LOSSES
    written_again(run, lambda arrays: arrays.update(scripts=np.array([Opened(mark)] * 3, object)))
    refused(run, "Object arrays cannot be loaded")
    file.write_bytes(pickle.dumps(Opened(mark)))
    refused(run, "File is not a zip file")
    np.save(file.with_suffix(".npy"), np.zeros(3))
    file.write_bytes(file.with_suffix(".npy").read_bytes())
    refused(run, "File is not a zip file")
    assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"validation_loss": 4.5},
        {"training_step": 299},
        {"std": None},
        {"std": "1"},
        {"rows": -1e31},
        {"step": float("nan")},
        {"rows": 10**400},
        {"read_share": float("inf")},
    ],
)
def test_a_damaged_input_use_is_refused_with_the_command_that_writes_it_again(
    run: finished_runs.Run, change: dict[str, Any]
):
    file = Path(run.folder) / rundir.INPUT_USE
    remedy = rf"write it again: python scripts/token_losses\.py --again {run.folder}$"
    file.write_text(json.dumps(USE))
    assert inputs.read(run) == USE
    for content in (json.dumps(USE | change), json.dumps(list(USE)), json.dumps(USE)[:-1], "", "[" * 100_000):
        file.write_text(content)
        with pytest.raises(ValueError, match=rf"^{file}: .*; {remedy}") as raised:
            inputs.read(run)
        assert "\n" not in str(raised.value)
    with file.open("wb") as sparse:
        sparse.truncate(5 << 30)
    with pytest.raises(ValueError, match=rf"^{file} has 5,368,709,120 bytes, .* at most 67,108,864; {remedy}"):
        inputs.read(run)
