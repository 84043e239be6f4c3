"""Training time without evaluation and saving, tokens per second, and MFU where the device's peak is known."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator

import jax

from kronecker import transformer

# Dense bf16 peak of one device in FLOP/s, from the vendors' data sheets; a device that is not here has no MFU.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # how JAX calls a v5p
    "TPU v6 lite": 918e12,
}


class Stopwatch:
    """Counts the seconds of training; evaluation, saving and the time before a resume's first step stay out."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._start = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Returns the training seconds so far, those of earlier processes of this run included."""
        return self._before + time.perf_counter() - self._start - self._paused

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Stops the clock inside the `with` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start


def flops_per_token(shape: transformer.Shape, sequence: int) -> float:
    """Returns the matrix FLOPs of forward and backward for one token, recomputation not counted.

    Six a parameter of each linear layer and of the head, and 12 N T d for attention over the whole T x T square.  The
    input embedding counts as nothing in every arm: a lookup for the table, a few rows for a bag.
    """
    linear = shape.layers * 12 * shape.d_model**2 + shape.d_model * shape.padded_vocab
    return 6.0 * linear + 12.0 * shape.layers * sequence * shape.d_model


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bf16 FLOP/s of one device of this kind, as JAX names it, or None where they are not known."""
    return PEAK_FLOPS.get(max((name for name in PEAK_FLOPS if device_kind.startswith(name)), key=len, default=""))


def mfu(
    shape: transformer.Shape, sequence: int, tokens_per_second: float, device_kind: str, devices: int
) -> float | None:
    """Returns the share of all devices' peak that the model's FLOPs are, or None where the peak is not known."""
    peak = peak_flops(device_kind)
    return peak and flops_per_token(shape, sequence) * tokens_per_second / (peak * devices)


def peak_memory_bytes() -> int:
    """Returns the most memory held so far: of the first device where it says, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stats.get("peak_bytes_in_use") or resident * (1 if sys.platform == "darwin" else 1024)
