"""What `compile_for.py train` prints: memory of a device, what the devices exchange, the bound, and the verdicts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich import box, console, measure, table

from kronecker.cross_compile import counts, input_tables


def show(result: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints what the compiler said of every arm's step on one target."""
    screen = console.Console(file=file, highlight=False, markup=False)
    fitting = [row for row in result["rows"] if row["fits"]]
    _print(screen, _memory(fitting, result["memory"]))
    _print(screen, _operations(fitting))
    if any(row["collectives"] for row in fitting):
        _print(screen, _exchanges(fitting))
    _print(screen, _bounds(fitting))
    for row in result["rows"]:
        if not row["fits"]:
            _line(screen, f"{_name(row)}: {row['reason']}")
        elif row["unknown_loops"]:
            _line(screen, f"{_name(row)}: loops of unknown length, counted once: {', '.join(row['unknown_loops'])}")
    for verdict in result["verdicts"]:
        _line(screen, _verdict(verdict))


def show_target(result: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints what is going to be compiled, before it takes its minutes."""
    screen = console.Console(file=file, highlight=False, markup=False)
    mesh = " x ".join(f"mesh.{axis} {size}" for axis, size in result["mesh"].items())
    count = result["devices"]
    _line(
        screen,
        f"{result['target']}: {count} device{'s' if count > 1 else ''} ({result['kind']}), each "
        f"{input_tables.peaks(result)}, {result['memory'] / 2**30:,.0f} GiB at {result['bandwidth'] / 1e9:,.0f} GB/s, "
        f"links {result['links'] / 1e9:,.0f} GB/s; {mesh}; {result['batch']:,} x {result['sequence']:,} tokens a step",
    )
    if result["changes"]:
        changes = " ".join(f"--config.{key}={value}" for key, value in result["changes"].items())
        _line(screen, f"The config is for one device; compiled for these with: {changes}")
    file.flush()


def _memory(rows: Sequence[Mapping[str, Any]], capacity: int) -> table.Table:
    parts = ("arguments", "outputs", "aliased", "temporaries", "code", "total")
    shown = _table("memory of a device, MB", (*parts, "of its\nmemory", "compile\ns"))
    for row in rows:
        memory = row["memory"]
        share = f"{memory['total'] / capacity:.0%}"
        shown.add_row(_name(row), *(_mb(memory[part]) for part in parts), share, f"{row['compile_seconds']:.0f}")
    return shown


def _operations(rows: Sequence[Mapping[str, Any]]) -> table.Table:
    kinds = {"while": "loops", "scatter": "scatters", "gather": "gathers", "sort": "sorts"}
    headers = ("cuDNN attention,\nforward + backward", "other\ncustom calls", *kinds.values())
    shown = _table("operations of a step", headers)
    for row in rows:
        calls = dict(row["calls"])
        attention = [calls.pop(name, 0) for name in (counts.ATTENTION, counts.ATTENTION_BACKWARD)]
        cells = " + ".join(f"{number:,}" for number in attention), f"{sum(calls.values()):,}"
        shown.add_row(_name(row), *cells, *(f"{row['operations'][kind]:,}" for kind in kinds))
    return shown


def _exchanges(rows: Sequence[Mapping[str, Any]]) -> table.Table:
    shown = _table("a device's exchange in a step", ("operations", "payload\nMB", "sent\nMB"), "collective")
    for row in rows:
        name = _name(row)
        for kind, sums in row["collectives"].items():
            shown.add_row(name, kind, f"{sums['count']:,}", _mb(sums["payload_bytes"]), _mb(sums["sent_bytes"]))
            name = ""
        shown.add_row(name, "all", "", "", _mb(row["sent_bytes"]))
    return shown


def _bounds(rows: Sequence[Mapping[str, Any]]) -> table.Table:
    parts = ("compute", "memory", "links")
    gpu = any(row["form"] for row in rows)
    headers = (
        "model\nTFLOP",
        "done\nTFLOP",
        *(["uncached\nms"] if gpu else []),
        *(f"{part}\nms" for part in parts),
        "bound\nms",
        "by",
        "MFU\nat most",
        "tokens/s\nat most",
    )
    shown = _table("roofline of a device", headers)
    for row in rows:
        shown.add_row(
            _name(row),
            f"{row['model_flops'] / 1e12:,.3g}",
            f"{sum(row['flops'].values()) / 1e12:,.3g}",
            *([f"{1e3 * row['uncached_seconds']:,.2f}"] if gpu else []),
            *(f"{1e3 * row['seconds'][part]:,.2f}" for part in parts),
            f"{1e3 * row['bound_seconds']:,.2f}",
            row["by"],
            f"{row['mfu_bound']:.0%}",
            f"{row['tokens_per_second_bound']:,.0f}",
        )
    return shown


def _verdict(verdict: Mapping[str, Any]) -> str:
    numbers = ""
    if verdict["number"] is not None:
        numbers = f": {_mb(verdict['number'])} MB, at most {_mb(verdict['limit'])} MB"
    remedy = f"; {verdict['remedy']}" if verdict.get("remedy") else ""
    return f"{'met' if verdict['met'] else 'not met':<8} {verdict['what']}{numbers}{remedy}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['arm']}, {row['form']}" if row["form"] else row["arm"]


def _table(title: str, headers: Iterable[str], *left: str) -> table.Table:
    shown = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for header in (title, *left):
        shown.add_column(header, vertical="bottom", no_wrap=True)
    for header in headers:
        shown.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    return shown


def _print(screen: console.Console, shown: table.Table) -> None:
    if not shown.row_count:
        return
    natural = measure.Measurement.get(screen, screen.options.update(max_width=1000), shown).maximum
    screen.width = max(screen.width, natural)  # a cut number is worse than a wrapped line
    screen.print()
    screen.print(shown)


def _line(screen: console.Console, text: str) -> None:
    screen.print(text, soft_wrap=True)


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 10e6 or not size else f"{size / 1e6:.2g}"
