"""The check before training: compares the product on this device with the dense code."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kronecker.embedding import bags, codec, implementations

TOKENS = 256  # repetitions of a few ids, in addition to ids of every length
WIDTH = 128
# Largest relative error allowed, in norm.
EXACT, ROUNDED = 1e-5, 2**-8


def check_product(bag: bags.Bag, table: codec.ByteTable, embedding: ml_collections.ConfigDict, dtype: str) -> None:
    """Raises FloatingPointError if the product or its gradient differs from the dense code by more than rounding.

    Otherwise a compiler that gets a scatter or a fused one-hot wrong would silently train a wrong model.  Checks ids of
    every length and many repeats, on one device, with W in float32 and the product in `dtype`; also the induced table,
    if the bag is prepared for it.  The reference for the Kronecker code is built from `table`, not from the bag.
    `embedding` is the config's group.
    """
    rng = np.random.default_rng(0)
    lengths = np.asarray(bag.lengths)
    by_length = [np.flatnonzero(lengths == length) for length in range(bag.slots + 1)]
    of_each = [rng.choice(ids, min(len(ids), 3), replace=False) for ids in by_length]
    often = rng.choice(bag.vocab, 8)  # repeated ids: where scatters fail
    ids = np.concatenate([*of_each, rng.choice(often, TOKENS)]).astype(np.int32)
    weights_Dd = rng.normal(size=(bag.rows, WIDTH)).astype(np.float32)
    grad_Nd = rng.normal(size=(len(ids), WIDTH)).astype(np.float32)
    kronecker = embedding.kind == "kronecker"
    code_ND = codec.dense_code(table, ids, embedding.norm) if kronecker else bags.dense_code(bag, ids)
    exact = code_ND @ weights_Dd, code_ND.T @ grad_Nd

    def by_table(weights_Dd, bag, ids_N):
        return implementations.induced_table(weights_Dd, bag, dtype)[ids_N]

    found = errors(bag, ids, weights_Dd, grad_Nd, exact, dtype)
    if bag.order is not None:
        found += errors(bag, ids, weights_Dd, grad_Nd, exact, dtype, by_table)
    for what, error, allowed in found:
        if not error <= allowed:
            raise FloatingPointError(
                f"the {what} of embedding.implementation={bag.implementation} has a relative error of {error:.1e} on "
                f"{jax.devices()[0].device_kind} with jax {jax.__version__}; at most {allowed:.0e} is allowed; choose "
                "another implementation or another version of jax"
            )


def errors(
    bag: bags.Bag,
    ids: np.ndarray,
    weights_Dd: np.ndarray,
    grad_Nd: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray],
    dtype: str,
    embed: Callable[..., jax.Array] | None = None,
) -> list[tuple[str, float, float]]:
    """Returns what, its relative error in norm, and the largest one allowed, of embeddings and gradient of a product.

    `exact` are both from dense codes in float64, `embed(weights_Dd, bag, ids)` is the product; None: that of `bag`.
    """
    embed = embed or functools.partial(implementations.product, dtype=dtype)

    @jax.jit
    def value_and_gradient(weights_Dd, bag, ids_N, grad_Nd):
        out_Nd, pullback = jax.vjp(lambda w: embed(w, bag, ids_N), weights_Dd)
        return out_Nd, pullback(grad_Nd)[0]

    found = []
    got = value_and_gradient(weights_Dd, bag, jnp.asarray(ids), grad_Nd)
    for what, ours, want, rounded in zip(("value", "gradient"), got, exact, implementations.rounds(bag), strict=True):
        error = float(np.linalg.norm(np.asarray(ours) - want) / np.linalg.norm(want))
        found.append((what, error, ROUNDED if rounded and dtype == "bfloat16" else EXACT))
    return found
