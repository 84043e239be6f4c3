"""What compile_for prints: a table a chip, then how auto's choice stands against its targets."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich import box, console, measure, table

from kronecker.cross_compile import program

PROGRAMS = {"gradient": "forward + gradient", "update": "+ AdamW"}
HEADERS = ("GFLOP", "passes", "bytes\nMB", "temporary\nMB", "in\nMB", "out\nMB", *program.KINDS, "bound\nms", "by")
NOT_COUNTED = "in loops"


def show(result: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints what one chip's compiler said."""
    rows = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    rows.add_column("input side", vertical="bottom", no_wrap=True)
    rows.add_column("program", vertical="bottom", no_wrap=True)
    for header in (*HEADERS, "compile\ns"):
        rows.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for row in result["rows"]:
        name = row["name"] + (" (auto)" if row["name"] == result["auto"] else "")
        for measured, title in PROGRAMS.items():
            rows.add_row(name, title, *_cells(row["programs"][measured]))
            name = ""
    for name in result["refused"]:
        rows.add_row(name, "refused")
    screen = console.Console(file=file, highlight=False, markup=False)
    natural = measure.Measurement.get(screen, screen.options.update(max_width=1000), rows).maximum
    screen.width = max(screen.width, natural)  # a cut number is worse than a wrapped line
    peak, bandwidth = result["peak_flops"] / 1e12, result["bandwidth"] / 1e9
    screen.print(f"\n{result['chip']} ({result['kind']}): {peak:,.0f} TFLOP/s in bfloat16, {bandwidth:,.0f} GB/s")
    screen.print(rows)
    for name, reason in result["refused"].items():
        screen.print(f"{name}: {reason}", soft_wrap=True)
    for verdict in result["verdicts"]:
        screen.print(_verdict(verdict), soft_wrap=True)


def _cells(one: Mapping[str, Any]) -> list[str]:
    counted = one["comparable"]
    slowest = max(one["seconds"], key=one["seconds"].get)
    return [
        f"{one['flops'] * one['passes'] / 1e9:,.1f}" if counted else NOT_COUNTED,
        str(one["passes"]),
        _mb(one["bytes_accessed"]) if counted else NOT_COUNTED,
        f"{one['temporary_bytes'] / 1e6:,.1f}",
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
    if limit > 1e6:
        return f"{met:<8} {verdict['what']}: {number / 1e6:,.1f} MB; target at most {limit / 1e6:,.0f} MB"
    if limit < 0.1:
        return f"{met:<8} {verdict['what']}: {number:.2%} ({verdict['of']}); target under {limit:.0%}"
    words = "under" if limit == 1 else "at most"
    return f"{met:<8} {verdict['what']}: {number:.2f} ({verdict['of']}); target {words} {limit:g}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}"
