"""Finds the compilers of TPUs and GPUs, and makes JAX use them without a device.

`make tpu` and `make gpu` install them outside the environment's packages.  Inside, every JAX process on a machine
without such a device would load them and print errors.  JAX is imported late, because it looks for cuDNN on import.
"""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

PLUGIN = "xla_cuda13"  # the module of JAX's namespace package jax_plugins
NO_LIBTPU = "the TPU compiler, libtpu, is not installed; `make tpu` adds it"
NO_PLUGIN = "the GPU compiler, JAX's CUDA plugin, is not installed; `make gpu` adds it (requirements-gpu.txt)"
GPU_PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13")


def libtpu() -> Path | None:
    """Returns the file of libtpu: from `make tpu`, or a package of this environment; None if there is neither."""
    beside = Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
    if beside.is_file():
        return beside
    package = importlib.util.find_spec("libtpu")
    folders = package.submodule_search_locations if package else None
    return next((file for folder in folders or () if (file := Path(folder) / "libtpu.so").is_file()), None)


def cuda() -> Path | None:
    """Returns the package folder of JAX's CUDA plugin: from `make gpu`, or of this environment; None if missing."""
    beside = Path(sys.prefix) / "gpu"
    package = importlib.util.find_spec("jax_plugins")
    own = [Path(folder).parent for folder in package.submodule_search_locations or ()] if package else []
    return next((folder for folder in (beside, *own) if (folder / "jax_plugins" / PLUGIN).is_dir()), None)


def reveal_cuda() -> None:
    """Adds the CUDA plugin to the import path, if installed; call it before JAX is imported and looks for cuDNN."""
    found = cuda()
    if found and str(found) not in sys.path:
        sys.path.append(str(found))
        importlib.invalidate_caches()


def versions() -> dict[str, str]:
    file = libtpu()
    places = {"libtpu": file.parents[1] if file else None, **dict.fromkeys(GPU_PACKAGES, cuda())}
    return {name: _version(name, folder) for name, folder in places.items() if folder}


def tpus(topology: str) -> "tuple[jax.Device, ...]":
    """Returns the devices of a TPU's topology, as `cross_compile.parse` returns it.

    The first call in a process loads the compiler.  It sets libtpu's environment variables, and JAX's platform to
    "cpu", so that nothing looks for a TPU.  Raises ValueError if libtpu is missing or rejects the topology.
    """
    found = libtpu()
    if found is None:
        raise ValueError(NO_LIBTPU)

    import jax
    from jax.experimental import topologies

    # Without a TPU libtpu would request these over the network, or fail.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    # libtpu locks TPUs against sharing.  Compiling uses none, so several compilers may run at once.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"
    os.environ["TPU_LIBRARY_PATH"] = str(found)
    jax.config.update("jax_platforms", "cpu")
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):  # libtpu's message advises to delete the lock
            raise ValueError("another process uses libtpu, whose version cannot be shared; try again later") from None
        raise ValueError(f"--target={topology}: rejected; write a topology of Cloud TPU: {error}") from None


def gpus(name: str, topology: str, description: str) -> "tuple[jax.Device, ...]":
    """Returns GPUs to compile for, by name, `cross_compile.parse`'s topology and XLA's description.

    The first call in a process loads the compiler.  It sets JAX's platform to "cpu".  Raises ValueError if the CUDA
    plugin is missing or rejects the GPU.
    """
    if cuda() is None:
        raise ValueError(NO_PLUGIN)
    reveal_cuda()

    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # without a GPU it can be written but not read

    def devices():
        wanted = {"topology_name": name, "target_config": description, "topology": topology}
        return tuple(topologies.get_topology_desc(platform="cuda", **wanted).devices)

    try:
        try:
            return devices()
        except NotImplementedError:  # JAX looked for plugins before this one was on the path
            importlib.import_module(f"jax_plugins.{PLUGIN}").initialize()
            return devices()
    except jax.errors.JaxRuntimeError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"--target={name}: the CUDA plugin rejects it; its version must be jax's: {why}") from None


def _version(package: str, folder: Path) -> str:
    found = importlib.metadata.distributions(name=package, path=[str(folder)])
    return next((distribution.version for distribution in found), "unknown")
