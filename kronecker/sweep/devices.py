"""Splits a machine's GPUs among several processes, without JAX, which would allocate the GPUs itself."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"

Share = Mapping[str, str]  # the environment variables that restrict a process to its devices; empty: nothing is split


def split(parallel: int) -> list[Share]:
    """Returns the share of each process: equal numbers of GPUs, else ValueError; without GPUs no restriction."""
    gpus = visible_gpus()
    if not gpus:
        return [{}] * parallel
    if len(gpus) % parallel:
        divisors = [n for n in range(1, len(gpus) + 1) if len(gpus) % n == 0]
        raise ValueError(
            f"--parallel={parallel} does not divide the {len(gpus)} GPUs here; choose one of "
            f"{', '.join(map(str, divisors))}; or list other GPUs in {VISIBLE}, or set JAX_PLATFORMS=cpu to use none"
        )
    each = len(gpus) // parallel
    return [{VISIBLE: ",".join(gpus[i * each : (i + 1) * each])} for i in range(parallel)]


def describe(shares: Sequence[Share]) -> str:
    if shares[0]:
        return f"GPUs: {shares[0][VISIBLE].count(',') + 1} each"
    return "no GPUs to split: the runs share this machine's cores and memory"


def visible_gpus() -> list[str]:
    """Returns the NVIDIA GPUs that JAX would use, as in CUDA_VISIBLE_DEVICES; none if JAX_PLATFORMS is cpu."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return []
    if VISIBLE in os.environ:
        return [gpu for gpu in os.environ[VISIBLE].split(",") if gpu and gpu != "-1"]
    return nvidia_smi("index")


def nvidia_smi(field: str) -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []  # it fails on a machine without a GPU
