"""The TPU compiler on a machine without a TPU: where its library is, and the chips that it can compile for."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import jax
from jax.experimental import topologies

from kronecker import cross_compile
from kronecker.training import throughput

# Of one chip, by what JAX calls it, from the pages on v5e, v5p and v6e of Cloud TPU's documentation: the bytes of its
# memory, its memory's bytes a second, and the bytes that all its links send in a second, half of the bidirectional
# bandwidth that the pages give (400, 1,200 and 800 GB/s).  throughput.PEAK_FLOPS has the FLOPs.
MEMORY = {"TPU v5 lite": 16 * 2**30, "TPU v5": 95 * 2**30, "TPU v6 lite": 32 * 2**30}
BANDWIDTH = {"TPU v5 lite": 819e9, "TPU v5": 2765e9, "TPU v6 lite": 1600e9}
LINKS = {"TPU v5 lite": 200e9, "TPU v5": 600e9, "TPU v6 lite": 400e9}
INSTALL = "the TPU compiler, libtpu, is not installed; `make tpu` adds it (requirements-tpu.txt)"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip to compile for.

    Attributes:
      name: a key of cross_compile.TOPOLOGIES.
      devices: of the topology, one a chip; they take programs but cannot run them.
    """

    name: str
    devices: tuple[jax.Device, ...]

    @property
    def kind(self) -> str:
        """Returns what JAX calls it."""
        return self.devices[0].device_kind

    @property
    def peak(self) -> float:
        """Returns its bfloat16 FLOP/s."""
        return throughput.PEAK_FLOPS[self.kind]

    @property
    def bandwidth(self) -> float:
        """Returns the bytes a second of its memory."""
        return BANDWIDTH[self.kind]

    @property
    def memory(self) -> int:
        """Returns the bytes of its memory."""
        return MEMORY[self.kind]

    @property
    def links(self) -> float:
        """Returns the bytes a second that it can send to other chips, over all of its links at once."""
        return LINKS[self.kind]

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Returns the sharding of a program for this chip alone."""
        return jax.sharding.SingleDeviceSharding(self.devices[0])


def chip(topology: str) -> Chip:
    """Returns the chip of a topology, with all devices; the first call in a process loads the compiler.

    It sets the environment that libtpu reads, and JAX's platform to "cpu": nothing here may look for a TPU.

    Args:
      topology: as `cross_compile.chip_of` reads it, or a chip alone, whose smallest topology it then is.

    Raises:
      ValueError: if this is no topology of a chip of cross_compile.TOPOLOGIES, or there is no libtpu, or it refuses.
    """
    topology = cross_compile.TOPOLOGIES.get(topology, topology)
    name = cross_compile.chip_of(topology)
    found = library()
    if found is None:
        raise ValueError(INSTALL)
    # Of a machine that has none: libtpu would ask for each of these over the network, or fail.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    # A lock keeps TPUs from being shared.  Compiling uses none, so several compilers may run, and beside training.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"
    os.environ["TPU_LIBRARY_PATH"] = str(found)
    jax.config.update("jax_platforms", "cpu")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):  # its own advice is to delete the lock
            raise ValueError(
                "another process is using libtpu and this version of it does not share; run this again when that ends"
            ) from None
        raise ValueError(f"the compiler knows no topology {topology}: {error}") from None
    return Chip(name, tuple(devices))


def library() -> Path | None:
    """Returns the file of libtpu: the one of `make tpu`, or a package installed in this environment; None: neither.

    `make tpu` keeps it outside the environment's packages, where each JAX process of a machine without a TPU would
    load it and complain.
    """
    beside = Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
    if beside.is_file():
        return beside
    package = importlib.util.find_spec("libtpu")
    folders = package.submodule_search_locations if package else None
    return next((file for folder in folders or () if (file := Path(folder) / "libtpu.so").is_file()), None)


def library_version(file: Path) -> str:
    """Returns the version of the package that holds `file`."""
    found = importlib.metadata.distributions(name="libtpu", path=[str(file.parents[1])])
    return next((distribution.version for distribution in found), "unknown")
