"""Puts a code in place of a trained input table, without training: W is fitted by least squares.

The table is made here, of two parts: one that the bytes of an id explain, and one of its own for each id.  The fit by
occurrence spends the code on the ids that a text contains.
"""

import inspect

import jax.numpy as jnp
import numpy as np

import kronecker
from kronecker import tokenization
from kronecker.interop import graft

WIDTH, POS_DIM = 32, 8
tokenizer = tokenization.load("gpt2")
codes = kronecker.byte_table(tokenizer.token_bytes, POS_DIM)
bag = kronecker.kronecker_bag(codes)
ids = np.concatenate(tokenizer.encode_batch([inspect.getsource(graft)]))

rng = np.random.default_rng(0)
spelled = graft.table_of(bag, rng.standard_normal((bag.rows, WIDTH)) / bag.rows**0.5)
table = (spelled + rng.standard_normal(spelled.shape)).astype(np.float32)

fitted = graft.graft(bag, table, counts_V=np.bincount(ids, minlength=len(table)))
for what, share in fitted.residuals.items():
    print(f"{what}: {share:.3f}")

layer = kronecker.KroneckerEmbed(features=WIDTH, code=kronecker.kronecker_code(codes))
params = {"projection": jnp.asarray(fitted.by_occurrence, jnp.float32)}
x, _ = layer.apply({"params": params}, ids, mutable="code")
error = np.square(x - table[ids]).sum() / np.square(table[ids] - table[ids].mean(axis=0)).sum()
print(f"the layer, on the text: {error:.3f}")
assert abs(error - fitted.residuals[graft.WEIGHTED]) < 1e-3
