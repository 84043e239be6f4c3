"""The product on two devices, in a process of its own: how many there are is settled when JAX starts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kronecker import implementations

ROWS, WIDTH = 256 * 8, 24
CHILD = """
import json, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from kronecker import bag as bags, codec, implementations, sharding

mesh = sharding.make_mesh()
rng = np.random.default_rng(8)
tokens = [rng.integers(0, 256, length, np.uint8).tobytes() for length in range(9) for _ in range(4)]
table = codec.byte_table(tokens, 8)
ids = jnp.asarray(rng.integers(0, len(tokens), (4, 33)))
weights = jax.random.normal(jax.random.key(0), (table.code_dim, 24))
whole, split = sharding.replicated(mesh), sharding.split_batch(mesh)
out = {}
for name in implementations.IMPLEMENTATIONS:
    bag = implementations.prepare(bags.kronecker_bag(table), name)
    both = lambda mesh: jax.value_and_grad(lambda w, ids: (implementations.product(w, bag, ids, mesh=mesh) ** 3).sum())
    shared = jax.jit(both(mesh), in_shardings=(whole, split), out_shardings=whole)
    (loss, gradient), (alone, alone_gradient) = shared(weights, ids), both(None)(weights, ids)
    out[name] = {
        "loss": float(abs(loss - alone) / abs(alone)),
        "gradient": float(abs(gradient - alone_gradient).max() / abs(alone_gradient).max()),
        "program": shared.lower(weights, ids).compile().as_text(),
    }
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def on_two_devices() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("implementation", implementations.IMPLEMENTATIONS)
def test_two_devices_give_the_loss_and_gradient_of_one(on_two_devices: dict[str, dict], implementation: str):
    assert on_two_devices[implementation]["loss"] < 1e-5
    assert on_two_devices[implementation]["gradient"] < 1e-5


@pytest.mark.parametrize("implementation", implementations.IMPLEMENTATIONS)
def test_devices_exchange_the_sum_of_the_projections_gradient_alone(
    on_two_devices: dict[str, dict], implementation: str
):
    program = on_two_devices[implementation]["program"]
    collectives = re.findall(
        r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", program
    )
    sizes = re.findall(r"f32\[([0-9,]*)\]", " ".join(collectives))
    assert sorted(sizes) == sorted(["", f"{ROWS},{WIDTH}"])  # the loss, and the gradient of W
