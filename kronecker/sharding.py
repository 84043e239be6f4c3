"""Where arrays live: one mesh whose `data` axis splits the batch; parameters and codes are replicated."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"
BATCH, HEADS = (DATA,), ()  # axes that split the batch, and the heads of attention


def use_simulated_cpu_devices(config: ml_collections.ConfigDict) -> None:
    """Splits a CPU into mesh.cpu_devices devices; only before JAX has started its backend."""
    if config.mesh.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", config.mesh.cpu_devices)


def make_mesh() -> Mesh:
    """Returns the mesh over all devices of all hosts."""
    return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of state, codes and scalars."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def batch_axes(mesh: Mesh | None) -> tuple[str, ...]:
    """Returns the axes of `mesh` that split the batch; none without a mesh."""
    return () if mesh is None else tuple(axis for axis in mesh.axis_names if axis in BATCH)


def head_axes(mesh: Mesh | None) -> tuple[str, ...]:
    """Returns the axes of `mesh` that split the heads of attention; none without a mesh."""
    return () if mesh is None else tuple(axis for axis in mesh.axis_names if axis in HEADS)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree`, equal on every host, as arrays on every device; float64 becomes float32 unless x64 is on."""
    return jax.device_put(jax.tree.map(jnp.asarray, tree), replicated(mesh))


def to_devices(local: np.ndarray, mesh: Mesh) -> jax.Array:
    """Returns the global array of which `local` holds this host's rows."""
    return jax.make_array_from_process_local_data(split_batch(mesh), local)
