"""Trains a published Llama on with its own table, and with a code in place of it: one start, one order of the batches.

All parameters are trained.  A code's arm begins with the stretched fit by occurrence; ARM/unfitted, its control, with a
random W at the same scale.  An arm with a head of its own begins with the model's, or with a copy of its table if that
is the model's head.

Shapes: V vocabulary, B batch, T time.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kronecker.data import manifests, rows, unigrams
from kronecker.embedding import bags, codec, implementations, linen
from kronecker.interop import graft, llama, llama_weights
from kronecker.model import accounting, build
from kronecker.schema import arms, resolution
from kronecker.training import train_step

UNFITTED = "/unfitted"  # after an arm's name


class _Start(NamedTuple):
    model: llama.Llama
    params: dict[str, Any]
    bag: bags.Bag | None


def configs_of(config: ml_collections.ConfigDict, names: list[str], tied: bool) -> dict[str, ml_collections.ConfigDict]:
    """Returns each arm's config, for a model whose head is its table (`tied`) or its own.

    Raises ValueError if an arm has neither a table nor a code, or another head than the model.
    """
    return {name: _config_of(config, name, tied) for name in names}


def train(
    original: llama_weights.Model,
    configs: dict[str, ml_collections.ConfigDict],
    token_bytes: tuple[bytes | None, ...],
    prepared: manifests.Prepared,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Returns the residuals of the fits and each arm's losses, ready for JSON.

    `configs` are from `configs_of`; the arms are trained in this order.  Raises ValueError if the text has ids beyond
    the model's vocabulary, which have no row.
    """
    vocab = original.shape.vocab_size
    counts_V, held_out_V = (
        unigrams.sampled(prepared, split, vocab, graft.COUNTED) for split in ("train", "validation")
    )
    fits, results = {}, {}
    for name, own in configs.items():
        say(f"{name}:")
        unfitted = name.endswith(UNFITTED)
        start, fitted = _start(original, own, token_bytes[:vocab], counts_V, held_out_V, unfitted)
        evaluate = _evaluator(start, own, prepared)
        if fitted:
            fits[name] = fitted.residuals
            for measure, share in fits[name].items():
                say(f"  {measure}: {share:.4f}")
            for measure, fit in (("uniform fit", fitted.uniform), ("fit by occurrence", fitted.by_occurrence)):
                other = start.params | {accounting.INPUT: {"projection": jnp.asarray(fit, jnp.float32)}}
                fits[name][f"loss of the {measure}"] = evaluate(other)
                say(f"  loss of the {measure}: {fits[name][f'loss of the {measure}']:.4f}")
        results[name] = _go_on(start, own, prepared, evaluate, say)
    return {"counted": {"train": int(counts_V.sum()), "held out": int(held_out_V.sum())}, "fits": fits, "arms": results}


def _config_of(config: ml_collections.ConfigDict, name: str, tied: bool) -> ml_collections.ConfigDict:
    arm = arms.ARMS.get(name.removesuffix(UNFITTED))
    if arm is None:
        raise ValueError(f"--arms={name}: no such arm; there are {', '.join(arms.ARMS)}, and CODE{UNFITTED}")
    if name.endswith(UNFITTED) and not arm.kind.is_code:
        raise ValueError(f"--arms={name}: it has no fit to leave out; write {arm.name}, or kronecker{UNFITTED}")
    if arm.kind is not arms.TABLE and not arm.kind.is_code:
        raise ValueError(f"--arms={name}: it is neither a table nor a code alone; choose another arm")
    if arm.tie_head and (arm.kind.bag or not tied):
        raise ValueError(f"--arms={name}: its head is not the model's; choose an arm with a head of its own")
    if config.embedding.scale != 1 or config.model.unigram_bias:
        raise ValueError("embedding.scale and model.unigram_bias are for models trained from scratch; leave them unset")
    own = config.copy_and_resolve_references()
    own.update_from_flattened_dict(arm.overrides)
    return resolution.resolve(own)


def _start(
    original: llama_weights.Model,
    config: ml_collections.ConfigDict,
    token_bytes: tuple[bytes | None, ...],
    counts_V: np.ndarray,
    held_out_V: np.ndarray,
    unfitted: bool,
) -> tuple[_Start, graft.Grafted | None]:
    """Returns an arm before its first step, with the fit of a code that has one."""
    c, width, tied = config.embedding, original.shape.d_model, config.model.tie_head
    if arms.kind(c.kind).is_code:
        codes = codec.byte_table(token_bytes, c.pos_dim, 0, c.truncation)
        bag = build.make_bag(codes, c.kind, c.norm, build.draw(config))
        fitted = None if unfitted else graft.graft(bag, original.table, counts_V, held_out_V)
        own = {
            "projection": fitted.projection if fitted else graft.unfitted(bag, original.table, counts_V, config.seed)
        }
        bag = implementations.prepare(bag, c.implementation, platform=jax.default_backend())
        embed = linen.BagEmbed(bag.rows, width, init_std=c.init_std)
    else:
        bag = fitted = None
        embed = linen.TableEmbed(len(original.table), width)
        own = {"table": original.table}
    params = original.params | {accounting.INPUT: own}
    if not tied:
        params |= {accounting.HEAD: params.get(accounting.HEAD, original.table.T)}
    model = llama.Llama(dataclasses.replace(original.shape, tie_head=tied), embed)
    return _Start(model, jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params), bag), fitted


def _go_on(
    start: _Start,
    config: ml_collections.ConfigDict,
    prepared: manifests.Prepared,
    evaluate: Callable[[dict[str, Any]], float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Trains an arm and returns its losses: of every batch, and on held-out text by the number of steps before it."""
    t = config.train
    state = jax.jit(lambda params: train_step.state_of(start.model, start.bag, config, params))(start.params)
    update = jax.jit(train_step.make_train_step(start.model, config), donate_argnums=0)
    weights = jnp.ones((t.batch, t.sequence))
    batches = rows.train_batches(prepared, t.sequence, t.batch, config.seed)
    held_out, training, began = [], [], time.monotonic()
    for step in range(t.steps + 1):
        if step in (0, t.steps) or (config.eval.every and step % config.eval.every == 0):
            held_out.append([step, evaluate(state.params)])
            say(f"  step {step:,}: held-out loss {held_out[-1][1]:.4f} ({time.monotonic() - began:.0f} s)")
        if step < t.steps:
            state, metrics = update(state, start.bag, jnp.asarray(next(batches)), weights)
            training.append(float(metrics.loss))
    return {"held out": held_out, "train": training, "parameters": accounting.count(state.params)}


def _evaluator(
    start: _Start, config: ml_collections.ConfigDict, prepared: manifests.Prepared
) -> Callable[[dict[str, Any]], float]:
    step = jax.jit(train_step.make_eval_step(start.model))
    no_bytes = jnp.zeros(start.model.shape.vocab_size)

    def loss(params: dict[str, Any]) -> float:
        batches = rows.validation_batches(prepared, config.train.sequence, config.eval.batch, config.eval.sequences)
        sums = [step(params, start.bag, no_bytes, jnp.asarray(ids), jnp.asarray(w)) for ids, w in batches]
        return float(sum(one.nats for one in sums) / sum(one.tokens for one in sums))

    return loss
