"""Meshes of simulated devices: what they compute, where they keep it, and what they refuse."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from jax.sharding import PartitionSpec

from configs import base
from kronecker.runtime import declared, sharding
from kronecker.schema import choices, resolution

ROOT = Path(__file__).parents[2]
MESHES = {"8": (8, 1, 1), "4x2x1": (4, 2, 1), "2x2x2": (2, 2, 2)}
ARMS = ("kronecker", "kronecker_tied", "table_tied")  # the three ways to embed and to end
CHILD = """
import json, sys, jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np
from configs import arms, base
from kronecker.model import build
from kronecker.runtime import declared, device_mesh, sharding
from kronecker.schema import resolution
from kronecker.training import train_step

tokens = [bytes([i]) for i in range(256)] + [f"word{i}".encode() for i in range(250)]
rng = np.random.default_rng(8)
batch = rng.integers(0, len(tokens), (16, 17)).astype(np.int32)
weights = rng.integers(1, 3, (16, 16)).astype(np.float32)

def on(arm, sizes):
    c = base.apply(base.get_config(), arms.ARMS[arm] | {
        "model.layers": 1, "model.heads": 2, "model.d_model": 16, "model.context": 16, "train.batch": 16,
        "train.sequence": 16, "train.steps": 1, "embedding.pos_dim": 8,
        "embedding.rank": 8 if arm == "factorized" else 0,
        "mesh.data": sizes[0], "mesh.fsdp": sizes[1], "mesh.tensor": sizes[2]})
    devices = jax.devices()[: int(np.prod(sizes))]
    c = resolution.with_vocabulary(resolution.resolve(c, len(devices)), len(tokens))
    mesh = device_mesh.make_mesh(c, devices)
    arm = build.build(c, tokens, mesh)
    bag = sharding.replicate(arm.bag, mesh)
    state = train_step.init_on_mesh(arm.model, bag, c, train_step.abstract_state(arm.model, bag, c, mesh))
    step = train_step.make_train_step(arm.model, c)
    ids, scale = (jax.device_put(x, sharding.split_batch(mesh)) for x in (batch, weights))
    lowered = jax.jit(step).lower(state, bag, ids, scale)
    after, metrics = lowered.compile()(state, bag, ids, scale)
    adam = next(part for part in after.opt_state if hasattr(part, "mu"))  # its mean is .1 of the clipped gradient
    paths = jax.tree_util.tree_leaves_with_path(adam.mu)
    gradient = {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in paths}
    kept = {jax.tree_util.keystr(p, simple=True, separator="/"): x.addressable_shards[0].data.size / x.size
            for p, x in jax.tree_util.tree_leaves_with_path(state.params)}
    return float(metrics.loss), gradient, kept

out = {}
for arm in json.loads(sys.argv[2]):
    loss, gradient, _ = on(arm, (1, 1, 1))
    largest = max(np.abs(x).max() for x in gradient.values())
    for name, sizes in json.loads(sys.argv[1]).items():
        if name == "8" and arm != "kronecker":  # two devices of one axis: implementations_on_devices_test.py
            continue
        its_loss, its_gradient, kept = on(arm, sizes)
        off = max(float(np.abs(x - gradient[path]).max() / largest) for path, x in its_gradient.items())
        out[f"{arm} {name}"] = {"loss": abs(its_loss - loss), "gradient": off, "kept": kept}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def computed() -> dict[str, dict]:
    command = [sys.executable, "-c", CHILD, json.dumps(MESHES), json.dumps(ARMS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "mesh"), [*itertools.product(ARMS, ("4x2x1", "2x2x2")), ("kronecker", "8")])
def test_loss_and_gradient_are_those_of_one_device(computed: dict[str, dict], arm: str, mesh: str):
    assert computed[f"{arm} {mesh}"]["loss"] < 1e-5
    assert computed[f"{arm} {mesh}"]["gradient"] < 1e-5


@pytest.mark.slow
def test_a_device_keeps_its_part_of_the_parameters_alone(computed: dict[str, dict]):
    kept = computed["kronecker 2x2x2"]["kept"]
    assert kept["blocks/up/kernel"] == kept["blocks/attention/qkv/kernel"] == kept["head"] == 1 / 4
    assert kept["embed/projection"] == kept["positions"] == 1 / 2  # along the width
    assert kept["final_norm/scale"] == 1
    assert set(computed["kronecker 8"]["kept"].values()) == {1}


def sizes(**own: int) -> ml_collections.ConfigDict:
    return base.apply(base.get_config(), {f"mesh.{axis}": size for axis, size in own.items()}).mesh


def test_the_rest_of_the_devices_goes_to_the_axis_of_minus_one():
    assert resolution.mesh_sizes(sizes(), 8) == (8, 1, 1)
    assert resolution.mesh_sizes(sizes(fsdp=4), 8) == (2, 4, 1)
    assert resolution.mesh_sizes(sizes(data=2, fsdp=-1, tensor=2), 8) == (2, 2, 2)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"fsdp": 3},
            "mesh.data=-1, mesh.fsdp=3, mesh.tensor=1: the axes multiply to 3, which does not divide 8 devices",
        ),
        ({"data": 4}, "mesh.data=4, mesh.fsdp=1, mesh.tensor=1: the axes multiply to 4, not 8 devices"),
    ],
)
def test_sizes_that_do_not_make_up_the_devices_are_refused(own: dict[str, int], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolution.mesh_sizes(sizes(**own), 8)


def test_a_batch_that_the_mesh_cannot_split_is_refused():
    c = base.apply(base.get_config(), {"train.batch": 12, "eval.batch": 8, "mesh.fsdp": 2})
    with pytest.raises(
        ValueError, match=r"12 sequences, not divisible by the 8 devices that split a batch \(mesh.data 4 x"
    ):
        resolution.resolve(c, 8)
    assert resolution.resolve(c, 4).train.batch == 12


def box(axes: tuple[str, ...], shape: tuple[int, ...]) -> declared.Declared:
    return declared.Declared(jax.ShapeDtypeStruct(shape, jnp.float32), axes, decays=True, is_input=False)


def test_logical_names_become_axes_of_the_mesh():
    assert sharding.spec_of(("vocab", "width"), "embed/table") == PartitionSpec("tensor", "fsdp")
    assert sharding.spec_of(("code", "width"), "embed/projection") == PartitionSpec(None, "fsdp")


def test_an_unknown_name_is_refused_with_the_path():
    with pytest.raises(ValueError, match=r"embed/table: sharding.RULES has no logical axis 'vocabulary'; allowed"):
        sharding.spec_of(("vocabulary", "width"), "embed/table")


def test_two_axes_over_one_of_the_mesh_are_refused_with_the_path():
    with pytest.raises(
        ValueError, match=r"new: .* splits two of its axes \(vocab, hidden\) over the mesh axis 'tensor'"
    ):
        sharding.spec_of(("vocab", "hidden"), "new")


def test_an_axis_that_does_not_divide_is_refused_with_the_path():
    mesh = jax.sharding.AbstractMesh((1, 2, 1), choices.MESH_AXES)
    with pytest.raises(
        ValueError, match=r"positions: its axis 'width' has size 7, which is not divisible by mesh.fsdp=2"
    ):
        sharding.with_shardings({}, {"positions": box(("time", "width"), (4, 7))}, mesh)
