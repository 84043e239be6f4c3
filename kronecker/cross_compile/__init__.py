"""What the real compiler of a TPU or a GPU makes of our programs, on a machine that has neither."""

import re

# The TPUs, each with its smallest topology that is a whole host, which is what the compiler asks for; its sizes are as
# many as the chip's network has axes.  Here, so that a refused flag need not wait for JAX.
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
GPUS = ("a100", "b200", "h100", "h200")  # each has a file of its own in gpus/
MOST_GPUS = 8  # of a machine, that NVLink joins


def parse(target: str) -> tuple[str, str]:
    """Returns the name of a target such as "h100", "h100:8", "v5e:16x16" or "v5p:4x4x4", and its topology.

    A TPU's topology is CHIP:XxY or CHIP:XxYxZ, sizes in chips; a GPU's is "1xNx1" for N GPUs of one machine.

    Raises ValueError if it is not written so, or there is no such chip in TOPOLOGIES, with as many axes, nor GPU in
    GPUS.
    """
    name, colon, sizes = target.partition(":")
    if name in GPUS:
        if not re.fullmatch(r"[1-9]\d*", sizes if colon else "1") or int(sizes or 1) > MOST_GPUS:
            raise ValueError(
                f"--target={target}: write {name} for one GPU, or {name}:N for N of one machine, at most {MOST_GPUS}"
            )
        return name, f"1x{sizes or 1}x1"
    axes = TOPOLOGIES.get(name, "").count("x") + 1
    if name not in TOPOLOGIES or not re.fullmatch("x".join([r"[1-9]\d*"] * axes), sizes):
        raise ValueError(
            f"--target={target}: write CHIP:SIZES with as many sizes as the chip's network has axes, such as "
            f"v5e:16x16, v6e:16x16 or v5p:4x4x4; chips: {', '.join(TOPOLOGIES)}; or a GPU: {', '.join(GPUS)}, h100:8"
        )
    return name, target
