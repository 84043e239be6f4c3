"""The devices of this process, and the mesh over all devices that a config asks for."""

from collections.abc import Sequence

import jax
import ml_collections
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from kronecker.runtime import storage
from kronecker.schema import choices, resolution


def use_simulated_cpu_devices(config: ml_collections.ConfigDict) -> None:
    """Splits a CPU into mesh.cpu_devices devices a process; only before JAX has started its backend."""
    if config.mesh.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", config.mesh.cpu_devices)


def use_compilation_cache(config: ml_collections.ConfigDict) -> None:
    """Keeps what this process compiles in the folder `compilation_cache`, if set, and takes from there what fits."""
    if config.compilation_cache:
        path = storage.open_path(config.compilation_cache, "compilation_cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_mesh(config: ml_collections.ConfigDict | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over all devices of all hosts, or over `devices`, say of a topology to compile for.

    The config's group `mesh` gives the sizes of the axes; without a config all devices split the batch.  Raises
    ValueError if the sizes do not make up the number of devices.
    """
    count = len(devices) if devices is not None else jax.device_count()
    return mesh_of(resolution.mesh_sizes(config.mesh, count) if config is not None else (count, 1, 1), devices)


def make_mesh_for(config: ml_collections.ConfigDict) -> Mesh:
    """Returns a mesh on which a run can be evaluated: its own axes fsdp and tensor where the devices here allow them.

    The numbers are the same on any mesh but for rounding.
    """
    parts = config.mesh.fsdp, config.mesh.tensor
    if -1 in parts or jax.device_count() % (parts[0] * parts[1]):
        return make_mesh()
    return mesh_of((jax.device_count() // (parts[0] * parts[1]), *parts))


def mesh_of(sizes: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of these sizes along choices.MESH_AXES over `devices`; None: all there are."""
    # jax.make_mesh refuses an axis that is a part of one of the network's, say 4 of 16 chips, on all chips but v5e.
    laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, choices.MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))
