"""What `compile_for.py encoder` prints: tables for each target, and the verdicts on auto's choice."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kronecker.cross_compile import input_programs, program, targets
from kronecker.runtime import printing
from kronecker.runtime.printing import Table

PROGRAMS = {
    input_programs.FORWARD: "forward",
    input_programs.GRADIENT: "forward + gradient",
    input_programs.UPDATE: "+ AdamW",
}
UNITS = {targets.BFLOAT16: "bf16", targets.TF32: "tf32", targets.FLOAT32: "f32"}
NOT_COUNTED = "unknown"

Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]  # header -> cell of a program, or of an arm


def show(result: Mapping[str, Any]) -> None:
    rows, gpu = result["rows"], any(row["form"] for row in result["rows"])
    memory = result["memory"] if gpu else None
    printing.show(
        f"\n{result['target']} ({result['kind']}): {peaks(result)}, {result['bandwidth'] / 1e9:,.0f} GB/s",
        f"auto chooses {result['auto']}",
        *(part for columns in (_work(gpu), _memory(memory), _operations(rows)) for part in ("", _table(rows, columns))),
        "",
        *(f"{name}: not compiled, {reason}" for name, reason in result["refused"].items()),
        *map(_verdict, result["verdicts"]),
        wrap=True,
    )


def peaks(result: Mapping[str, Any]) -> str:
    first, *more = (f"{peak / 1e12:,.0f} in {unit}" for unit, peak in result["peak_flops"].items())
    return " and ".join([first.replace(" in ", " TFLOP/s in "), *more])


def _table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Table:
    cells = []
    for row in rows:
        cells.append((", ".join(filter(None, (row["name"], row["form"]))),))
        for name, one in row["programs"].items():
            cells.append((f"  {PROGRAMS[name]}", *(cell(one) for cell in columns.values())))
    return Table(("input side, program", *columns), cells, ("input side, program",))


def _work(gpu: bool) -> Columns:
    units = {"units": lambda one: "+".join(UNITS[unit] for unit in UNITS if one["flops"].get(unit))}
    passes = {"passes": lambda one: str(one["passes"])}
    cached = {"cached\nMB": _counted(lambda one: _mb(one["cached_bytes"]))}
    return {
        "GFLOP": _counted(lambda one: f"{sum(one['flops'].values()) / 1e9:,.1f}"),
        **(units if gpu else passes),
        "bytes\nMB": _counted(lambda one: _mb(one["bytes_accessed"])),
        **(cached if gpu else {}),
        "bound\nms": _counted(lambda one: f"{1e3 * one['bound_seconds']:.3f}"),
        "limit": _counted(lambda one: max(one["seconds"], key=one["seconds"].get)),
    }


def _memory(memory: int | None) -> Columns:
    total = {"total, %\nof memory": lambda one: f"{100 * one['total_bytes'] / memory:.1f}"}
    return {
        "arguments\nMB": lambda one: _mb(one["argument_bytes"]),
        "results\nMB": lambda one: _mb(one["output_bytes"]),
        "temporary\nMB": lambda one: f"{one['temporary_bytes'] / 1e6:,.1f}",
        **(total if memory else {}),
        "compile\ns": lambda one: f"{one['compile_seconds']:.0f}",
    }


def _operations(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Returns a column for each kind of operation that a program has."""
    columns = {kind: lambda one, kind=kind: f"{one['operations'][kind]:,}" for kind in program.KINDS}
    columns["custom\ncall"] = lambda one: f"{sum(one['calls'].values()):,}"
    programs = [one for row in rows for one in row["programs"].values()]
    return {header: cell for header, cell in columns.items() if any(cell(one) != "0" for one in programs)}


def _counted(cell: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda one: cell(one) if one["comparable"] else NOT_COUNTED


def _verdict(verdict: Mapping[str, Any]) -> str:
    met = "met" if verdict["met"] else "not met"
    number, limit = verdict["number"], verdict["limit"]
    if not limit:
        found = f"{number:,}, target 0"
    elif limit >= 1e6:
        found = f"{number / 1e6:,.1f} MB, target at most {limit / 1e6:,.0f} MB"
    elif limit < 0.1:
        found = f"{100 * number:.2f} % ({verdict['of']}), target below {100 * limit:.0f} %"
    else:
        found = f"{number:.2f} ({verdict['of']}), target {'below' if limit == 1 else 'at most'} {limit:.2f}"
    return f"{met:<8} {verdict['what']}\n{'':<8} {found}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}"
