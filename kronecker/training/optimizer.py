"""The update as in nanoGPT: global-norm clipping, weight decay on matrices only, cosine schedule with warm-up.

The input matrix of every arm, table or projection, has the learning rate and the decay of the body's kernels, times
embedding.lr_mult and embedding.decay_mult.
"""

import pkgutil
from typing import Any

import jax
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
    t, e = config.train, config.embedding
    maker, arguments = choices.OPTIMIZERS[t.optimizer]
    # Checkpoints hold the states of these by their places and types.
    return optax.chain(
        _clip(t),
        pkgutil.resolve_name(maker)(*(t[key] for key in arguments)),
        optax.masked(_decay(t.weight_decay, e.decay_mult / e.lr_mult), decays),
        _of_input(optax.scale(e.lr_mult)),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


def clipped_norms(config: ml_collections.ConfigDict, gradient: dict[str, Any]) -> list[jax.Array]:
    """Returns the norms that clipping compares with train.clip: the global one, or the input's and the rest's."""
    if not config.train.clip_by_group:
        return [optax.tree.norm(gradient)]
    is_input = _is_input(gradient)
    return [optax.tree.norm({k: part for k, part in gradient.items() if is_input[k] == own}) for own in (True, False)]


def _clip(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
    if not train.clip:
        return optax.identity()
    clip = optax.clip_by_global_norm(train.clip)
    if not train.clip_by_group:
        return clip
    return optax.chain(
        _of_input(clip), optax.masked(clip, lambda tree: {k: not own for k, own in _is_input(tree).items()})
    )


def _decay(rate: float, of_input: float) -> optax.GradientTransformation:
    """Adds the decay to the updates; that of the input is `of_input` times the others', before lr_mult scales both."""

    def add(updates: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        def decayed(name: str, own: bool) -> Any:
            return jax.tree.map(lambda u, p: u + rate * (of_input if own else 1) * p, updates[name], params[name])

        return {name: decayed(name, own) for name, own in _is_input(updates).items()}

    return optax.stateless(add) if rate else optax.identity()


def _of_input(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.masked(transformation, _is_input)


def _is_input(tree: dict[str, Any]) -> dict[str, bool]:
    return {name: name == accounting.INPUT for name in tree}
