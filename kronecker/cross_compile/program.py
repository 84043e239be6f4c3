"""One compiled program: its operations, FLOPs, bytes and memory, and the time bound that follows."""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kronecker.cross_compile import counts, hlo, targets
from kronecker.training import plan

KINDS = ("convolution", "dot", "gather", "scatter", "sort", "while", "fusion")


@dataclasses.dataclass(frozen=True)
class Program:
    """Counts of a program: on a TPU from its compiler, on a GPU by `counts` from its text."""

    # by unit (targets.BFLOAT16, ...), in all passes; on a GPU of matrix products only
    flops: dict[str, float]
    passes: int  # of a TPU's matrix units over each product to reach its precision
    # by all operations; on a TPU including traffic inside the chip and the full operand of a gather
    bytes_accessed: float
    cached_bytes: float  # served by a GPU's cache in addition
    temporary_bytes: int  # besides arguments and results
    argument_bytes: int
    output_bytes: int
    total_bytes: int  # needed at once
    operations: dict[str, int]  # number of each of KINDS, including those inside fusions
    calls: dict[str, int]  # custom call -> its runs; empty on a TPU
    # whether FLOPs and bytes are complete: a TPU's compiler counts a loop's body once, and on a GPU a loop may have
    # unknown length
    comparable: bool
    compile_seconds: float

    def seconds(self, target: targets.Target) -> dict[str, float]:
        """Returns lower bounds on the time: FLOPs at the peaks, and bytes at the memory's bandwidth."""
        return {"compute": compute_seconds(self.flops, target), "memory": self.bytes_accessed / target.bandwidth}

    def to_json(self, target: targets.Target) -> dict[str, Any]:
        """Returns all fields and the bound on `target`, which is None if the counts are incomplete."""
        bound = max(self.seconds(target).values()) if self.comparable else None
        return dataclasses.asdict(self) | {"seconds": self.seconds(target), "bound_seconds": bound}


def compute_seconds(flops: Mapping[str, float], target: targets.Target) -> float:
    """Returns the least time for FLOPs by unit; units work one after another, as kernels do."""
    return sum(amount / target.peaks[unit] for unit, amount in flops.items())


def compile_for(
    target: targets.Target, function: Callable, arguments: Sequence[Any], passes: int = 1, donate: Sequence[int] = ()
) -> dict[str, Program]:
    """Returns `function` compiled for one device, in each of the target's forms.

    `arguments` are trees of arrays or shapes, `donate` the indices of those whose memory the results may use; `passes`
    is as in `Program`.  Raises ValueError if the compiler rejects it, for example because it does not fit the device.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=target.sharding), arguments)
    lowered = jax.jit(function, donate_argnums=tuple(donate)).lower(*shapes)
    return {form: _compile(target, lowered, options, passes) for form, options in target.forms.items()}


def count_operations(text: str) -> dict[str, int]:
    """Returns the number of instructions of each of KINDS in all computations of a program's text."""
    computations = hlo.parse(text).values()
    found = collections.Counter(one.operation for inside in computations for one in inside.instructions.values())
    return {kind: found[kind] for kind in KINDS}


def _compile(target: targets.Target, lowered: jax.stages.Lowered, options: Mapping[str, bool], passes: int) -> Program:
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"the compiler for {target.name} rejects this program; try fewer --tokens: {why}") from None
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
