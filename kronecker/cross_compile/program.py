"""One compiled program: its operations, FLOPs, bytes and memory, and the bound that they imply."""

import collections
import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kronecker.cross_compile import counts, targets
from kronecker.training import plan

KINDS = ("convolution", "dot", "gather", "scatter", "sort", "while", "fusion")
# An instruction of the optimised program: `%name = type operation(operands)`; a type holds no word before a bracket.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = .*?\s([a-z][\w\-]*)\(", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Program:
    """What is known of a program: of a TPU's what its compiler says, of a GPU's what `counts` reads in its text."""

    # by the unit that makes them (targets.BFLOAT16, ...), all passes; of a GPU's program matrix products alone
    flops: dict[str, float]
    passes: int  # that a TPU's matrix units make over each product to reach its precision
    # by all operations.  A TPU's compiler counts traffic inside the chip and the whole operand of a gather too
    bytes_accessed: float
    cached_bytes: float  # that a GPU's cache serves beside them
    temporary_bytes: int  # beside arguments and results
    argument_bytes: int  # of what it takes in
    output_bytes: int  # of what it gives back
    total_bytes: int  # that have to be there at once
    operations: dict[str, int]  # how many of each of KINDS, those inside fusions included
    calls: dict[str, int]  # how often each custom call runs, by what it calls; a TPU's are not counted
    # whether FLOPs and bytes are whole: what a TPU's compiler counts of a program with loops is not, nor what is
    # counted of one with a loop of unknown length
    comparable: bool
    compile_seconds: float

    @property
    def product_flops(self) -> float:
        return sum(self.flops.values())

    def seconds(self, target: targets.Target) -> dict[str, float]:
        """Returns the least time for the FLOPs at the peaks and for the bytes at the memory's bandwidth."""
        return {"compute": compute_seconds(self.flops, target), "memory": self.bytes_accessed / target.bandwidth}

    def to_json(self, target: targets.Target) -> dict[str, Any]:
        """Returns all of it, with the bound on `target`; None where the numbers do not give one."""
        bound = max(self.seconds(target).values()) if self.comparable else None
        return dataclasses.asdict(self) | {"seconds": self.seconds(target), "bound_seconds": bound}


def compute_seconds(flops: Mapping[str, float], target: targets.Target) -> float:
    """Returns the least time for FLOPs by unit: kernels, and hence units, take turns."""
    return sum(amount / target.peaks[unit] for unit, amount in flops.items())


def compile_for(
    target: targets.Target,
    function: Callable,
    arguments: Sequence[Any],
    passes: int = 1,
    donate: Sequence[int] = (),
) -> dict[str, Program]:
    """Returns what the compiler makes of `function` on one device, by the target's forms.

    Args:
      function: what jax.jit takes.
      arguments: trees of arrays or shapes.
      passes: see `Program`; counted only if there is a product, and on a TPU.
      donate: arguments whose memory the results may take.

    Raises:
      ValueError: if the compiler refuses, say because the program does not fit the device.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=target.sharding), arguments)
    lowered = jax.jit(function, donate_argnums=tuple(donate)).lower(*shapes)
    return {form: _compile(target, lowered, options, passes) for form, options in target.forms.items()}


def count_operations(text: str) -> dict[str, int]:
    """Returns how many instructions of each of KINDS a program's text has, in all of its computations."""
    found = collections.Counter(_OPERATION.findall(text))
    return {kind: found[kind] for kind in KINDS}


def _compile(target: targets.Target, lowered: jax.stages.Lowered, options: Mapping[str, bool], passes: int) -> Program:
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the compiler for {target.name} refuses it: {str(error).splitlines()[0]}") from None
    seconds, text, memory = time.perf_counter() - start, compiled.as_text(), plan.Memory.of(compiled)
    operations = count_operations(text)
    if target.is_gpu:
        counted = counts.of(text, target.cache)
        flops, passes, moved = counted.flops, 1, counted.bytes_accessed
        cached, calls, comparable = counted.cached_bytes, counted.calls, not counted.unknown_loops
    else:
        cost = compiled.cost_analysis()
        passes = passes if operations["convolution"] + operations["dot"] else 1
        flops, moved = {targets.BFLOAT16: passes * cost["flops"]}, cost["bytes accessed"]
        cached, calls, comparable = 0.0, {}, not operations["while"]
    return Program(
        flops=flops,
        passes=passes,
        bytes_accessed=moved,
        cached_bytes=cached,
        temporary_bytes=memory.temporaries,
        argument_bytes=memory.arguments,
        output_bytes=memory.outputs,
        total_bytes=memory.total,
        operations=operations,
        calls=calls,
        comparable=comparable,
        compile_seconds=seconds,
    )
