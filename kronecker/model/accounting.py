"""Parameters by group, the hash of the initial body, FLOPs and MFU."""

import hashlib
import math

import jax
import numpy as np

from kronecker.model import transformer
from kronecker.runtime import hardware, sharding

GROUPS = ("input", "body", "head")
INPUT, HEAD = "embed", "head"


def count(params: dict) -> dict[str, int]:
    """Returns the number of parameters in input, body and head, and in total; a tied table counts as input."""
    sizes = dict.fromkeys(GROUPS, 0)
    for name, group in params.items():
        sizes[_group(name)] += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(group))
    return sizes | {"total": sum(sizes.values())}


def body_hash(params: dict) -> str:
    """Returns the sha256 of all parameters outside input embedding and head, by path; all hosts must call it."""
    digest = hashlib.sha256()
    body = {name: group for name, group in params.items() if _group(name) == "body"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(body):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(sharding.gathered(leaf)).tobytes())
    return digest.hexdigest()


def _group(name: str) -> str:
    return {INPUT: "input", HEAD: "head"}.get(name, "body")


def flops_per_token(shape: transformer.Shape, sequence: int) -> float:
    """Returns the matrix FLOPs of forward and backward pass for one token, without recomputation.

    Six per parameter of the linear layers and the head, and 12 T d per layer for attention over the full T x T square,
    with width d.  The input embedding counts as 0 in every arm: a table reads one row, a code adds a few rows.
    """
    linear = shape.layers * 12 * shape.d_model**2 + shape.d_model * shape.padded_vocab
    return 6.0 * linear + 12.0 * shape.layers * sequence * shape.d_model


def mfu(
    shape: transformer.Shape, sequence: int, tokens_per_second: float, device_kind: str, devices: int
) -> float | None:
    """Returns the model's FLOP/s as a share of all devices' peak; None: the peak is unknown."""
    peak = hardware.peak_flops(device_kind)
    return peak and flops_per_token(shape, sequence) * tokens_per_second / (peak * devices)
