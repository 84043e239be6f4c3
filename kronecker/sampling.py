"""Text from a model: temperature and nucleus sampling, one seed one text.

Shapes: T time, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kronecker import build

SHORTEST_WINDOW = 32


def sample(
    arm: build.Arm,
    params: dict[str, Any],
    prompt: Sequence[int],
    *,
    new_tokens: int,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int = 42,
    stop: int | None = None,
) -> Iterator[int]:
    """Returns an iterator of up to `new_tokens` ids that follow `prompt`, each as it is drawn.

    Beyond the model's context the oldest ids are forgotten.  Windows are padded to powers of two, so that a text of any
    length compiles a handful of programs.

    Args:
      arm: the model and its bag.
      params: its parameters.
      prompt: at least one token id.
      new_tokens: ids to draw.
      temperature: of the softmax; 0 takes the most likely id.
      top_p: only the most likely ids that together reach this probability can be drawn; 1: all.
      seed: of the draws.
      stop: the id after which to stop, which is not yielded.

    Raises:
      ValueError: if the prompt is empty or an option is out of range.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature is {temperature} (at least 0) and top_p is {top_p} (in (0, 1])")
    return _sample(*build.with_table(arm, params), list(prompt), new_tokens, temperature, top_p, seed, stop)


def _sample(
    arm: build.Arm,
    params: dict[str, Any],
    ids: list[int],
    new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    stop: int | None,
) -> Iterator[int]:
    context = arm.model.shape.context

    @jax.jit
    def draw(params, bag, window_T, length, key):
        logits_V = arm.model.apply({"params": params}, window_T[None], bag)[0, length - 1]
        return _draw(logits_V, key, temperature, top_p)

    for i in range(new_tokens):
        recent = ids[-context:]
        window = np.zeros(min(context, _power_of_two(len(recent))), np.int32)
        window[: len(recent)] = recent
        token = int(draw(params, arm.bag, window, len(recent), jax.random.fold_in(jax.random.key(seed), i)))
        if token == stop:
            return
        ids.append(token)
        yield token


def _draw(logits_V: jax.Array, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    if temperature == 0:
        return logits_V.argmax()
    order_V = jnp.argsort(-logits_V)
    probability_V = jax.nn.softmax(logits_V[order_V] / temperature)
    before_V = jnp.cumsum(probability_V) - probability_V  # the most likely id is always kept
    return order_V[jax.random.categorical(key, jnp.where(before_V < top_p, jnp.log(probability_V), -jnp.inf))]


def _power_of_two(length: int) -> int:
    return max(SHORTEST_WINDOW, 1 << (length - 1).bit_length())
