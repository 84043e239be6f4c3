"""Held-out loss in nats per token and in bits per byte of text."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from kronecker import build, sharding
from kronecker.data import rows
from kronecker.training import step as steps

Batches = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


def held_out(prepared: rows.Prepared, config: ml_collections.ConfigDict, mesh: Mesh) -> Batches:
    """Returns a function that starts this host's validation batches anew, as config.eval says.

    A run may be evaluated on other devices than it was trained on, so the batch is rounded up to what they can share.
    """
    parts = sharding.batch_shards(mesh)
    batch = -(-config.eval.batch // parts) * parts
    return lambda: rows.validation_batches(
        prepared,
        config.train.sequence,
        batch,
        config.eval.sequences,
        *sharding.host_share(mesh),
    )


def make_evaluator(
    arm: build.Arm, text_bytes_V: np.ndarray, mesh: Mesh, batches: Batches, chunk: int = 0
) -> Callable[[dict[str, Any]], dict[str, float]]:
    """Returns evaluate(params) -> the numbers of a validation line of metrics.jsonl.

    Args:
      arm: the model and its bag.
      text_bytes_V: bytes of text that each id stands for; ids beyond it stand for none.
      mesh: of all devices.
      batches: starts the held-out batches anew: this host's tokens (B, T + 1) and weights (B, T).
      chunk: as train.loss_chunk.
    """
    evaluate_batch = jax.jit(steps.make_eval_step(arm.model, chunk), out_shardings=sharding.replicated(mesh))
    padded = np.zeros(arm.model.shape.padded_vocab, np.float32)
    padded[: len(text_bytes_V)] = text_bytes_V
    text_bytes, bag = sharding.replicate((padded, arm.bag), mesh)

    def evaluate(params: dict[str, Any]) -> dict[str, float]:
        parts = [
            evaluate_batch(
                params, bag, text_bytes, sharding.to_devices(tokens, mesh), sharding.to_devices(weights, mesh)
            )
            for tokens, weights in batches()
        ]
        nats, tokens, text_bytes_sum = np.sum(jax.device_get(parts), axis=0, dtype=np.float64)
        return {
            "loss": float(nats / tokens),
            "bits_per_byte": float(nats / math.log(2) / text_bytes_sum) if text_bytes_sum else math.nan,
            "predicted_tokens": int(tokens),
            "text_bytes": int(text_bytes_sum),
        }

    return evaluate
