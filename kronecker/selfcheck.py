"""The check before training: this product, on this device, against the dense code."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kronecker import bag as bags
from kronecker import codec, implementations

TOKENS = 256
WIDTH = 128
# Largest error over the largest value: of the type that the product multiplies in, with room for sums of a few hundred.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def check_product(bag: bags.Bag, table: codec.ByteTable, embedding: ml_collections.ConfigDict, dtype: str) -> None:
    """Returns if the product and its gradient are those of the dense code, for ids of every length and many repeats.

    A scatter or a fused one-hot that some compiler gets wrong would otherwise train a wrong model in silence.

    Args:
      bag: of any arm, prepared for its implementation.
      table: the bytes behind it; the Kronecker code's definition is built from them, not from the bag.
      embedding: the config's group of that name.
      dtype: of the product.

    Raises:
      FloatingPointError: if either is off by more than TOLERANCE.
    """
    rng = np.random.default_rng(0)
    lengths = np.asarray(bag.lengths)
    by_length = [np.flatnonzero(lengths == length) for length in range(bag.slots + 1)]
    of_each = [rng.choice(ids, min(len(ids), 3), replace=False) for ids in by_length]
    often = rng.choice(bag.vocab, 8)  # a few ids many times: what scatters get wrong
    ids = np.concatenate([*of_each, rng.choice(often, TOKENS)])[:TOKENS].astype(np.int32)
    weights_Dd = rng.normal(0, embedding.init_std, (bag.rows, WIDTH)).astype(np.float32)
    grad_Nd = rng.normal(size=(TOKENS, WIDTH)).astype(np.float32)

    @jax.jit
    def value_and_gradient(weights_Dd, bag, ids_N, grad_Nd):
        out_Nd, pullback = jax.vjp(lambda w: implementations.product(w, bag, ids_N, dtype), weights_Dd)
        return out_Nd, pullback(grad_Nd)[0]

    got = value_and_gradient(weights_Dd, bag, jnp.asarray(ids), grad_Nd)
    kronecker = embedding.kind == "kronecker"
    code_ND = codec.dense_code(table, ids, embedding.norm) if kronecker else bags.dense_code(bag, ids)
    for what, ours, exact in zip(("value", "gradient"), got, (code_ND @ weights_Dd, code_ND.T @ grad_Nd), strict=True):
        error = float(np.abs(np.asarray(ours) - exact).max() / np.abs(exact).max())
        if not error <= TOLERANCE[dtype]:
            raise FloatingPointError(
                f"the {what} of embedding.implementation={bag.implementation} is off by {error:.1e} of its largest "
                f"entry on {jax.devices()[0].device_kind}, jax {jax.__version__}, more than {TOLERANCE[dtype]:.0e}; "
                "choose another implementation or another version of jax"
            )
