"""The notebook, all its cells, in a new environment with what a hosted one has: Jupyter, JAX, Flax, and no more."""

import json
from pathlib import Path

import pytest
from clean_installs import ROOT, build_wheel, make_environment, run

RUNS_CELLS = """
import sys
import nbclient, nbformat

source, folder, result = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
resources = {"metadata": {"path": folder}}
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
nbformat.write(notebook, result)
"""


@pytest.mark.extras  # a new environment
@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = make_environment(tmp_path / "venv", "nbclient", "ipykernel", "matplotlib")
    installed = run(python, "-m", "pip", "list", "--format=freeze")
    assert "kronecker" not in installed
    (tmp_path / "elsewhere").mkdir()
    wheel = build_wheel(tmp_path / "source", tmp_path / "wheel")
    monkeypatch.setenv("KRONECKER_SOURCE", str(wheel))  # its first cell installs it
    done = tmp_path / "done.ipynb"
    run(python, "-c", RUNS_CELLS, ROOT / "examples" / "kronecker.ipynb", tmp_path / "elsewhere", done, cwd=tmp_path)
    outputs = [out for cell in json.loads(done.read_text())["cells"] for out in cell.get("outputs", ())]
    printed = "".join("".join(out.get("text", ())) for out in outputs)
    assert "KroneckerEmbed: mean training loss of the last 50 steps " in printed
    assert " retrun -> " in printed
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    assert "kronecker-jax" in run(python, "-m", "pip", "list", "--format=freeze")


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads((ROOT / "examples" / "kronecker.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
