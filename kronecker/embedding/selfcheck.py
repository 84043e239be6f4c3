"""The check before training: this product, on this device, against the dense code."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kronecker.embedding import bags, codec, implementations

TOKENS = 256  # that repeat a few ids, beside those of every length
WIDTH = 128
# Norm of the error over the norm.
EXACT, ROUNDED = 1e-5, 2**-8


def check_product(bag: bags.Bag, table: codec.ByteTable, embedding: ml_collections.ConfigDict, dtype: str) -> None:
    """Returns if the product and its gradient are those of the dense code, for ids of every length and many repeats.

    A scatter or a fused one-hot that some compiler gets wrong would otherwise train a wrong model in silence.  An
    induced table that the bag is prepared for is checked likewise.  One device, W in float32, the product in `dtype`.

    The Kronecker code's definition is built from `table`, not from the bag, which is of any arm and prepared for its
    implementation; `embedding` is the config's group.  Raises FloatingPointError if either is off by more than rounding
    to `dtype` explains.
    """
    rng = np.random.default_rng(0)
    lengths = np.asarray(bag.lengths)
    by_length = [np.flatnonzero(lengths == length) for length in range(bag.slots + 1)]
    of_each = [rng.choice(ids, min(len(ids), 3), replace=False) for ids in by_length]
    often = rng.choice(bag.vocab, 8)  # a few ids many times: what scatters get wrong
    ids = np.concatenate([*of_each, rng.choice(often, TOKENS)]).astype(np.int32)
    weights_Dd = rng.normal(0, embedding.init_std, (bag.rows, WIDTH)).astype(np.float32)
    grad_Nd = rng.normal(size=(len(ids), WIDTH)).astype(np.float32)
    kronecker = embedding.kind == "kronecker"
    code_ND = codec.dense_code(table, ids, embedding.norm) if kronecker else bags.dense_code(bag, ids)
    exact = code_ND @ weights_Dd, code_ND.T @ grad_Nd

    def by_product(weights_Dd, bag, ids_N):
        return implementations.product(weights_Dd, bag, ids_N, dtype)

    def by_table(weights_Dd, bag, ids_N):
        return implementations.induced_table(weights_Dd, bag, dtype)[ids_N]

    _check(by_product, bag, ids, weights_Dd, grad_Nd, exact, dtype)
    if bag.order is not None:
        _check(by_table, bag, ids, weights_Dd, grad_Nd, exact, dtype)


def _check(
    embed: Callable[..., jax.Array],
    bag: bags.Bag,
    ids: np.ndarray,
    weights_Dd: np.ndarray,
    grad_Nd: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray],
    dtype: str,
) -> None:
    @jax.jit
    def value_and_gradient(weights_Dd, bag, ids_N, grad_Nd):
        out_Nd, pullback = jax.vjp(lambda w: embed(w, bag, ids_N), weights_Dd)
        return out_Nd, pullback(grad_Nd)[0]

    got = value_and_gradient(weights_Dd, bag, jnp.asarray(ids), grad_Nd)
    for what, ours, want, rounded in zip(("value", "gradient"), got, exact, implementations.rounds(bag), strict=True):
        allowed = ROUNDED if rounded and dtype == "bfloat16" else EXACT
        error = float(np.linalg.norm(np.asarray(ours) - want) / np.linalg.norm(want))
        if not error <= allowed:
            raise FloatingPointError(
                f"the {what} of embedding.implementation={bag.implementation} is off by {error:.1e} of its norm on "
                f"{jax.devices()[0].device_kind}, jax {jax.__version__}, more than {allowed:.0e}; "
                "choose another implementation or another version of jax"
            )
