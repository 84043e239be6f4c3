"""AdamW as nanoGPT sets it up: decay on matrices alone, cosine with warm-up, global-norm clipping.

Every arm's input matrix, table or projection, gets the same decay and the same learning rate as the body's kernels,
unless embedding.lr_mult says otherwise; the multiplier scales the whole update, decay included.
"""

from typing import Any

import jax
import ml_collections
import optax

from kronecker.model import accounting


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Returns the learning rate by finished updates: a linear rise to train.lr, then a cosine to lr_final of it."""
    t = config.train
    return optax.warmup_cosine_decay_schedule(
        init_value=t.lr / (t.warmup_steps + 1),
        peak_value=t.lr,
        warmup_steps=t.warmup_steps,
        decay_steps=t.steps,
        end_value=t.lr * t.lr_final,
    )


def make_optimizer(config: ml_collections.ConfigDict, decays: Any) -> optax.GradientTransformation:
    """Returns the optimizer of a resolved config; it clips first, and decays what `decays`, a tree of bools, says."""
    t = config.train
    return optax.chain(
        optax.clip_by_global_norm(t.clip) if t.clip else optax.identity(),
        optax.scale_by_adam(t.beta1, t.beta2, t.eps),
        optax.add_decayed_weights(t.weight_decay, mask=decays),
        optax.masked(optax.scale(config.embedding.lr_mult), is_input),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


def is_input(params: Any) -> Any:
    """Returns which leaves belong to the input embedding."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == accounting.INPUT, params)
