"""The layer from a built wheel, in an environment with NumPy, JAX, Flax and Optax alone, and no checkout."""

import json
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from clean_installs import ROOT, build_wheel, make_environment, run
from packaging.requirements import Requirement

WHERE = """
import json
from importlib import metadata

import kronecker

names = sorted(distribution.name for distribution in metadata.distributions())
print(json.dumps([kronecker.__file__, names]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(wheel: Path):
    assert wheel.name.startswith("kronecker_jax-")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    known = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "kronecker").splitlines()
    assert held == {name for name in known if (ROOT / name).is_file()}
    assert "kronecker/py.typed" in held


@pytest.mark.extras  # a new environment
@pytest.mark.slow
def test_the_layer_trains_with_nothing_else_installed(wheel: Path, tmp_path: Path):
    python = make_environment(tmp_path / "venv", wheel)
    assert "25 of 25 words right" in run(python, ROOT / "examples/layer.py", cwd=tmp_path)
    file, names = json.loads(run(python, "-c", WHERE, cwd=tmp_path))
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert not {"ml_collections", "grain", "huggingface_hub", "matplotlib", "tensorflow-datasets", "tokenizers"} & set(
        names
    )


@pytest.mark.slow
def test_without_extras_it_asks_for_numpy_jax_and_flax(wheel: Path):
    (distribution,) = metadata.distributions(path=[str(wheel)])
    required = [Requirement(line) for line in distribution.requires or ()]
    assert sorted(asked.name for asked in required if not asked.marker) == ["flax", "jax", "numpy"]
    assert set(distribution.metadata.get_all("Provides-Extra")) == {"train", "tpu", "gpu", "gcs", "gguf", "dev"}
