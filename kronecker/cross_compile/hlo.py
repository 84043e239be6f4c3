"""Parses the text of a compiled program: its computations, their instructions, and how often each runs."""

import dataclasses
import math
import re
from collections.abc import Mapping

ASYNC_PARTS = ("async-update", "async-done")  # they name the computation that async-start runs

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
# `%name = type operation(operands), attributes`; a type has no word before a parenthesis.
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:calls|branch_computations|called_computations)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction."""

    name: str  # without "%"
    type: str  # of its result, as text
    operation: str  # such as "all-reduce"
    operands: tuple[str, ...]  # their names
    inside: str  # the text between the parentheses
    attributes: str  # the text after the parentheses
    root: bool  # whether it is its computation's result


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions, by name."""

    name: str
    entry: bool
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(one for one in self.instructions.values() if one.root)


def parse(text: str) -> dict[str, Computation]:
    """Returns the computations of a program by name, from its text by `jax.stages.Compiled.as_text`."""
    found: dict[str, Computation] = {}
    current = None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = found[header[2]] = Computation(header[2], bool(header[1]), {})
        elif current and (instruction := _instruction(line)):
            current.instructions[instruction.name] = instruction
    return found


def runs(computations: Mapping[str, Computation]) -> tuple[dict[str, int], dict[str, str]]:
    """Returns how often each computation runs, and {loop name: body} for loops of unknown length.

    A loop's body runs once per iteration of every run of the loop.  A loop of unknown length counts as one iteration;
    all branches count as taken; a computation that is called from two places runs for both.
    """
    count = dict.fromkeys(computations, 0)
    unknown = {}

    def visit(name: str, times: int) -> None:
        count[name] += times
        for one in computations[name].instructions.values():
            if one.operation == "while":
                trips, body = trip_count(computations, computations[name], one), _attribute(one, "body")
                if trips is None:
                    unknown[one.name] = body
                visit(body, times * (1 if trips is None else trips))
            else:
                for called in calls(one):
                    visit(called, times)

    visit(next(name for name, one in computations.items() if one.entry), 1)
    return count, unknown


def trip_count(computations: Mapping[str, Computation], around: Computation, loop: Instruction) -> int | None:
    """Returns the number of iterations of a "while" instruction in the computation `around`, or None if unknown.

    It is written in the text, or follows from a counter that has a constant start, step and limit, as in `lax.scan`.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition, body = (computations[_attribute(loop, which)] for which in ("condition", "body"))
    test = condition.root
    if test.operation != "compare" or "direction=LT" not in test.attributes:
        return None
    index = _tuple_index(condition, test.operands[0])
    limit = _constant(condition, test.operands[1])
    carried = around.instructions.get(loop.operands[0])
    if None in (index, limit, carried) or carried.operation != "tuple" or body.root.operation != "tuple":
        return None
    start = _constant(around, carried.operands[index])
    step = _source(body, body.root.operands[index])
    if start is None or step is None or step.operation != "add" or _tuple_index(body, step.operands[0]) != index:
        return None
    by = _constant(body, step.operands[1])
    return max(0, math.ceil((limit - start) / by)) if by and by > 0 else None


def calls(one: Instruction) -> list[str]:
    """Returns the computations that an instruction runs once, such as a fusion's, but not a loop's."""
    if one.operation in ASYNC_PARTS:
        return []
    lists = [name for names in _CALLED_LISTS.findall(one.attributes) for name in _NAME.findall(names)]
    return [*_CALLED.findall(one.attributes), *lists]


def named(one: Instruction) -> list[str]:
    """Returns the computations that an instruction runs, including a loop's condition and body."""
    return [_attribute(one, which) for which in ("condition", "body")] if one.operation == "while" else calls(one)


def within(computations: Mapping[str, Computation], name: str) -> set[str]:
    """Returns the computations that run when `name` does, including itself and those of its loops."""
    found = {name}
    for one in computations[name].instructions.values():
        found.update(*(within(computations, called) for called in named(one)))
    return found


def bytes_of(type_text: str) -> int:
    """Returns the bytes of all arrays in a type such as "(f32[8,128]{1,0}, u32[])", without padding."""
    return sum(math.prod(sizes) * bits(kind) for kind, sizes in arrays(type_text)) // 8


def arrays(type_text: str) -> list[tuple[str, list[int]]]:
    """Returns the arrays in a type, each as its elements' type, such as "f32", and its sizes."""
    return [(kind, [int(size) for size in sizes.split(",") if size]) for kind, sizes in _ARRAY.findall(type_text)]


def bits(kind: str) -> int:
    return 8 if kind == "pred" else 0 if kind == "token" else int(re.search(r"\d+", kind)[0])


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    depth, end = 1, match.end()
    while depth and end < len(line):  # types of operands may contain parentheses
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        end += 1
    inside = line[match.end() : end - 1]
    return Instruction(
        name=match[2],
        type=match[3],
        operation=match[4],
        operands=tuple(_NAME.findall(inside)),
        inside=inside,
        attributes=line[end:],
        root=bool(match[1]),
    )


def _attribute(one: Instruction, key: str) -> str:
    return re.search(rf"\b{key}=%?([\w.\-]+)", one.attributes)[1]


def _source(computation: Computation, name: str) -> Instruction | None:
    one = computation.instructions.get(name)
    while one and one.operation in ("copy", "bitcast"):
        one = computation.instructions.get(one.operands[0])
    return one


def _constant(computation: Computation, name: str) -> int | None:
    one = _source(computation, name)
    whole = one and one.operation == "constant" and re.fullmatch(r"-?\d+", one.inside)
    return int(one.inside) if whole else None


def _tuple_index(computation: Computation, name: str) -> int | None:
    one = _source(computation, name)
    if not one or one.operation != "get-tuple-element":
        return None
    return int(re.search(r"\bindex=(\d+)", one.attributes)[1])
