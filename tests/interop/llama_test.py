"""Llama's decoder against transformers 5.24: logits of one small random model, which was written by llama_models."""

from pathlib import Path

import jax
import jax.numpy as jnp
import llama_models
import numpy as np
import pytest

from kronecker.embedding import linen
from kronecker.interop import llama, llama_weights

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2]])
# Of LlamaForCausalLM: the logits of six ids at the last place, and the sum of all log-sum-exps.
EXPECTED = {
    True: (
        [
            [-0.47891, -2.03605, -0.50838, -0.05344, 1.43077, -0.61325],
            [1.2283, 1.27787, 0.13011, 0.08367, -2.59741, 0.17582],
        ],
        117.07698,
    ),
    False: (
        [
            [-0.40598, 0.4332, -0.66126, -0.41197, -0.56317, -0.11929],
            [-0.8354, 0.11792, -0.70956, -0.16222, -0.63762, -0.46169],
        ],
        107.09887,
    ),
}


@pytest.mark.parametrize(("tied", "in_gguf"), [(True, False), (False, False), (True, True)])
def test_the_logits_are_those_of_transformers(tmp_path: Path, tied: bool, in_gguf: bool):
    write = llama_models.write_gguf if in_gguf else lambda path: llama_models.write_folder(path, tied)
    shape, params, table = llama_weights.read(write(tmp_path / ("model.gguf" if in_gguf else "model")))
    model = llama.Llama(shape, linen.TableEmbed(*table.shape))
    params = params | {"embed": {"table": table}}
    expected_shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IDS))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected_shapes)
    logits = model.apply({"params": params}, IDS)
    last, total = EXPECTED[tied]
    assert logits[:, -1, :6] == pytest.approx(np.array(last), abs=2e-5)
    assert jax.nn.logsumexp(logits, axis=-1).sum() == pytest.approx(total, abs=2e-4)


def test_rotary_positions_leave_products_that_depend_on_the_distance_alone():
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 8)).astype(np.float32)
    turned_q, turned_k = (llama.rotate(jnp.tile(x, (1, 12, 1, 1)), 100.0)[0, :, 0] for x in (q, k))
    products = turned_q @ turned_k.T
    assert np.diagonal(products) == pytest.approx(float((q * k).sum()), rel=1e-4)
    assert np.diagonal(products, 3) == pytest.approx(float(products[0, 3]), rel=1e-4)
    assert abs(products[0, 3] - products[0, 0]) > 0.1
