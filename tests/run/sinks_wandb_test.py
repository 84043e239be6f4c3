"""The id of a W&B run that its folder keeps, with a stand-in for wandb; tests/run/sinks_test.py has the real one."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from kronecker.run import sinks
from kronecker.schema import config_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for wandb; returns the ids of the runs that it starts, each before what is logged there."""
    ids: list[Any] = []
    nothing = types.SimpleNamespace(define_metric=lambda *_, **__: None, log=lambda line: ids.append(line))

    def init(**given: Any) -> Any:
        ids.append(given["id"])
        return nothing

    errors = types.SimpleNamespace(Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, errors=errors))
    return ids


def resume(folder: Path, *kept: dict[str, Any]) -> None:
    config = config_files.load(str(ROOT / "configs" / "demo.py"))
    config.log.wandb = "project"
    sinks.WeightsAndBiases(epath.Path(folder), config, 5, kept)


def test_a_folder_that_was_moved_goes_on_with_its_run(tmp_path: Path, started: list[str]):
    (tmp_path / "wandb.json").write_text(json.dumps({"id": "abc", "folder": str(tmp_path / "before")}))
    resume(tmp_path)
    assert started == ["abc"]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {
        "id": "abc",
        "folder": str(tmp_path),
        "project": "project",
    }


def test_a_run_in_another_project_has_its_own_id_and_every_line_so_far(tmp_path: Path, started: list[str]):
    kept = {"id": "abc", "folder": str(tmp_path), "project": "before"}
    (tmp_path / "wandb.json").write_text(json.dumps(kept))
    resume(tmp_path, {"kind": "validation", "step": 4, "loss": 2.0})
    assert started[0] != "abc"
    assert started[1:] == [{"validation/loss": 2.0, "step": 4}]


@pytest.mark.parametrize("folder", ["s3://bucket/run", "https://host/run", "gs://"])
def test_a_place_of_another_kind_is_refused_in_one_line(tmp_path: Path, started: list[str], folder: str):
    (tmp_path / "wandb.json").write_text(json.dumps({"id": "abc", "folder": folder}))
    with pytest.raises(ValueError, match=rf"^{tmp_path}/wandb\.json: folder={folder}: unknown kind of path; allowed"):
        resume(tmp_path)
    assert started == []
