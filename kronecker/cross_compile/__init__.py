"""Compiles our programs with the compiler of a TPU or GPU, on a machine without one, and analyses the result."""

import re

# The TPUs, each with the topology of one host, the smallest that the compiler accepts, with a size for each axis of the
# chip's network.  They are here so that a wrong flag fails before JAX is imported.
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
GPUS = ("a100", "b200", "h100", "h200")  # each has a file of its own in gpus/
MOST_GPUS = 8  # in one machine, connected by NVLink


def parse(target: str) -> tuple[str, str]:
    """Returns the name of a target such as "h100", "h100:8", "v5e:16x16" or "v5p:4x4x4", and its topology.

    A TPU's topology is CHIP:XxY or CHIP:XxYxZ, sizes in chips; a GPU's is "1xNx1" for N GPUs of one machine.

    Raises ValueError for another form, a chip that is not in TOPOLOGIES, a wrong number of axes, or a GPU that is not
    in GPUS.
    """
    name, colon, sizes = target.partition(":")
    if name in GPUS:
        if not re.fullmatch(r"[1-9]\d*", sizes if colon else "1") or int(sizes or 1) > MOST_GPUS:
            raise ValueError(
                f"--target={target}: write {name}, or {name}:N for N GPUs of one machine, at most {MOST_GPUS}"
            )
        return name, f"1x{sizes or 1}x1"
    axes = TOPOLOGIES.get(name, "").count("x") + 1
    if name not in TOPOLOGIES or not re.fullmatch("x".join([r"[1-9]\d*"] * axes), sizes):
        raise ValueError(
            f"--target={target}: write a TPU slice, such as v5e:16x16, v6e:16x16 or v5p:4x4x4 "
            f"(chips: {', '.join(TOPOLOGIES)}), or GPUs, such as h100 or h100:8 (GPUs: {', '.join(GPUS)})"
        )
    return name, target
