"""The compilers of devices that are not there: where they are, their versions, and how JAX is brought to use them.

`make tpu` and `make gpu` keep them beside the environment's packages: among these, each JAX process of a machine
without such a device would load them and complain.  Nothing here imports JAX before it is needed: JAX notes when it is
imported which cuDNN there is.
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
    """Returns the file of libtpu: the one of `make tpu`, or a package installed in this environment; None: neither."""
    beside = Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
    if beside.is_file():
        return beside
    package = importlib.util.find_spec("libtpu")
    folders = package.submodule_search_locations if package else None
    return next((file for folder in folders or () if (file := Path(folder) / "libtpu.so").is_file()), None)


def cuda() -> Path | None:
    """Returns the folder of packages with JAX's CUDA plugin: of `make gpu`, or of this environment; None: neither."""
    beside = Path(sys.prefix) / "gpu"
    package = importlib.util.find_spec("jax_plugins")
    own = [Path(folder).parent for folder in package.submodule_search_locations or ()] if package else []
    return next((folder for folder in (beside, *own) if (folder / "jax_plugins" / PLUGIN).is_dir()), None)


def reveal_cuda() -> None:
    """Lets JAX find the CUDA plugin, if there is one; before JAX is imported it lets it find cuDNN too."""
    found = cuda()
    if found and str(found) not in sys.path:
        sys.path.append(str(found))
        importlib.invalidate_caches()


def versions() -> dict[str, str]:
    file = libtpu()
    places = {"libtpu": file.parents[1] if file else None, **dict.fromkeys(GPU_PACKAGES, cuda())}
    return {name: _version(name, folder) for name, folder in places.items() if folder}


def tpus(topology: str) -> "tuple[jax.Device, ...]":
    """Returns the devices of a TPU's topology, as `cross_compile.parse` gives it.

    The first call in a process loads the compiler.  It sets the environment that libtpu reads, and JAX's platform to
    "cpu": nothing here may look for a TPU.  Raises ValueError if there is no libtpu, or it refuses.
    """
    found = libtpu()
    if found is None:
        raise ValueError(NO_LIBTPU)

    import jax
    from jax.experimental import topologies

    # Of a machine that has none: libtpu would ask for each of these over the network, or fail.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    # A lock keeps TPUs from being shared.  Compiling uses none, so several compilers may run, and beside training.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"
    os.environ["TPU_LIBRARY_PATH"] = str(found)
    jax.config.update("jax_platforms", "cpu")
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):  # its own advice is to delete the lock
            raise ValueError(
                "another process is using libtpu and this version of it does not share; run this again when that ends"
            ) from None
        raise ValueError(f"the compiler knows no topology {topology}: {error}") from None


def gpus(name: str, topology: str, description: str) -> "tuple[jax.Device, ...]":
    """Returns GPUs to compile for, by name, `cross_compile.parse`'s topology and XLA's description.

    The first call in a process loads the compiler.  It sets JAX's platform to "cpu". Raises ValueError if there is no
    CUDA plugin, or it refuses.
    """
    if cuda() is None:
        raise ValueError(NO_PLUGIN)
    reveal_cuda()

    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # without a GPU it could be written and not be read

    def devices():
        wanted = {"topology_name": name, "target_config": description, "topology": topology}
        return tuple(topologies.get_topology_desc(platform="cuda", **wanted).devices)

    try:
        try:
            return devices()
        except NotImplementedError:  # JAX has looked for plugins already, before this one could be found
            importlib.import_module(f"jax_plugins.{PLUGIN}").initialize()
            return devices()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the compiler does not take {name}: {str(error).splitlines()[0]}") from None


def _version(package: str, folder: Path) -> str:
    found = importlib.metadata.distributions(name=package, path=[str(folder)])
    return next((distribution.version for distribution in found), "unknown")
