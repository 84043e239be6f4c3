"""How a state is laid out whose arrays are not all shaped like parameters: that of Muon and of Adafactor."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from kronecker.runtime import declared, sharding
from kronecker.schema import choices

ROOT = Path(__file__).parents[2]
CHILD = """
import json, jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np, optax
from configs import base
from kronecker.model import build
from kronecker.runtime import declared, device_mesh, sharding
from kronecker.schema import resolution

OPTIMIZERS = {"muon": optax.contrib.muon(1e-2), "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=8)}
tokens = [bytes([i]) for i in range(256)]
c = base.apply(base.get_config(), {"model.layers": 2, "model.heads": 2, "model.d_model": 16, "embedding.pos_dim": 8,
    "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
c = resolution.with_vocabulary(resolution.resolve(c, 8), len(tokens))
mesh = device_mesh.make_mesh(c)
arm = build.build(c, tokens, mesh)
one = np.zeros((1, 1), np.int32), arm.bag
params = jax.jit(arm.model.init)(jax.random.key(0), *one)["params"]
keys = iter(jax.random.split(jax.random.key(1), 100))
grads = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params)
out = {}
for name, tx in OPTIMIZERS.items():
    def update(state, grads):
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}
    state = {"params": params, "opt_state": tx.init(params)}
    want = jax.jit(update)(state, grads)
    like = sharding.with_shardings(state, declared.of(arm.model, *one), mesh)
    layout = jax.tree.map(lambda x: x.sharding, like)
    split, own = jax.device_put((state, grads), (layout, layout["params"]))
    got = jax.jit(update, out_shardings=layout)(split, own)
    off = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a, np.float32) - b).max()), want["params"], got["params"])
    leaves = jax.tree_util.tree_leaves_with_path(got["opt_state"])
    parts = {jax.tree_util.keystr(p, simple=True, separator="/"): x.size / x.addressable_shards[0].data.size
             for p, x in leaves}
    out[name] = {"off": max(jax.tree.leaves(off)), "parts": parts}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def updated() -> dict[str, dict]:
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_an_update_on_eight_devices_is_that_of_one(updated: dict[str, dict], optimizer: str):
    assert updated[optimizer]["off"] < 1e-5


def parts_of(updated: dict[str, dict], optimizer: str, name: str, parameter: str) -> float:
    (parts,) = (
        parts
        for path, parts in updated[optimizer]["parts"].items()
        if f"/{name}/" in path and path.endswith(f"/{name}/{parameter}")
    )
    return parts


@pytest.mark.slow
def test_moments_are_split_as_their_parameters_are(updated: dict[str, dict]):
    (muon,) = (n for path, n in updated["muon"]["parts"].items() if "muon" in path and path.endswith("mu/head"))
    assert muon == 4
    (adam,) = (n for path, n in updated["muon"]["parts"].items() if path.endswith("nu/blocks/up/kernel"))
    assert adam == 4


@pytest.mark.slow
def test_factored_moments_are_split_along_the_axes_that_they_kept(updated: dict[str, dict]):
    kept = {parts_of(updated, "adafactor", name, "embed/projection") for name in ("v_row", "v_col")}
    assert kept == {1, 2}  # the code is not split, the width is
    assert parts_of(updated, "adafactor", "v", "embed/projection") == 1  # a placeholder
    kept = {parts_of(updated, "adafactor", name, "blocks/up/kernel") for name in ("v_row", "v_col")}
    assert kept == {2}  # width, and hidden: each with the layers


@pytest.mark.slow
def test_what_belongs_to_no_parameter_is_on_every_device(updated: dict[str, dict]):
    counts = {n for path, n in updated["muon"]["parts"].items() if path.endswith(("count", "ns_coeffs"))}
    assert counts == {1}


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 16, 16), PartitionSpec("tensor", "fsdp", None)),
        ((8, 16), PartitionSpec()),  # vocab and width, or vocab and rank
        ((16, 16), PartitionSpec("fsdp", None)),
        ((8,), PartitionSpec("tensor")),
        ((16,), PartitionSpec()),
        ((3, 5), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_an_array_is_split_where_its_sizes_tell_which_axes_it_has(shape: tuple[int, ...], spec: PartitionSpec):
    box = declared.Declared(jax.ShapeDtypeStruct((8, 16, 16), jnp.float32), ("vocab", "width", "rank"))
    tree = {"row": {"own": jax.ShapeDtypeStruct(shape, jnp.float32)}}
    laid_out = sharding.with_shardings(tree, {"own": box}, AbstractMesh((1, 2, 2), choices.MESH_AXES))
    assert laid_out["row"]["own"].sharding.spec == spec
