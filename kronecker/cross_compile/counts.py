"""FLOPs and bytes of a compiled GPU program, counted from its text, because the GPU's compiler reports neither.

FLOPs are those of matrix products, by the unit that computes them: plain products, Triton fusions, cuBLAS, and cuDNN's
attention over the full T x T square.  Bytes are those that each kernel reads from and writes to the device's memory, as
if the cache were empty when it starts.  A gather reads the rows of its result; an update in place reads and writes the
rows that it changes.  If the array fits into the cache, rows that are used several times are counted once, and the
repetitions as cached bytes.  A loop's body counts once per iteration.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

from kronecker.cross_compile import hlo
from kronecker.cross_compile.targets import BFLOAT16, FLOAT32, TF32

ATTENTION, ATTENTION_BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
# Products of size T x T x h: scores and values forward; scores and the gradients of all four operands backward.
ATTENTION_PRODUCTS = {ATTENTION: 2, ATTENTION_BACKWARD: 5}
CUBLAS = ("__cublas$gemm", "__cublas$lt$matmul")

# Computations called by these operations contain kernels; those called by any other operation are part of its kernel.
_HOLDERS = ("while", "conditional", "call", "async-start")
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all", "partition-id"),
    *("replica-id", "fusion-update", "fusion-done", *_HOLDERS, *hlo.ASYNC_PARTS),
)
_SLICES = ("gather", "dynamic-slice", "slice")  # they read only their result's size of their first operand
_ELEMENTWISE = (
    *("bitcast", "reshape", "copy", "convert", "transpose", "negate", "abs", "not", "sqrt", "rsqrt", "exponential"),
    *("log", "tanh", "sign", "add", "subtract", "multiply", "divide", "maximum", "minimum", "and", "or", "compare"),
    *("select", "clamp", "power", "remainder", "floor", "cosine", "sine", "logistic", "is-finite"),
)

_TARGET = re.compile(r'\bcustom_call_target="([^"]*)"')
_CONTRACTED = re.compile(r'\blhs_contracting_dim(?:ension)?s"?[=:]\s*[{\[]([^}\]]*)[}\]]')
_PRECISION = re.compile(r"\boperand_precision\"?[=:]\s*[{\[]([^}\]]*)[}\]]")
_ALGORITHM = re.compile(r'\balgorithm"?[=:]"?(?:ALG_)?dot_(bf16|tf32|f32)_\w+?(?:_x(\d))?\b', re.IGNORECASE)
_UNIT = {"bf16": BFLOAT16, "tf32": TF32, "f32": FLOAT32}


@dataclasses.dataclass(frozen=True)
class Counts:
    """The work of a program in one run."""

    flops: dict[str, float]  # of matrix products by unit, including all passes of a product
    bytes_accessed: float  # read from and written to the device's memory
    cached_bytes: float  # served by the cache in addition, where gathers and updates use a small array many times
    calls: dict[str, int]  # custom call -> its runs
    unknown_loops: tuple[str, ...]  # loops of unknown length; they are counted once


def of(text: str, cache: int = 0) -> Counts:
    """Returns the counts of a program, from its text by `jax.stages.Compiled.as_text`.

    `cache` is the size of the device's cache in bytes.
    """
    computations = hlo.parse(text)
    times, unknown = hlo.runs(computations)
    kernels = _holding_kernels(computations)
    flops, calls, moved, cached = collections.Counter(), collections.Counter(), 0.0, 0.0
    for computation in computations.values():
        often = times[computation.name]
        for one in computation.instructions.values():
            if product := _product(computation, one):
                flops[product[0]] += often * product[1]
            if called := _TARGET.search(one.attributes):
                calls[called[1]] += often
            if computation.name in kernels:
                near, far = _traffic(computations, computation, one, cache)
                moved, cached = moved + often * near, cached + often * far
    return Counts(dict(flops), moved, cached, dict(calls), tuple(unknown))


def _holding_kernels(computations: Mapping[str, hlo.Computation]) -> set[str]:
    found, left = set(), [next(name for name, one in computations.items() if one.entry)]
    while left:
        found.add(name := left.pop())
        for one in computations[name].instructions.values():
            if one.operation in _HOLDERS:
                left += [inner for inner in hlo.named(one) if inner not in found]
    return found


def _product(computation: hlo.Computation, one: hlo.Instruction) -> tuple[str, float] | None:
    """Returns the unit of a matrix product and its FLOPs in all passes; None for other instructions."""
    called = _TARGET.search(one.attributes) if one.operation == "custom-call" else None
    if called and called[1] in ATTENTION_PRODUCTS:
        queries, keys = (_shape(computation, name)[1] for name in one.operands[:2])
        return BFLOAT16, 2.0 * ATTENTION_PRODUCTS[called[1]] * math.prod(queries) * keys[1]
    if one.operation != "dot" and not (called and called[1] in CUBLAS):
        return None
    kind, sizes = _shape(computation, one.operands[0])
    contracted = [int(axis) for axis in re.findall(r"\d+", _CONTRACTED.search(one.attributes)[1])]
    flops = 2.0 * math.prod(hlo.arrays(one.type)[0][1]) * math.prod(sizes[axis] for axis in contracted)
    if algorithm := _ALGORITHM.search(one.attributes):
        return _UNIT[algorithm[1].lower()], flops * int(algorithm[2] or 1)
    if kind != "f32":
        return (FLOAT32 if kind in ("f64", "s32") else BFLOAT16), flops
    precision = _PRECISION.search(one.attributes)
    return (FLOAT32 if precision and "highest" in precision[1].lower() else TF32), flops


def _traffic(
    computations: Mapping[str, hlo.Computation], computation: hlo.Computation, one: hlo.Instruction, cache: int
) -> tuple[float, float]:
    """Returns the bytes that a kernel moves from and to the device's memory, and from and to its cache."""
    if one.operation in _FREE:
        return 0.0, 0.0
    if one.operation.endswith("-done"):
        return float(hlo.bytes_of(one.type)), 0.0
    if one.operation in ("fusion", "fusion-start"):
        inside = computations[hlo.calls(one)[0]]
        taken = [inner for inner in inside.instructions.values() if inner.operation == "parameter"]
        moves = [_touched(inside, inner, inside.instructions.values(), True, cache) for inner in taken]
        results = [inside.root]
        if inside.root.operation == "tuple":
            results = [inside.instructions[name] for name in inside.root.operands]
        moves += [_given(inside, result, cache) for result in results]
    else:
        taken = [computation.instructions[name] for name in dict.fromkeys(one.operands)]
        moves = [_touched(computation, value, [one], False, cache) for value in taken]
        if not one.operation.endswith("-start"):
            called = _TARGET.search(one.attributes)
            is_library = called and called[1].startswith(("__cub", "__cudnn"))
            moves.append((_without_workspace(one), 0.0) if is_library else _given(computation, one, cache))
    return sum(near for near, _ in moves), sum(far for _, far in moves)


