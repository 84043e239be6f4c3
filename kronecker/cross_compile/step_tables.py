"""What `compile_for.py train` prints: a device's memory, operations, communication and bounds, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kronecker.cross_compile import counts, input_tables
from kronecker.runtime import printing
from kronecker.runtime.printing import Table


def show(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    fitting = [row for row in result["rows"] if row["fits"]]
    titled = {
        "memory of a device, MB": _memory(fitting, result["memory"]),
        "operations of a step": _operations(fitting),
        "communication of a device in a step": _exchanges(fitting),
        "work of a device in a step, and lower bounds on its time": _times(fitting),
        "bounds of a step": _bounds(fitting),
    }
    lines = []
    for row in result["rows"]:
        if not row["fits"]:
            lines.append(f"{_name(row)}: {row['reason']}")
        elif row["unknown_loops"]:
            lines.append(f"{_name(row)}: loops of unknown length are counted once: {', '.join(row['unknown_loops'])}")
    apart = (part for title, table in titled.items() if table.rows for part in (f"\n{title}", table))
    printing.show(*apart, "", *lines, *map(_verdict, result["verdicts"]), file=file)


def show_target(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    mesh = " x ".join(f"mesh.{axis} {size}" for axis, size in result["mesh"].items())
    count = result["devices"]
    printing.show(
        f"{result['target']}: {count} device{'s' if count > 1 else ''} ({result['kind']})",
        f"{mesh}, batch {result['batch']:,} x {result['sequence']:,} tokens",
        f"each {input_tables.peaks(result)}",
        f"each {result['memory'] / 2**30:,.0f} GiB at {result['bandwidth'] / 1e9:,.0f} GB/s, links "
        f"{result['links'] / 1e9:,.0f} GB/s",
        file=file,
    )
    if result["changes"]:
        changes = " ".join(f"--config.{key}={value}" for key, value in result["changes"].items())
        printing.show(f"The config is for one device; these keys are changed: {changes}", file=file)


def _memory(rows: Sequence[Mapping[str, Any]], capacity: int) -> Table:
    parts = ("arguments", "outputs", "aliased", "temporaries", "total")
    shown = []
    for row in rows:
        memory = row["memory"]
        share = f"{100 * memory['total'] / capacity:.0f}"
        shown.append((_name(row), *(_mb(memory[part]) for part in parts), share))
    return _table((*parts, "% of\ndevice"), shown)


def _operations(rows: Sequence[Mapping[str, Any]]) -> Table:
    kinds = {"while": "loops", "scatter": "scatters", "gather": "gathers", "sort": "sorts"}
    headers = ("cuDNN\nattention", "custom\ncalls", *kinds.values())
    shown = []
    for row in rows:
        calls = dict(row["calls"])
        attention = [calls.pop(name, 0) for name in (counts.ATTENTION, counts.ATTENTION_BACKWARD)]
        cells = " + ".join(f"{number:,}" for number in attention), f"{sum(calls.values()):,}"
        shown.append((_name(row), *cells, *(f"{row['operations'][kind]:,}" for kind in kinds)))
    return _table(headers, shown)


def _exchanges(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = []
    for row in rows if any(row["collectives"] for row in rows) else ():
        name = _name(row)
        for kind, sums in row["collectives"].items():
            shown.append((name, kind, f"{sums['count']:,}", _mb(sums["payload_bytes"]), _mb(sums["sent_bytes"])))
            name = ""
        shown.append((name, "all", "", "", _mb(row["sent_bytes"])))
    return _table(("number", "payload\nMB", "sent\nMB"), shown, "collective")


def _times(rows: Sequence[Mapping[str, Any]]) -> Table:
    parts = ("compute", "memory", "links")
    gpu = any(row["form"] for row in rows)
    shown = [
        (
            _name(row),
            f"{row['model_flops'] / 1e12:,.1f}",
            f"{sum(row['flops'].values()) / 1e12:,.1f}",
            *(f"{1e3 * row['seconds'][part]:,.2f}" for part in parts),
            *([f"{1e3 * row['uncached_seconds']:,.2f}"] if gpu else []),
        )
        for row in rows
    ]
    times = (f"{part}\nms" for part in (*parts, *(["uncached"] if gpu else [])))
    return _table(("model\nTFLOP", "executed\nTFLOP", *times), shown)


def _bounds(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [
        (
            _name(row),
            row["by"],
            f"{1e3 * row['bound_seconds']:,.2f}",
            f"{100 * row['mfu_bound']:.0f}",
            f"{row['tokens_per_second_bound']:,.0f}",
            f"{row['compile_seconds']:.0f}",
        )
        for row in rows
    ]
    return _table(("time at\nleast, ms", "MFU at\nmost, %", "tokens/s\nat most", "compile\ns"), shown, "limit")


def _verdict(verdict: Mapping[str, Any]) -> str:
    numbers = ""
    if verdict["number"] is not None:
        numbers = f"\n{'':<8} {_mb(verdict['number'])} MB, at most {_mb(verdict['limit'])} MB"
    remedy = f"; {verdict['remedy']}" if verdict.get("remedy") else ""
    return f"{'met' if verdict['met'] else 'not met':<8} {verdict['what']}{numbers}{remedy}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['arm']}, {row['form']}" if row["form"] else row["arm"]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *left: str) -> Table:
    return Table(("arm", *left, *headers), rows, ("arm", *left))


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f}"
