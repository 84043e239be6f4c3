"""Converts checkpoints of the paper author's package, `kronecker-embeddings`, to our projection and back.

The package orders its cells as we do (byte value v at position p is cell v*P + p) and trains only the weight of a
linear layer, so the conversion is a transpose.  Its checkpoints do not contain P, the norm or the bytes of the ids.
Its defaults are P = 32, embedding.norm=z, embedding.byte_source=decode and embedding.truncation=head.

Shapes: P byte positions, D = 256 P code dimension, d model width.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kronecker.embedding import codec

WEIGHT = "projection.weight"


def projection_from_state_dict(state_dict: Mapping[str, Any], prefix: str = "", pos_dim: int = 0) -> np.ndarray:
    """Returns our projection W, shape (D, d), from a state_dict of the package or of a model that holds its layer.

    Args:
      state_dict: name -> PyTorch tensor on the CPU, or anything that numpy reads.
      prefix: the part of the weight's name before "projection.weight", with its dot: "transformer.wte.".
      pos_dim: P that the weight must have; 0: any.

    Returns:
      A new array: float64 if the weight is, otherwise float32.

    Raises:
      ValueError: if there is no such weight, numpy cannot read it, or its shape is not (d, 256 P).
    """
    name = prefix + WEIGHT
    if name not in state_dict:
        prefixes = [repr(key.removesuffix(WEIGHT)) for key in state_dict if key.endswith(WEIGHT)]
        few = ", ".join([*state_dict][:5]) or "none"
        hint = f"pass prefix={' or '.join(prefixes)}" if prefixes else f"pass one that has it; this one has {few}"
        raise ValueError(f"state_dict has no {name!r}, the weight of the package's layer; {hint}")
    weight_dD = _floats(f"state_dict[{name!r}]", state_dict[name], "(d, 256 P)", 1, pos_dim)
    return np.array(weight_dD.T, order="C")


def state_dict_from_projection(projection_Dd: Any, prefix: str = "", pos_dim: int = 0) -> dict[str, np.ndarray]:
    """Returns {prefix + "projection.weight": array (d, D)}, a state_dict for the package's layer.

    To load it: `layer.load_state_dict({name: torch.from_numpy(array) for name, array in ...items()})`.

    Args:
      projection_Dd: W, shape (D, d), a JAX or numpy array.
      prefix: the layer's name in a larger model, with its dot: "transformer.wte.".
      pos_dim: P that W must have; 0: any.

    Returns:
      New, writable arrays: float64 if W is, otherwise float32, because PyTorch cannot read numpy's bfloat16.

    Raises:
      ValueError: if numpy cannot read W or its shape is not (256 P, d).
    """
    array_Dd = _floats("projection", projection_Dd, "(256 P, d)", 0, pos_dim)
    return {prefix + WEIGHT: np.array(array_Dd.T, order="C")}


def _floats(what: str, value: Any, allowed: str, cells_axis: int, pos_dim: int) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError, ValueError) as error:  # a PyTorch tensor: bfloat16, not on the CPU, requires grad
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{what}: numpy cannot read it ({reason}); pass value.detach().cpu().float()") from error
    if array.ndim != 2 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{what} is {array.dtype} of shape {array.shape}; pass floats of shape {allowed}")
    cells = array.shape[cells_axis]
    if not cells or cells % codec.CHAR_DIM or pos_dim not in (0, cells // codec.CHAR_DIM):
        wanted = f"256 P = {codec.CHAR_DIM * pos_dim:,} at pos_dim {pos_dim}" if pos_dim else "P at least 1"
        raise ValueError(
            f"{what} has shape {array.shape}; it must be {allowed}, {wanted}; transpose it if its axes are swapped, "
            "otherwise pass the pos_dim that it was trained with"
        )
    return array.astype(np.promote_types(array.dtype, np.float32))
