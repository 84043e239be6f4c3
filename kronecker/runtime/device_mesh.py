"""The devices of this process, and a config's mesh over all devices."""

from collections.abc import Sequence

import jax
import ml_collections
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from kronecker.runtime import jax_settings, storage
from kronecker.schema import choices, resolution


def use_simulated_cpu_devices(config: ml_collections.ConfigDict) -> None:
    """Splits the CPU of this process into mesh.cpu_devices devices; call it before JAX starts its backend."""
    if config.mesh.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", config.mesh.cpu_devices)


def use_compilation_cache(config: ml_collections.ConfigDict) -> None:
    """Stores compiled programs in the folder `compilation_cache`, if set, and reuses them."""
    if config.compilation_cache:
        path = storage.open_path(config.compilation_cache, "compilation_cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_mesh(config: ml_collections.ConfigDict | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over all devices of all hosts, or over `devices`, such as a topology to compile for.

    The config's group `mesh` holds the sizes of the axes; without a config all devices split the batch.  Raises
    ValueError if the sizes do not multiply to the number of devices.
    """
    count = len(devices) if devices is not None else jax.device_count()
    return mesh_of(resolution.mesh_sizes(config.mesh, count) if config is not None else (count, 1, 1), devices)


def make_mesh_for(config: ml_collections.ConfigDict) -> Mesh:
    """Returns a mesh to evaluate a run, with its fsdp and tensor if they fit; else losses round differently."""
    parts = config.mesh.fsdp, config.mesh.tensor
    if -1 in parts or jax.device_count() % (parts[0] * parts[1]):
        return make_mesh()
    return mesh_of((jax.device_count() // (parts[0] * parts[1]), *parts))


def mesh_of(sizes: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of these sizes along choices.MESH_AXES over `devices`; None: over all devices."""
    jax_settings.check()  # whatever trains or evaluates makes a mesh first
    # jax.make_mesh refuses a mesh axis along a part of a network axis, such as 4 of its 16 chips, except on v5e.
    laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, choices.MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))
