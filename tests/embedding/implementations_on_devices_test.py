"""The product on two devices, in a process of its own: how many there are is settled when JAX starts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kronecker.schema import choices

ROWS, WIDTH = 256 * 8, 24
SPLIT_WIDTH = ["onehot, few tokens", "onehot, many tokens", "onehot, undivided"]
THEIRS = [f"{name}, {how}" for name in choices.IMPLEMENTATIONS for how in ("own shard_map", "own names")]
CHILD = """
import json, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from kronecker.embedding import bags, codec, implementations
from kronecker.runtime import device_mesh, sharding
from kronecker.schema import choices

mesh, fsdp = device_mesh.make_mesh(), device_mesh.mesh_of((1, 2, 1))
rng = np.random.default_rng(8)
tokens = [rng.integers(0, 256, length, np.uint8).tobytes() for length in range(9) for _ in range(4)]
table = codec.byte_table(tokens, 8)
ids = jnp.asarray(rng.integers(0, len(tokens), (4, 33)))
weights = jax.random.normal(jax.random.key(0), (table.code_dim, 24))
whole, split = sharding.replicated(mesh), sharding.split_batch(mesh)
mine, spec = Mesh(np.array(jax.devices()), ("mine",), axis_types=(AxisType.Auto,)), PartitionSpec()
out = {}
for name in choices.IMPLEMENTATIONS:
    bag = implementations.prepare(bags.kronecker_bag(table), name)
    factor = lambda ids: ids[..., None] % 7 - 2  # an embedding at another token's place changes the loss
    loss_of = lambda **how: lambda w, ids: (implementations.product(w, bag, ids, **how) ** 3 * factor(ids)).sum()
    both = lambda mesh: jax.value_and_grad(loss_of(mesh=mesh))
    on_one = jax.jit(both(None))

    def beside_one_device(shared, weights, ids):
        (loss, gradient), (alone, alone_gradient) = shared(weights, ids), on_one(weights, ids)
        return {
            "loss": float(abs(loss - alone) / abs(alone)),
            "gradient": float(abs(gradient - alone_gradient).max() / abs(alone_gradient).max()),
        }

    shared = jax.jit(both(mesh), in_shardings=(whole, split), out_shardings=whole)
    out[name] = beside_one_device(shared, weights, ids)
    out[name]["program"] = shared.lower(weights, ids).compile().as_text()
    over = lambda w, ids: jax.lax.psum(loss_of()(w, ids), "mine")
    over = jax.shard_map(over, mesh=mine, in_specs=(spec, PartitionSpec("mine")), out_specs=spec, check_vma=True)
    named = jax.value_and_grad(loss_of(mesh=mine, batch_axes=("mine",)))
    short = weights.astype("bfloat16")
    out[f"{name}, bfloat16"] = beside_one_device(jax.jit(both(mesh), in_shardings=(whole, split)), short, ids)
    out[f"{name}, own shard_map"] = beside_one_device(jax.jit(jax.value_and_grad(over)), weights, ids)
    out[f"{name}, own names"] = beside_one_device(jax.jit(named), weights, ids)
    if name == "onehot":
        columns = NamedSharding(fsdp, PartitionSpec(None, "fsdp"))
        layouts = {"in_shardings": (columns, sharding.split_batch(fsdp))}
        shared = jax.jit(both(fsdp), **layouts, out_shardings=(sharding.replicated(fsdp), columns))
        for tokens, times in (("few", 45), ("many", 48)):  # of each device: fewer and more than 1.5 rows of W
            tiled = jnp.tile(ids, (1, times))
            out[f"{name}, {tokens} tokens"] = beside_one_device(shared, weights, tiled)
            out[f"{name}, {tokens} tokens"]["program"] = shared.lower(weights, tiled).compile().as_text()
        out[f"{name}, undivided"] = beside_one_device(jax.jit(both(fsdp)), weights, ids[:1])
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def on_two_devices() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", [*choices.IMPLEMENTATIONS, *SPLIT_WIDTH, *THEIRS])
def test_two_devices_give_the_loss_and_gradient_of_one(on_two_devices: dict[str, dict], case: str):
    assert on_two_devices[case]["loss"] < 1e-5
    assert on_two_devices[case]["gradient"] < 1e-5


@pytest.mark.parametrize("implementation", choices.IMPLEMENTATIONS)
def test_two_devices_sum_the_gradient_of_a_bfloat16_projection(on_two_devices: dict[str, dict], implementation: str):
    found = on_two_devices[f"{implementation}, bfloat16"]  # which XLA's compiler for CPUs aborts on in bfloat16
    assert max(found["loss"], found["gradient"]) < 2**-6


@pytest.mark.parametrize("implementation", choices.IMPLEMENTATIONS)
def test_devices_exchange_the_sum_of_the_projections_gradient_alone(
    on_two_devices: dict[str, dict], implementation: str
):
    program = on_two_devices[implementation]["program"]
    collectives = re.findall(
        r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", program
    )
    sizes = re.findall(r"f32\[([0-9,]*)\]", " ".join(collectives))
    assert sorted(sizes) == sorted(["", f"{ROWS},{WIDTH}"])  # the loss, and the gradient of W


def test_devices_that_split_the_width_exchange_embeddings_or_w_whichever_is_less(on_two_devices: dict[str, dict]):
    exchanged = ["all-to-all" in on_two_devices[f"onehot, {tokens} tokens"]["program"] for tokens in ("few", "many")]
    assert exchanged == [True, False]
