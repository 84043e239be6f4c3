"""What `compile_for.py encoder` prints: a table a target, then how auto's choice stands against its targets."""

from collections.abc import Mapping
from typing import Any, TextIO

from kronecker.cross_compile import input_programs, program, targets
from kronecker.runtime import printing
from kronecker.runtime.printing import Table

PROGRAMS = {
    input_programs.FORWARD: "forward",
    input_programs.GRADIENT: "forward + gradient",
    input_programs.UPDATE: "+ AdamW",
}
HEADERS = ("in\nMB", "out\nMB", *program.KINDS, "bound\nms", "by", "compile\ns")
UNITS = {targets.BFLOAT16: "bf16", targets.TF32: "tf32", targets.FLOAT32: "f32"}
NOT_COUNTED = "in loops"


def show(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints what one target's compiler said."""
    gpu = any(row["form"] for row in result["rows"])
    left = ("input side", "program", *(["products"] if gpu else []))
    middle = ("units", "bytes\nMB", "cached\nMB") if gpu else ("passes", "bytes\nMB")
    last = ("total of\nmemory", "custom\ncalls") if gpu else ()
    rows = []
    for row in result["rows"]:
        name = row["name"] + (" (auto)" if row["name"] == result["auto"] else "")
        for measured, one in row["programs"].items():
            form = [row["form"]] if gpu else []
            rows.append((name, PROGRAMS[measured], *form, *_cells(one, result["memory"] if gpu else None)))
            name = ""
    rows += [(name, "refused") for name in result["refused"]]
    printing.show(
        f"\n{result['target']} ({result['kind']}): {peaks(result)}, {result['bandwidth'] / 1e9:,.0f} GB/s",
        Table((*left, "GFLOP", *middle, "temporary\nMB", *last, *HEADERS), rows, left),
        *(f"{name}: {reason}" for name, reason in result["refused"].items()),
        *map(_verdict, result["verdicts"]),
        file=file,
    )


def peaks(result: Mapping[str, Any]) -> str:
    """Returns a target's peaks in words."""
    first, *more = (f"{peak / 1e12:,.0f} in {unit}" for unit, peak in result["peak_flops"].items())
    return " and ".join([first.replace(" in ", " TFLOP/s in "), *more])


def _cells(one: Mapping[str, Any], memory: int | None) -> list[str]:
    counted = one["comparable"]
    slowest = max(one["seconds"], key=one["seconds"].get)
    gpu = memory is not None
    units = "+".join(UNITS[unit] for unit in UNITS if one["flops"].get(unit))
    moved = [one["bytes_accessed"], *([one["cached_bytes"]] if gpu else [])]
    return [
        f"{sum(one['flops'].values()) / 1e9:,.1f}" if counted else NOT_COUNTED,
        units if gpu else str(one["passes"]),
        *(_mb(size) if counted else NOT_COUNTED for size in moved),
        f"{one['temporary_bytes'] / 1e6:,.1f}",
        *([f"{one['total_bytes'] / memory:.1%}", str(sum(one["calls"].values()))] if gpu else []),
        _mb(one["argument_bytes"]),
        _mb(one["output_bytes"]),
        *(str(one["operations"][kind]) for kind in program.KINDS),
        f"{1e3 * one['bound_seconds']:.3f}" if counted else "",
        slowest if counted else "",
        f"{one['compile_seconds']:.0f}",
    ]


def _verdict(verdict: Mapping[str, Any]) -> str:
    met = "met" if verdict["met"] else "not met"
    number, limit = verdict["number"], verdict["limit"]
    if not limit:
        return f"{met:<8} {verdict['what']}: {number:,}; target none"
    if limit >= 1e6:
        return f"{met:<8} {verdict['what']}: {number / 1e6:,.1f} MB; target at most {limit / 1e6:,.0f} MB"
    if limit < 0.1:
        return f"{met:<8} {verdict['what']}: {number:.2%} ({verdict['of']}); target under {limit:.0%}"
    words = "under" if limit == 1 else "at most"
    return f"{met:<8} {verdict['what']}: {number:.2f} ({verdict['of']}); target {words} {limit:g}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}"
