"""The input side of a model alone: its embeddings, the gradient of its one trained matrix, and a training update.

Pure functions for `jax.jit`; benchmarks time and compile them.

Shapes: N tokens, M rows of the trained matrix, d model width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from kronecker.embedding import bags
from kronecker.model import accounting
from kronecker.training import optimizer

Embed = Callable[[jax.Array, bags.Bag | None, jax.Array], jax.Array]


class InputSide(NamedTuple):
    """The functions of an input side."""

    # (matrix (M, d)) -> (params, opt_state), arguments of `update` that may be donated
    init: Callable[[jax.Array], tuple[dict[str, Any], Any]]
    forward: Embed  # (matrix (M, d), bag, ids (N,)) -> embeddings (N, d)
    # (matrix (M, d), bag, ids (N,), cotangent (N, d)) -> (embeddings (N, d), gradient (M, d))
    gradient: Callable[[jax.Array, bags.Bag | None, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    # (params, opt_state, bag, ids (N,), cotangent (N, d)) -> (params, opt_state, embeddings (N, d))
    update: Callable[
        [dict[str, Any], Any, bags.Bag | None, jax.Array, jax.Array], tuple[dict[str, Any], Any, jax.Array]
    ]


def make_input_side(embed: Embed, config: ml_collections.ConfigDict) -> InputSide:
    """Returns the functions of an input side with training's optimizer; `config` is resolved."""
    tx = optimizer.make_optimizer(config, decays={accounting.INPUT: True})

    def init(matrix_Md):
        params = {accounting.INPUT: matrix_Md}
        return params, tx.init(params)

    def gradient(matrix_Md, bag, ids_N, grad_Nd):
        out_Nd, pullback = jax.vjp(lambda matrix: embed(matrix, bag, ids_N), matrix_Md)
        return out_Nd, pullback(grad_Nd)[0]

    def update(params, opt_state, bag, ids_N, grad_Nd):
        out_Nd, grad_Md = gradient(params[accounting.INPUT], bag, ids_N, grad_Nd)
        updates, opt_state = tx.update({accounting.INPUT: grad_Md}, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, out_Nd

    return InputSide(init, embed, gradient, update)
