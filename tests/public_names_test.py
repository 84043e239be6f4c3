"""What `import kronecker` offers, and what that costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kronecker

ROOT = Path(__file__).parents[1]
# Refuses each import that a module of ours makes, at any time, of anything but Python's own and these.
ALONE = """
import builtins, sys

found = builtins.__import__
ALLOWED = {"kronecker", "numpy", "jax", "flax", *sys.stdlib_module_names}

def only(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__") or ""
    if importer.partition(".")[0] == "kronecker" and name.partition(".")[0] not in ALLOWED:
        raise ImportError(f"{importer} imports {name}")
    return found(name, globals, locals, fromlist, level)

builtins.__import__ = only
"""
STEP = """
import kronecker
assert not {"jax", "numpy"} & set(sys.modules)
import jax, jax.numpy as jnp, optax

ids = jnp.arange(12).reshape(3, 4)
code = kronecker.kronecker_code(kronecker.byte_table([bytes([i]) * i for i in range(12)], pos_dim=16))
layer = kronecker.KroneckerEmbed(features=8, code=code)
variables = layer.init(jax.random.key(0), ids)
loss = lambda params: (layer.apply(variables | {"params": params}, ids) ** 2).mean()
optimizer = optax.sgd(1e-4)
before, gradient = jax.value_and_grad(loss)(variables["params"])
updates, _ = optimizer.update(gradient, optimizer.init(variables["params"]))
assert loss(optax.apply_updates(variables["params"], updates)) < before
assert not {"kronecker.runtime.storage", "ml_collections"} & set(sys.modules)
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_the_layer_imports_and_trains_with_numpy_jax_and_flax_alone():
    done = python(ALONE + STEP)
    assert done.returncode == 0, done.stderr
    refused = python(ALONE + "import kronecker.runtime.storage")
    assert "ImportError: kronecker.runtime.storage imports" in refused.stderr


def test_type_checkers_read_the_names_that_python_finds():
    tree = ast.parse((ROOT / "kronecker/__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    read = {alias.asname: f"{node.module}" for node in block.body for alias in node.names}
    homes = {name: f"kronecker.{home}" for name, home in kronecker._HOME.items()}
    assert read == homes | {"nnx": "kronecker"}


def test_each_name_is_there_and_listed():
    assert set(kronecker.__all__) <= set(dir(kronecker))
    for name in kronecker.__all__:
        assert getattr(kronecker, name).__name__.removeprefix("kronecker.") == name


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(
        AttributeError, match="no attribute 'Kronecker'; public names: Bag, BagEmbed, ByteTable, Code, Kron"
    ):
        kronecker.Kronecker  # noqa: B018
