"""The devices to compile for, their hardware numbers, and the compiler options for each."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from kronecker import cross_compile
from kronecker.cross_compile import compilers
from kronecker.runtime import hardware

# Bytes of memory, and its bandwidth in bytes per second, of one TPU, from the pages on v5e, v5p and v6e of Cloud TPU's
# documentation.  A GPU's are in its description; FLOPs are in hardware.PEAK_FLOPS.
MEMORY = {"v5e": 16 * 2**30, "v5p": 95 * 2**30, "v6e": 32 * 2**30}
BANDWIDTH = {"v5e": 819e9, "v5p": 2765e9, "v6e": 1600e9}
# Bytes per second that a device sends over all its links: half of the bidirectional bandwidth of the same pages (400,
# 1,200 and 800 GB/s) and of NVIDIA's data sheets (NVLink: 600, 900, 900 and 1,800 GB/s).
LINKS = {"v5e": 200e9, "v5p": 600e9, "v6e": 400e9, "a100": 300e9, "h100": 450e9, "h200": 450e9, "b200": 900e9}

BFLOAT16, TF32, FLOAT32 = "bfloat16", "tf32", "float32"  # units: tensor cores in two types, and CUDA cores
# XLA's options for each form.  On a GPU XLA times both forms, with several tiles, and chooses the fastest for each
# product; without one it cannot.
_NO_DEVICE = {"xla_gpu_enable_cub_radix_sort": False}  # CUB would query the GPU for its sort's memory
GPU_FORMS = {"Triton": _NO_DEVICE, "cuBLAS": _NO_DEVICE | {"xla_gpu_enable_triton_gemm": False}}
TPU_FORMS = {"": {}}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for."""

    name: str  # a key of LINKS
    devices: tuple[jax.Device, ...]  # they can be compiled for but not run on

    @property
    def kind(self) -> str:
        return self.devices[0].device_kind

    @property
    def is_gpu(self) -> bool:
        return self.name in cross_compile.GPUS

    @property
    def platform(self) -> str:
        return "gpu" if self.is_gpu else "tpu"

    @property
    def peak(self) -> float:
        return hardware.peak_flops(self.kind)

    @property
    def peaks(self) -> dict[str, float]:
        """Returns a device's FLOP/s by unit: TF32 has half of bfloat16's, a CUDA core two per clock."""
        if not self.is_gpu:
            return {BFLOAT16: self.peak}
        cores = _fact(self.name, "core_count") * _fact(self.name, "fpus_per_core")
        clock = 1e9 * _fact(self.name, "clock_rate_ghz")
        return {BFLOAT16: self.peak, TF32: self.peak / 2, FLOAT32: 2 * cores * clock}

    @property
    def bandwidth(self) -> float:
        return _fact(self.name, "memory_bandwidth") if self.is_gpu else BANDWIDTH[self.name]

    @property
    def memory(self) -> int:
        return int(_fact(self.name, "device_memory_size")) if self.is_gpu else MEMORY[self.name]

    @property
    def cache(self) -> int:
        """Returns the bytes of a GPU's L2 cache; 0 for a TPU."""
        return int(_fact(self.name, "l2_cache_size")) if self.is_gpu else 0

    @property
    def links(self) -> float:
        return LINKS[self.name]

    @property
    def forms(self) -> Mapping[str, Mapping[str, bool]]:
        return GPU_FORMS if self.is_gpu else TPU_FORMS

    @property
    def sharding(self) -> jax.sharding.Sharding:
        return jax.sharding.SingleDeviceSharding(self.devices[0])


def target(name: str) -> Target:
    """Returns a target of `cross_compile.parse`, or a TPU by its name alone at its smallest topology.

    The first call in a process loads the compiler.  Raises ValueError if the target is unknown, its compiler is not
    installed, or the compiler rejects it.
    """
    name, topology = cross_compile.parse(cross_compile.TOPOLOGIES.get(name, name))
    if name in cross_compile.GPUS:
        return Target(name, compilers.gpus(name, topology, _description(name)))
    return Target(name, compilers.tpus(topology))


@functools.cache
def _description(name: str) -> str:
    return (Path(__file__).parent / "gpus" / f"{name}.txtpb").read_text(encoding="utf-8")


def _fact(name: str, field: str) -> float:
    return float(re.search(rf"\b{field}: ([\d.]+)", _description(name))[1])
