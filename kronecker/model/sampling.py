"""Text from a model by temperature and nucleus sampling; the seed determines the text.

Shapes: T time, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kronecker.embedding import bags
from kronecker.model import build, transformer

SHORTEST_WINDOW = 32
WIDEST = 64.0  # nats below the most likely id beyond which ids are negligible
HALVINGS = 40  # of that range in the bisection, down to float32's resolution
COLDEST, HOTTEST = 1e-6, 1e6  # temperatures between which logits stay finite and differ in float32
LEAST_P = 1e-6  # of top_p; a smaller one leaves the most likely token alone too


class Sampler:
    """Samples texts from one model, which it compiles once.

    With a cache of keys and values, each token computes one position.  Past the context length positions shift, so the
    cache is invalid and each token recomputes a window, as without a cache; windows are padded to a power of two so
    that few programs are compiled.  Cached and uncached sampling agree in float32 up to ties; in bfloat16 they may
    differ.
    """

    def __init__(self, arm: build.Arm, params: dict[str, Any], cache: bool = True) -> None:
        self._arm, self._params = build.with_table(arm, params)
        self._cache = cache
        self._whole = jax.jit(functools.partial(_after_whole, self._arm.model))
        self._part = jax.jit(functools.partial(_after_part, self._arm.model), donate_argnums=2)

    def sample(
        self,
        prompt: Sequence[int],
        *,
        new_tokens: int,
        temperature: float = 0.7,
        top_p: float = 0.9,
        seed: int = 42,
        stop: int | None = None,
    ) -> Iterator[int]:
        """Returns an iterator of up to `new_tokens` ids that follow `prompt`.

        `temperature` 0 picks the most likely id; only the most likely ids that together reach probability `top_p` are
        sampled; `stop` ends the text and is not yielded.  Raises ValueError for an empty prompt or bad options.
        """
        if not len(prompt):
            raise ValueError("the prompt is empty; give at least one token")
        if not (temperature == 0 or COLDEST <= temperature <= HOTTEST):
            raise ValueError(f"temperature is {temperature}; it must be 0, or from {COLDEST:f} to {HOTTEST:,.0f}")
        if not LEAST_P <= top_p <= 1:
            raise ValueError(f"top_p is {top_p}; it must be from {LEAST_P:f} to 1")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}; it must be from 0 to {2**32 - 1}")
        if not 0 <= new_tokens < 2**32:
            raise ValueError(f"new_tokens is {new_tokens}; it must be from 0 to {2**32 - 1}")
        return self._sample(list(prompt), new_tokens, temperature, top_p, seed, stop)

    def _sample(
        self, ids: list[int], new_tokens: int, temperature: float, top_p: float, seed: int, stop: int | None
    ) -> Iterator[int]:
        context = self._arm.model.shape.context
        cache, cached = {}, 0
        for i in range(new_tokens):
            if self._cache and len(ids) <= context:
                part = ids[cached:]
                window_T = np.array(part, np.int32) if len(part) == 1 else _window(part, context)
                logits_V, cache = self._part(self._params, self._arm.bag, cache, window_T, cached, len(part))
                cached = len(ids)
            else:
                recent = ids[-context:]
                logits_V = self._whole(self._params, self._arm.bag, _window(recent, context), len(recent))
            key = jax.random.fold_in(jax.random.key(seed), i)
            token = int(_draw(logits_V, key, temperature, top_p))
            if token == stop:
                return
            ids.append(token)
            yield token


def _after_whole(
    model: transformer.Transformer, params: dict[str, Any], bag: bags.Bag | None, window_T: jax.Array, length: jax.Array
) -> jax.Array:
    return model.apply({"params": params}, window_T[None], bag)[0, length - 1]


def _after_part(
    model: transformer.Transformer,
    params: dict[str, Any],
    bag: bags.Bag | None,
    cache: dict[str, Any],
    window_T: jax.Array,
    start: jax.Array,
    length: jax.Array,
) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the logits (V,) after `length` more ids from position `start`, and the updated cache."""
    # The padding's entries in the cache are overwritten before they are used.
    logits_BTV, cache = model.apply({"params": params} | cache, window_T[None], bag, start=start, mutable=["cache"])
    return logits_BTV[0, length - 1], cache


@functools.partial(jax.jit, static_argnames=("temperature", "top_p"))
def _draw(logits_V: jax.Array, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    if temperature == 0:
        return logits_V.argmax()
    log_p_V = jax.nn.log_softmax(logits_V / temperature)
    if top_p < 1:
        # XLA may compute log_p_V twice and round otherwise, so the most likely id is kept by its logit.
        kept_V = (log_p_V >= _least_of_nucleus(log_p_V, top_p)) | (logits_V == logits_V.max())
        log_p_V = jnp.where(kept_V, log_p_V, -jnp.inf)
    return jax.random.categorical(key, log_p_V)


def _least_of_nucleus(log_p_V: jax.Array, top_p: float) -> jax.Array:
    """Returns the log probability of the least likely id in the nucleus, by bisection: a sort is ten times slower."""
    p_V = jnp.exp(log_p_V)

    def above(bound: jax.Array) -> jax.Array:
        return jnp.where(log_p_V > bound, p_V, 0.0).sum()

    def halve(between: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = between  # above(low) >= top_p > above(high)
        middle = (low + high) / 2
        reaches = above(middle) >= top_p
        return (jnp.where(reaches, middle, low), jnp.where(reaches, high, middle)), None

    highest = log_p_V.max()
    (low, _), _ = jax.lax.scan(halve, (highest - WIDEST, highest), length=HALVINGS)
    return jnp.where(log_p_V > low, log_p_V, jnp.inf).min()


def _window(ids: Sequence[int], context: int) -> np.ndarray:
    power_of_two = max(SHORTEST_WINDOW, 1 << (len(ids) - 1).bit_length())
    window_T = np.zeros(min(context, power_of_two), np.int32)
    window_T[: len(ids)] = ids
    return window_T
