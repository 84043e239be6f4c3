"""What the real TPU compiler makes of our programs, on a machine without a TPU."""

import re

# The chips, each with its smallest topology that is a whole host, which is what the compiler asks for; its sizes are as
# many as the chip's network has axes.  Here, so that a refused flag need not wait for JAX.
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def chip_of(topology: str) -> str:
    """Returns the chip of a topology such as "v5e:16x16" or "v5p:4x4x4": CHIP:XxY or CHIP:XxYxZ, sizes in chips.

    Raises:
      ValueError: if it is not written so, or there is no such chip in TOPOLOGIES, with as many axes.
    """
    name, _, sizes = topology.partition(":")
    axes = TOPOLOGIES.get(name, "").count("x") + 1
    if name not in TOPOLOGIES or not re.fullmatch("x".join([r"[1-9]\d*"] * axes), sizes):
        raise ValueError(
            f"--topology={topology}: write CHIP:SIZES with as many sizes as the chip's network has axes, such as "
            f"v5e:16x16, v6e:16x16 or v5p:4x4x4; chips: {', '.join(TOPOLOGIES)}"
        )
    return name
