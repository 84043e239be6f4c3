"""The update as in nanoGPT: global-norm clipping, weight decay on matrices only, cosine schedule with warm-up.

The input matrix of every arm, table or projection, has the decay and the learning rate of the body's kernels;
embedding.lr_mult scales its whole update, decay included.
"""

import pkgutil
from typing import Any

import ml_collections
import optax

from kronecker.model import accounting
from kronecker.schema import choices


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Returns the learning rate by finished updates: linear warm-up to train.lr, then a cosine to lr_final of it."""
    t = config.train
    return optax.warmup_cosine_decay_schedule(
        init_value=t.lr / (t.warmup_steps + 1),
        peak_value=t.lr,
        warmup_steps=t.warmup_steps,
        decay_steps=t.steps,
        end_value=t.lr * t.lr_final,
    )


def make_optimizer(config: ml_collections.ConfigDict, decays: Any) -> optax.GradientTransformation:
    """Returns the optimizer of a resolved config; `decays`, a tree of bools, selects the parameters with decay."""
    t = config.train
    maker, arguments = choices.OPTIMIZERS[t.optimizer]
    return optax.chain(
        optax.clip_by_global_norm(t.clip) if t.clip else optax.identity(),
        pkgutil.resolve_name(maker)(*(t[key] for key in arguments)),
        optax.add_decayed_weights(t.weight_decay, mask=decays),
        optax.masked(optax.scale(config.embedding.lr_mult), lambda params: {k: k == accounting.INPUT for k in params}),
        optax.scale_by_learning_rate(make_schedule(config)),
    )
