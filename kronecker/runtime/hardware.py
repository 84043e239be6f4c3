"""A device's peak speed, and the most memory that was used on it."""

import resource
import sys

from kronecker.runtime import machine

# Dense bf16 peak of one device in FLOP/s, from the vendors' data sheets; other devices have no MFU.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # JAX's name of a v5p
    "TPU v6 lite": 918e12,
}
MFU = 0.4  # an assumption, not a measurement; small models stay below it


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bf16 FLOP/s of one device of this kind, as JAX names it; None: unknown."""
    return PEAK_FLOPS.get(max((name for name in PEAK_FLOPS if device_kind.startswith(name)), key=len, default=""))


def peak_memory_bytes() -> int:
    """Returns the peak memory of the first device if it reports it, else of this process."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return machine.device_peak_bytes() or resident * (1 if sys.platform == "darwin" else 1024)
