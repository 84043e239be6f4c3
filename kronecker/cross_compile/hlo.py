"""The text of a compiled program: its computations, their instructions, and how often each of them runs."""

import dataclasses
import math
import re
from collections.abc import Mapping

ASYNC_PARTS = ("async-update", "async-done")  # they name the computation that their async-start runs

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
# `%name = type operation(operands), attributes`; a type holds no word before a bracket.
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:calls|branch_computations|called_computations)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: without "%".
      type: of its result, as the text has it.
      operation: such as "all-reduce".
      operands: the names of what it takes.
      inside: the text between its brackets.
      attributes: the text after them.
      root: whether it is its computation's result.
    """

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions, by name."""

    name: str
    entry: bool
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """Returns the instruction whose result is the computation's."""
        return next(one for one in self.instructions.values() if one.root)


def parse(text: str) -> dict[str, Computation]:
    """Returns the computations of a program's text, by name.

    Args:
      text: what `jax.stages.Compiled.as_text` returns.
    """
    found: dict[str, Computation] = {}
    current = None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = found[header[2]] = Computation(header[2], bool(header[1]), {})
        elif current and (instruction := _instruction(line)):
            current.instructions[instruction.name] = instruction
    return found


def runs(computations: Mapping[str, Computation]) -> tuple[dict[str, int], dict[str, str]]:
    """Returns how often each computation runs, and the bodies of the loops whose length the text does not tell.

    The bodies have the names of their loops for keys.

    A loop's body runs as often as the loop goes round, times the runs of what holds the loop.  A loop of unknown length
    is taken to go round once, a branch to be taken.  A computation that is called from two places runs for both.

    Args:
      computations: of a whole program.
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
    """Returns how often a loop goes round, or None where the text does not tell.

    Either the compiler wrote it down, or it is a counter that starts at a constant, grows by one and is compared with
    a third: every `lax.scan` is.

    Args:
      computations: of the program.
      around: the one that holds the loop.
      loop: its "while".
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
    """Returns the computations that an instruction runs once, such as a fusion's; a loop's are not among them."""
    if one.operation in ASYNC_PARTS:
        return []
    lists = [name for names in _CALLED_LISTS.findall(one.attributes) for name in _NAME.findall(names)]
    return [*_CALLED.findall(one.attributes), *lists]


def named(one: Instruction) -> list[str]:
    """Returns the computations that an instruction runs, a loop's condition and body among them."""
    return [_attribute(one, which) for which in ("condition", "body")] if one.operation == "while" else calls(one)


def within(computations: Mapping[str, Computation], name: str) -> set[str]:
    """Returns the computations that run when `name` does, itself included, those of its loops too."""
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
    """Returns the bits of an element of an array of this type."""
    return 8 if kind == "pred" else 0 if kind == "token" else int(re.search(r"\d+", kind)[0])


def operand_bytes(computation: Computation, instruction: Instruction) -> int:
    """Returns the bytes of all that an instruction takes."""
    return sum(bytes_of(computation.instructions[name].type) for name in instruction.operands)


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    depth, end = 1, match.end()
    while depth and end < len(line):  # types of operands, where the text has them, hold brackets too
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
