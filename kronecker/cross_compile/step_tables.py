"""What `compile_for.py train` prints: memory of a device, what the devices exchange, the bound, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kronecker.cross_compile import counts, input_tables
from kronecker.runtime import printing
from kronecker.runtime.printing import Table


def show(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints what the compiler said of every arm's step on one target."""
    fitting = [row for row in result["rows"] if row["fits"]]
    tables = (_memory(fitting, result["memory"]), _operations(fitting), _exchanges(fitting), _bounds(fitting))
    lines = []
    for row in result["rows"]:
        if not row["fits"]:
            lines.append(f"{_name(row)}: {row['reason']}")
        elif row["unknown_loops"]:
            lines.append(f"{_name(row)}: loops of unknown length, counted once: {', '.join(row['unknown_loops'])}")
    apart = (part for table in tables if table.rows for part in ("", table))
    printing.show(*apart, *lines, *map(_verdict, result["verdicts"]), file=file)


def show_target(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints what is going to be compiled, before it takes its minutes."""
    mesh = " x ".join(f"mesh.{axis} {size}" for axis, size in result["mesh"].items())
    count = result["devices"]
    printing.show(
        f"{result['target']}: {count} device{'s' if count > 1 else ''} ({result['kind']}), each "
        f"{input_tables.peaks(result)}, {result['memory'] / 2**30:,.0f} GiB at {result['bandwidth'] / 1e9:,.0f} GB/s, "
        f"links {result['links'] / 1e9:,.0f} GB/s; {mesh}; {result['batch']:,} x {result['sequence']:,} tokens a step",
        file=file,
    )
    if result["changes"]:
        changes = " ".join(f"--config.{key}={value}" for key, value in result["changes"].items())
        printing.show(f"The config is for one device; compiled for these with: {changes}", file=file)


def _memory(rows: Sequence[Mapping[str, Any]], capacity: int) -> Table:
    parts = ("arguments", "outputs", "aliased", "temporaries", "code", "total")
    shown = []
    for row in rows:
        memory = row["memory"]
        share = f"{memory['total'] / capacity:.0%}"
        shown.append((_name(row), *(_mb(memory[part]) for part in parts), share, f"{row['compile_seconds']:.0f}"))
    return _table("memory of a device, MB", (*parts, "of its\nmemory", "compile\ns"), shown)


def _operations(rows: Sequence[Mapping[str, Any]]) -> Table:
    kinds = {"while": "loops", "scatter": "scatters", "gather": "gathers", "sort": "sorts"}
    headers = ("cuDNN attention,\nforward + backward", "other\ncustom calls", *kinds.values())
    shown = []
    for row in rows:
        calls = dict(row["calls"])
        attention = [calls.pop(name, 0) for name in (counts.ATTENTION, counts.ATTENTION_BACKWARD)]
        cells = " + ".join(f"{number:,}" for number in attention), f"{sum(calls.values()):,}"
        shown.append((_name(row), *cells, *(f"{row['operations'][kind]:,}" for kind in kinds)))
    return _table("operations of a step", headers, shown)


def _exchanges(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = []
    for row in rows if any(row["collectives"] for row in rows) else ():
        name = _name(row)
        for kind, sums in row["collectives"].items():
            shown.append((name, kind, f"{sums['count']:,}", _mb(sums["payload_bytes"]), _mb(sums["sent_bytes"])))
            name = ""
        shown.append((name, "all", "", "", _mb(row["sent_bytes"])))
    headers = ("operations", "payload\nMB", "sent\nMB")
    return _table("a device's exchange in a step", headers, shown, "collective")


def _bounds(rows: Sequence[Mapping[str, Any]]) -> Table:
    parts = ("compute", "memory", "links")
    gpu = any(row["form"] for row in rows)
    headers = (
        *("model\nTFLOP", "done\nTFLOP", *(["uncached\nms"] if gpu else []), *(f"{part}\nms" for part in parts)),
        *("bound\nms", "by", "MFU\nat most", "tokens/s\nat most"),
    )
    shown = [
        (
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
        for row in rows
    ]
    return _table("roofline of a device", headers, shown)


def _verdict(verdict: Mapping[str, Any]) -> str:
    numbers = ""
    if verdict["number"] is not None:
        numbers = f": {_mb(verdict['number'])} MB, at most {_mb(verdict['limit'])} MB"
    remedy = f"; {verdict['remedy']}" if verdict.get("remedy") else ""
    return f"{'met' if verdict['met'] else 'not met':<8} {verdict['what']}{numbers}{remedy}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['arm']}, {row['form']}" if row["form"] else row["arm"]


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], *left: str) -> Table:
    return Table((title, *left, *headers), rows, (title, *left))


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 10e6 or not size else f"{size / 1e6:.2g}"
