"""The layer from a built wheel, in an environment with NumPy, JAX, Flax and Optax alone, and no checkout."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
INDEX = {"UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}  # as in the Makefile
TRAINS = """
import json, sys
from importlib import metadata

import kronecker
import jax
import jax.numpy as jnp
import optax

ids = jnp.arange(300).reshape(10, 30)
code = kronecker.kronecker_code(kronecker.byte_table([str(i).encode() for i in range(300)], pos_dim=16))
layer = kronecker.KroneckerEmbed(features=16, code=code)
variables = layer.init(jax.random.key(0), ids)
params, optimizer = variables["params"], optax.adam(1e-3)

@jax.jit
def loss(params, code):
    return (layer.apply({"params": params, "code": code}, ids).mean(axis=-1) - ids % 2).var()

before, gradient = jax.value_and_grad(loss)(params, variables["code"])
updates, _ = optimizer.update(gradient, optimizer.init(params))
after = loss(optax.apply_updates(params, updates), variables["code"])
names = sorted(distribution.name for distribution in metadata.distributions())
print(json.dumps([float(before), float(after), kronecker.__file__, names]))
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | INDEX
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(python: Path, *what: str | Path) -> None:
    """Installs by uv, which takes seconds; by pip where uv is missing or cannot reach an index that pip can."""
    try:
        run(sys.executable, "-m", "uv", "pip", "install", "--quiet", f"--python={python}", *what)
    except AssertionError:
        run(python, "-m", "pip", "install", "--quiet", *what)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, so that what is lying about in the checkout cannot help."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "kronecker", "*.toml", "README.md")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(wheel: Path):
    assert wheel.name.startswith("kronecker_jax-")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    known = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "kronecker").splitlines()
    assert held == {name for name in known if (ROOT / name).is_file()}
    assert "kronecker/py.typed" in held


@pytest.mark.slow
def test_the_layer_trains_with_nothing_else_installed(wheel: Path, tmp_path: Path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    versions = [f"{name}=={metadata.version(name)}" for name in ("numpy", "jax", "flax", "optax")]
    install(python, wheel, *versions)
    before, after, file, names = json.loads(run(python, "-c", TRAINS, cwd=tmp_path))
    assert after < before
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert not {"ml_collections", "grain", "huggingface_hub", "matplotlib", "tensorflow-datasets", "tokenizers"} & set(
        names
    )


@pytest.mark.slow
def test_without_extras_it_asks_for_numpy_jax_and_flax(wheel: Path):
    (distribution,) = metadata.distributions(path=[str(wheel)])
    required = [Requirement(line) for line in distribution.requires or ()]
    assert sorted(asked.name for asked in required if not asked.marker) == ["flax", "jax", "numpy"]
    assert set(distribution.metadata.get_all("Provides-Extra")) == {"train", "tpu", "gpu", "gcs", "dev"}