def _touched(
    computation: hlo.Computation, value: hlo.Instruction, users: Iterable[hlo.Instruction], fused: bool, cache: int
) -> tuple[float, float]:
    """Returns the bytes that `users` read of an array, from the memory and from the cache."""
    size = float(hlo.bytes_of(value.type))
    parts, whole = _parts(computation, value.name, users, fused)
    return _through_cache(parts * size / max(1, _elements(value.type)), size, whole, cache)


def _parts(
    computation: hlo.Computation, name: str, users: Iterable[hlo.Instruction], fused: bool
) -> tuple[float, bool]:
    """Returns the elements that slices read of an array, and whether an instruction reads all of it.

    In a fusion an elementwise operation reads only what the users of its result read.
    """
    parts, whole = 0.0, False
    for one in users:
        if fused and one.operation in _ELEMENTWISE and not one.root and name in one.operands:
            more, all_of_it = _parts(computation, one.name, computation.instructions.values(), fused)
            parts, whole = parts + more, whole or all_of_it
            continue
        for position in [i for i, operand in enumerate(one.operands) if operand == name]:
            if one.operation in _SLICES and position == 0:
                parts += _elements(one.type)
            elif one.operation == "dynamic-update-slice" and position == 0:
                pass  # written in place
            elif one.operation == "scatter" and position < len(one.operands) // 2:
                parts += _elements(computation.instructions[one.operands[-1]].type)  # scatter reads what it adds to
            else:
                whole = True
    return parts, whole


def _given(computation: hlo.Computation, one: hlo.Instruction, cache: int) -> tuple[float, float]:
    """Returns the bytes that are written for a result, to the memory and to the cache."""
    size, source = float(hlo.bytes_of(one.type)), one
    while source.operation in ("bitcast", "reshape"):
        source = computation.instructions[source.operands[0]]
    if source.operation == "dynamic-update-slice":
        return float(hlo.bytes_of(computation.instructions[source.operands[1]].type)), 0.0
    if source.operation == "scatter":
        changed = _elements(computation.instructions[source.operands[-1]].type)
        return _through_cache(changed * size / max(1, _elements(one.type)), size, False, cache)
    return size, 0.0


def _through_cache(parts: float, size: float, whole: bool, cache: int) -> tuple[float, float]:
    """Returns bytes from memory and from cache, if slices read `parts` bytes and, if `whole`, also the full array."""
    total = parts + whole * size
    near = min(total, size) if size <= cache else total
    return near, total - near


def _without_workspace(one: hlo.Instruction) -> float:
    results = hlo.arrays(one.type)
    if len(results) > 1 and results[-1][0] in ("s8", "u8"):
        results = results[:-1]
    return float(sum(hlo.bits(kind) * math.prod(sizes) for kind, sizes in results) // 8)


def _shape(computation: hlo.Computation, name: str) -> tuple[str, list[int]]:
    return hlo.arrays(computation.instructions[name].type)[0]


def _elements(type_text: str) -> float:
    return float(sum(math.prod(sizes) for _, sizes in hlo.arrays(type_text)))
