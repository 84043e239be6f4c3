"""The head and the loss behind it: exact whatever the chunk, on one device and on several, in less memory."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kronecker.model import output_head

ROOT = Path(__file__).parents[2]
B, T, D, V, REAL = 4, 12, 16, 128, 100


def problem(dtype: str = "float32") -> tuple[output_head.Head, jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 4)
    made = output_head.Head(jax.random.normal(keys[0], (D, V)), REAL, dtype)
    targets = jax.random.randint(keys[2], (B, T), 0, REAL)
    return made, jax.random.normal(keys[1], (B, T, D)), targets, jax.random.uniform(keys[3], (B, T))


def plain_sum(made: output_head.Head, x: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """The textbook loss, differentiated by JAX."""
    logits = jnp.where(jnp.arange(V) < REAL, x @ made.matrix, -jnp.inf)
    return (optax.softmax_cross_entropy_with_integer_labels(logits, targets) * weights).sum()


@pytest.mark.parametrize("chunk", [0, 1, 8, 20, 48, 1000])
def test_loss_and_gradients_are_the_plain_ones_to_1e_6_whatever_the_chunk(chunk: int):
    made, x, targets, weights = problem()
    want, (head_want, x_want) = jax.value_and_grad(plain_sum, (0, 1))(made, x, targets, weights)
    got, (head_got, x_got) = jax.jit(
        jax.value_and_grad(lambda h, x: output_head.nats_sum(h, x, targets, weights, chunk), (0, 1))
    )(made, x)
    assert got == pytest.approx(float(want), rel=1e-6)
    for one, other in zip(jax.tree.leaves((head_got, x_got)), jax.tree.leaves((head_want, x_want)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * float(jnp.abs(other).max()))
    assert not head_got.matrix[:, REAL:].any()


@pytest.mark.parametrize("chunk", [0, 8, 20])
def test_nats_of_single_tokens_are_the_plain_ones_whatever_the_chunk(chunk: int):
    made, x, targets, _ = problem()
    want = optax.softmax_cross_entropy_with_integer_labels(made.logits(x), targets)
    np.testing.assert_allclose(output_head.token_nats(made, x, targets, chunk), want, rtol=1e-6)


def test_a_scaled_cotangent_scales_the_gradients():
    made, x, targets, weights = problem()
    one = jax.grad(lambda x: output_head.nats_sum(made, x, targets, weights))(x)
    tripled = jax.grad(lambda x: 3.0 * output_head.nats_sum(made, x, targets, weights))(x)
    np.testing.assert_allclose(tripled, 3.0 * one, rtol=1e-6)


def test_bfloat16_products_leave_gradients_near_the_exact_ones_and_in_the_parameters_type():
    made, x, targets, weights = problem("bfloat16")
    exact = jax.grad(plain_sum)(made, x, targets, weights).matrix
    rounded = jax.grad(output_head.nats_sum)(made, x, targets, weights, 16).matrix
    assert rounded.dtype == jnp.float32
    error = float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))
    assert 0 < error < 0.01


def test_chunks_shrink_the_programs_temporaries():
    padded, width = 8192, 32
    made = output_head.Head(jnp.zeros((width, padded)), padded, "float32")
    x, targets, weights = jnp.zeros((4, 128, width)), jnp.zeros((4, 128), jnp.int32), jnp.ones((4, 128))

    def temporaries(chunk: int) -> int:
        gradient = jax.jit(jax.value_and_grad(lambda h, x: output_head.nats_sum(h, x, targets, weights, chunk), (0, 1)))
        return gradient.lower(made, x).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 4 * 128 * padded
    whole, parts = temporaries(0), temporaries(64)
    assert whole > logits
    assert parts < logits / 2


SCRIPT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from kronecker.model import output_head
from kronecker.runtime import device_mesh, sharding
from tests.model import output_head_test
mesh = device_mesh.make_mesh()
made, x, targets, weights = output_head_test.problem()
want = jax.value_and_grad(lambda h, x: output_head.nats_sum(h, x, targets, weights), (0, 1))(made, x)
split = sharding.split_batch(mesh)
placed = jax.device_put((x, targets, weights), split)

def compiled(mesh):
    gradient = jax.value_and_grad(lambda h, x, t, w: output_head.nats_sum(h, x, t, w, 4, mesh), (0, 1))
    return jax.jit(gradient).lower(whole, *placed).compile()

def sums_in_loops(text):
    parts = text.split("\\n\\n")
    return sum("all-reduce(" in part for part in parts if not part.lstrip().startswith("ENTRY"))

whole = sharding.replicate(made, mesh)
ours = compiled(mesh)
for a, b in zip(jax.tree.leaves(ours(whole, *placed)), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * float(np.abs(b).max()))
text = ours.as_text()
print("while(" in text, sums_in_loops(text), sums_in_loops(compiled(None).as_text()) > 0)
print(any(name in text for name in ("all-gather(", "all-to-all(", "collective-permute(")))
"""


def test_two_devices_sum_their_own_chunks_and_meet_once():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # a loop; no sum over devices in it, where the compiler by itself puts one; no row leaves its device
    assert done.stdout.split() == ["True", "0", "True", "False"]
