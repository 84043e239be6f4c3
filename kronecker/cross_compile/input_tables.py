"""What `compile_for.py encoder` prints: a table a target, then how auto's choice stands against its targets."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich import box, console, measure, table

from kronecker.cross_compile import input_programs, program, targets

PROGRAMS = {
    input_programs.FORWARD: "forward",
    input_programs.GRADIENT: "forward + gradient",
    input_programs.UPDATE: "+ AdamW",
}
HEADERS = ("in\nMB", "out\nMB", *program.KINDS, "bound\nms", "by", "compile\ns")
UNITS = {targets.BFLOAT16: "bf16", targets.TF32: "tf32", targets.FLOAT32: "f32"}
NOT_COUNTED = "in loops"


def show(result: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints what one target's compiler said."""
    rows = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    gpu = any(row["form"] for row in result["rows"])
    for header in ("input side", "program", *(["products"] if gpu else [])):
        rows.add_column(header, vertical="bottom", no_wrap=True)
    middle = ("units", "bytes\nMB", "cached\nMB") if gpu else ("passes", "bytes\nMB")
    last = ("total of\nmemory", "custom\ncalls") if gpu else ()
    for header in ("GFLOP", *middle, "temporary\nMB", *last, *HEADERS):
        rows.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for row in result["rows"]:
        name = row["name"] + (" (auto)" if row["name"] == result["auto"] else "")
        for measured, one in row["programs"].items():
            form = [row["form"]] if gpu else []
            rows.add_row(name, PROGRAMS[measured], *form, *_cells(one, result["memory"] if gpu else None))
            name = ""
    for name in result["refused"]:
        rows.add_row(name, "refused")
    screen = console.Console(file=file, highlight=False, markup=False)
    natural = measure.Measurement.get(screen, screen.options.update(max_width=1000), rows).maximum
    screen.width = max(screen.width, natural)  # a cut number is worse than a wrapped line
    bandwidth = result["bandwidth"] / 1e9
    screen.print(f"\n{result['target']} ({result['kind']}): {peaks(result)}, {bandwidth:,.0f} GB/s", soft_wrap=True)
    screen.print(rows)
    for name, reason in result["refused"].items():
        screen.print(f"{name}: {reason}", soft_wrap=True)
    for verdict in result["verdicts"]:
        screen.print(_verdict(verdict), soft_wrap=True)


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
