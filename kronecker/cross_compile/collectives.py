"""Communication of a compiled program: every collective operation, how often it runs, and its bytes.

A TPU's compiler writes some collectives in other forms.  An all-reduce inside a fusion that keeps a part of the result
is counted as a reduce-scatter.  An asynchronous collective appears in each fusion that it overlaps with, under one
chain id, and is counted once.
"""

import collections
import dataclasses
import math
import re
from typing import Any

from kronecker.cross_compile import hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
OTHER_NAMES = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "collective-permute"}

_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_NAMED = re.compile(r'\bop_name="([^"]*)"')
# Groups are written in three ways: as lists, as an array of shape (groups, members), or as axes of a mesh.
_GROUP_LIST = re.compile(r"\breplica_groups=\{\{([\d,]*)\}")
_GROUP_SHAPE = re.compile(r"\breplica_groups=\[\d+,(\d+)\]")
_GROUP_MESH = re.compile(r"\breplica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^)]*(?:\([^)]*\))?\))? \{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_USED_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program."""

    kind: str  # one of KINDS
    group: int  # devices that take part together
    payload: int  # bytes of a device's full array: before a reduction, after a gather
    times: int  # runs in a step, including repetitions in loops
    source: str  # JAX's name of the model's operation behind it; may be empty

    @property
    def sent(self) -> float:
        """Returns the least bytes that a device sends in one run, for a ring of the group.

        An all-reduce of S bytes over n devices sends 2 (n - 1)/n S, a reduce-scatter, all-gather or all-to-all
        (n - 1)/n S, and a permute S.
        """
        if self.kind == "collective-permute":
            return float(self.payload)
        return (2 if self.kind == "all-reduce" else 1) * (self.group - 1) / self.group * self.payload


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The communication in one run of a program; `sent` is of one device, see `Collective.sent`."""

    collectives: tuple[Collective, ...]  # those over groups of at least two devices
    # loops of unknown length that contain a collective; they are counted once
    unknown_loops: tuple[str, ...]

    @property
    def sent(self) -> float:
        return sum(one.sent * one.times for one in self.collectives)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Returns for each of KINDS that occurs its number of runs, and a device's bytes of payload and sent."""
        sums: dict[str, dict[str, float]] = {}
        for one in self.collectives:
            row = sums.setdefault(one.kind, {"count": 0, "payload_bytes": 0, "sent_bytes": 0.0})
            row["count"] += one.times
            row["payload_bytes"] += one.payload * one.times
            row["sent_bytes"] += one.sent * one.times
        return {kind: sums[kind] for kind in KINDS if kind in sums}

    def largest(self, count: int) -> list[dict[str, Any]]:
        """Returns the `count` largest by bytes sent, summed over collectives of one source and kind."""
        sums = collections.Counter()
        for one in self.collectives:
            sums[one.kind, one.source] += one.sent * one.times
        return [
            {"kind": kind, "source": source, "sent_bytes": sent} for (kind, source), sent in sums.most_common(count)
        ]


def of(text: str, devices: int) -> Exchange:
    """Returns a program's communication, from its text by `jax.stages.Compiled.as_text`.

    A collective without groups is over all devices.
    """
    computations = hlo.parse(text)
    times, unknown = hlo.runs(computations)
    every = [(computation, one) for computation in computations.values() for one in computation.instructions.values()]
    callers = {called: one for _, one in every for called in hlo.calls(one)}
    collectives, holders, chains = [], set(), set()
    for computation, one in every:
        kind = _kind(computation, one)
        if kind is None:
            continue
        if chain := _CHAIN.search(one.attributes):
            key = chain[1], _CHANNEL.search(one.attributes)[1]
            if key in chains:
                continue
            chains.add(key)
        group = devices if kind == "collective-permute" else _group(one.attributes, devices)
        if not times[computation.name] or group < 2:
            continue
        taken = sum(hlo.bytes_of(computation.instructions[name].type) for name in one.operands)
        payload = taken * group if kind == "all-gather" else taken
        named = (_NAMED.search(by.attributes) for by in (one, callers.get(computation.name)) if by)
        source = next((found[1] for found in named if found), "")
        collectives.append(Collective(kind, group, payload, times[computation.name], source))
        holders.add(computation.name)
    hidden = [loop for loop, body in unknown.items() if hlo.within(computations, body) & holders]
    return Exchange(tuple(collectives), tuple(hidden))


def _kind(computation: hlo.Computation, one: hlo.Instruction) -> str | None:
    name = one.operation.removesuffix("-start")
    name = OTHER_NAMES.get(name, name)
    if name == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return name if name in KINDS else None


def _group(attributes: str, devices: int) -> int:
    if listed := _GROUP_LIST.search(attributes):
        return listed[1].count(",") + 1
    if shaped := _GROUP_SHAPE.search(attributes):
        return int(shaped[1])
    if mesh := _GROUP_MESH.search(attributes):
        sizes = {name: int(size) for name, size in _AXIS.findall(mesh[1])}
        return math.prod(int(part) if part else sizes[name] for name, _, part in _USED_AXIS.findall(mesh[2]))
    if "replica_groups=" in attributes and "replica_groups={}" not in attributes:
        raise ValueError(f"unknown format of replica groups; try an older jax: {attributes[:300]}")
    return devices
