"""Parameters by group, and the hash that shows two arms started from one body."""

import hashlib
import math

import jax
import numpy as np

from kronecker import sharding

GROUPS = ("input", "body", "head")
INPUT, HEAD = "embed", "head"


def count(params: dict) -> dict[str, int]:
    """Returns the number of parameters: input, body, head and total; a tied table counts as input."""
    sizes = dict.fromkeys(GROUPS, 0)
    for name, group in params.items():
        sizes[_group(name)] += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(group))
    return sizes | {"total": sum(sizes.values())}


def input_matrix(params: dict) -> jax.Array:
    """Returns the matrix that the input embedding learns: E, U of the factorized table, or the projection W."""
    group = params[INPUT]
    return next(group[name] for name in ("projection", "factor", "table") if name in group)


def body_hash(params: dict) -> str:
    """Returns the sha256 of every parameter outside input embedding and head, by path; collective over hosts."""
    digest = hashlib.sha256()
    body = {name: group for name, group in params.items() if _group(name) == "body"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(body):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(sharding.gathered(leaf)).tobytes())
    return digest.hexdigest()


def _group(name: str) -> str:
    return {INPUT: "input", HEAD: "head"}.get(name, "body")
