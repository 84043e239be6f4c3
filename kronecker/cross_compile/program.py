"""One compiled program: what its compiler says of operations, bytes and memory, and the bound that they imply."""

import collections
import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from kronecker.cross_compile import targets

KINDS = ("convolution", "dot", "gather", "scatter", "sort", "while", "fusion")
# An instruction of the optimised program: `%name = type operation(operands)`; a type holds no word before a bracket.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = .*?\s([a-z][\w\-]*)\(", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a program.

    Attributes:
      flops: of one pass over each product, as the compiler counts them; a loop's body counts once.
      passes: that the matrix units make over each product to reach its precision.
      bytes_accessed: by all operations; traffic inside the chip and the whole operand of a gather count too.
      temporary_bytes: beside arguments and results.
      argument_bytes: of what it takes in.
      output_bytes: of what it gives back.
      operations: how many of each of KINDS, those inside fusions included.
      compile_seconds: on this machine.
    """

    flops: float
    passes: int
    bytes_accessed: float
    temporary_bytes: int
    argument_bytes: int
    output_bytes: int
    operations: dict[str, int]
    compile_seconds: float

    @property
    def comparable(self) -> bool:
        """Returns whether FLOPs and bytes are whole: a program with loops does more than is counted."""
        return not self.operations["while"]

    @property
    def product_flops(self) -> float:
        """Returns the FLOPs of all passes."""
        return self.flops * self.passes

    def seconds(self, chip: targets.Chip) -> dict[str, float]:
        """Returns the least time for the FLOPs at the chip's peak and for the bytes at its memory's bandwidth."""
        return {"compute": self.product_flops / chip.peak, "memory": self.bytes_accessed / chip.bandwidth}

    def to_json(self, chip: targets.Chip) -> dict[str, Any]:
        """Returns all of it, with the bound on `chip`; None where the numbers do not give one."""
        bound = max(self.seconds(chip).values()) if self.comparable else None
        derived = {"comparable": self.comparable, "seconds": self.seconds(chip), "bound_seconds": bound}
        return dataclasses.asdict(self) | derived


def compile_for(
    chip: targets.Chip, function: Callable, arguments: Sequence[Any], passes: int, donate: Sequence[int] = ()
) -> Program:
    """Returns what the compiler makes of `function` on one chip.

    Args:
      chip: to compile for.
      function: what jax.jit takes.
      arguments: trees of arrays or shapes.
      passes: see `Program`; counted only if there is a product.
      donate: arguments whose memory the results may take.

    Raises:
      ValueError: if the compiler refuses, say because the program does not fit the chip.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip.sharding), arguments)
    start = time.perf_counter()
    try:
        compiled = jax.jit(function, donate_argnums=tuple(donate)).lower(*shapes).compile()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the compiler for {chip.name} refuses it: {str(error).splitlines()[0]}") from None
    seconds = time.perf_counter() - start
    operations = count_operations(compiled.as_text())
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return Program(
        flops=cost["flops"],
        passes=passes if operations["convolution"] + operations["dot"] else 1,
        bytes_accessed=cost["bytes accessed"],
        temporary_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        operations=operations,
        compile_seconds=seconds,
    )


def count_operations(text: str) -> dict[str, int]:
    """Returns how many instructions of each of KINDS a program's text has, in all of its computations."""
    found = collections.Counter(_OPERATION.findall(text))
    return {kind: found[kind] for kind in KINDS}
