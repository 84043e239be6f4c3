"""Held-out loss in nats per token and in bits per byte of text."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from kronecker import tokenization
from kronecker.data import manifests, preparation, rows
from kronecker.model import build
from kronecker.runtime import sharding
from kronecker.training import train_step

ENOUGH_TOKENS = 50_000  # the loss over fewer depends too much on the choice of text


def batch_size(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Returns eval.batch, rounded up so that `mesh`, which may differ from the training's, can split it."""
    parts = sharding.batch_shards(mesh)
    return -(-config.eval.batch // parts) * parts


def held_out(
    prepared: manifests.Prepared, config: ml_collections.ConfigDict, mesh: Mesh
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns this host's validation batches, as of `rows.validation_batches`."""
    size, share = batch_size(config, mesh), sharding.host_share(mesh)
    return rows.validation_batches(prepared, config.train.sequence, size, config.eval.sequences, *share)


def few_tokens(prepared: manifests.Prepared, config: ml_collections.ConfigDict) -> str | None:
    """Returns a warning if few held-out tokens are evaluated, with the key to raise; else None."""
    every = prepared.tokens("validation") - 1
    used = min(every, config.eval.sequences * config.train.sequence or every)
    if used >= ENOUGH_TOKENS:
        return None
    if used < every:
        remedy = f"raise eval.sequences (now {config.eval.sequences}; 0: all {every:,} tokens)"
    elif config.data.split_field or config.data.source.startswith(preparation.PREPARED):
        remedy = "prepare more held-out text"
    else:
        remedy = f"raise data.validation_fraction (now {config.data.validation_fraction}) or use more text"
    return f"warning: {used:,} held-out tokens are evaluated; below {ENOUGH_TOKENS:,} the loss is noisy; {remedy}"


def make_evaluator(
    arm: build.Arm,
    config: ml_collections.ConfigDict,
    abstract_params: dict[str, Any],
    prepared: manifests.Prepared,
    tokenizer: tokenization.Tokenizer,
    mesh: Mesh,
    compile_with: Callable[[jax.stages.Lowered], jax.stages.Compiled] = jax.stages.Lowered.compile,
) -> Callable[..., dict[str, float] | None]:
    """Returns the compiled evaluate(params, stop=None) -> the numbers of a validation line of metrics.jsonl.

    It calls `stop` before each batch, and returns None once that returns True.
    `config` is resolved, and the bag of `arm` is on `mesh`.  `abstract_params` are shapes, types and shardings, or the
    parameters.  Bits per byte are those of the text as it was before the tokenizer, which may change some of it.
    """
    padded = np.zeros(arm.model.shape.padded_vocab, np.float32)  # ids beyond the tokenizer's have no text
    padded[: tokenizer.vocab_size] = tokenizer.text_bytes
    text_bytes = sharding.replicate(padded, mesh)
    step = train_step.make_eval_step(arm.model, config.train.loss_chunk)
    batch = train_step.abstract_batch(batch_size(config, mesh), config.train.sequence, mesh)
    lowered = jax.jit(step, out_shardings=sharding.replicated(mesh)).lower(abstract_params, arm.bag, text_bytes, *batch)
    evaluate_batch = compile_with(lowered)

    def evaluate(params: dict[str, Any], stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        parts: list[train_step.EvalSums] = []
        for tokens, weights in held_out(prepared, config, mesh):
            if stop and stop():
                return None
            jax.block_until_ready(parts[-2:-1])  # two at a time, so that a stop waits for two at most
            placed = [sharding.to_devices(x, mesh) for x in (tokens, weights)]
            parts.append(evaluate_batch(params, arm.bag, text_bytes, *placed))
        nats, tokens, text_bytes_sum = np.sum(jax.device_get(parts), axis=0, dtype=np.float64)
        text_bytes_sum *= prepared.text_share("validation")
        return {
            "loss": float(nats / tokens),
            "bits_per_byte": float(nats / math.log(2) / text_bytes_sum) if text_bytes_sum else math.nan,
            "predicted_tokens": int(tokens),
            "text_bytes": round(text_bytes_sum),
        }

    return evaluate
