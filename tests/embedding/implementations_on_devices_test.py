"""The product on two devices, in a process of its own: how many there are is settled when JAX starts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kronecker.schema import choices

ROWS, WIDTH = 256 * 8, 24
SPLIT_WIDTH = ["onehot, few tokens", "onehot, many tokens"]
CHILD = """
import json, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
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
out = {}
for name in choices.IMPLEMENTATIONS:
    bag = implementations.prepare(bags.kronecker_bag(table), name)
    both = lambda mesh: jax.value_and_grad(lambda w, ids: (implementations.product(w, bag, ids, mesh=mesh) ** 3).sum())

    def beside_one_device(shared, weights, ids):
        (loss, gradient), (alone, alone_gradient) = shared(weights, ids), jax.jit(both(None))(weights, ids)
        return {
            "loss": float(abs(loss - alone) / abs(alone)),
            "gradient": float(abs(gradient - alone_gradient).max() / abs(alone_gradient).max()),
        }

    shared = jax.jit(both(mesh), in_shardings=(whole, split), out_shardings=whole)
    out[name] = beside_one_device(shared, weights, ids)
    out[name]["program"] = shared.lower(weights, ids).compile().as_text()
    if name == "onehot":
        columns = NamedSharding(fsdp, PartitionSpec(None, "fsdp"))
        layouts = {"in_shardings": (columns, sharding.split_batch(fsdp))}
        shared = jax.jit(both(fsdp), **layouts, out_shardings=(sharding.replicated(fsdp), columns))
        out[f"{name}, few tokens"] = beside_one_device(shared, weights, ids)
        out[f"{name}, many tokens"] = beside_one_device(shared, weights, jnp.tile(ids, (1, 48)))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def on_two_devices() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", [*choices.IMPLEMENTATIONS, *SPLIT_WIDTH])
def test_two_devices_give_the_loss_and_gradient_of_one(on_two_devices: dict[str, dict], case: str):
    assert on_two_devices[case]["loss"] < 1e-5
    assert on_two_devices[case]["gradient"] < 1e-5


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
