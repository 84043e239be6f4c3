"""What `compile_for.py train` prints: a device's memory, operations, communication and bounds, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

from kronecker.cross_compile import counts, input_tables
from kronecker.cross_compile.input_tables import Columns
from kronecker.runtime import printing
from kronecker.runtime.printing import Table

MEMORY = ("arguments", "outputs", "aliased", "temporaries", "total")
OPERATIONS = {"loops": "while", "scatters": "scatter", "gathers": "gather", "sorts": "sort"}  # header -> kind
ATTENTION = (counts.ATTENTION, counts.ATTENTION_BACKWARD)


def show(result: Mapping[str, Any]) -> None:
    fitting = [row for row in result["rows"] if row["fits"]]
    memory: Columns = {part: lambda row, part=part: _mb(row["memory"][part]) for part in MEMORY}
    memory["% of\ndevice"] = lambda row: f"{100 * row['memory']['total'] / result['memory']:.0f}"
    titled = {
        "memory of a device, MB": _table(fitting, memory),
        "operations of a step": _table(fitting, _OPERATIONS),
        "communication of a device in a step": _exchanges(fitting),
        "work of a device in a step, and lower bounds on its time": _table(fitting, _times(fitting)),
        "bounds of a step": _table(fitting, _BOUNDS),
    }
    lines = []
    for row in result["rows"]:
        if not row["fits"]:
            lines.append(f"{_name(row)}: {row['reason']}")
        elif row["unknown_loops"]:
            lines.append(f"{_name(row)}: loops of unknown length are counted once: {', '.join(row['unknown_loops'])}")
    apart = (part for title, table in titled.items() if table.rows for part in (f"\n{title}", table))
    printing.show(*apart, "", *lines, *map(_verdict, result["verdicts"]))


def show_target(result: Mapping[str, Any]) -> None:
    mesh = " x ".join(f"mesh.{axis} {size}" for axis, size in result["mesh"].items())
    count = result["devices"]
    printing.show(
        f"{result['target']}: {count} device{'s' if count > 1 else ''} ({result['kind']})",
        f"{mesh}, batch {result['batch']:,} x {result['sequence']:,} tokens",
        f"each {input_tables.peaks(result)}",
        f"each {result['memory'] / 2**30:,.0f} GiB at {result['bandwidth'] / 1e9:,.0f} GB/s, links "
        f"{result['links'] / 1e9:,.0f} GB/s",
    )
    if result["changes"]:
        changes = " ".join(f"--config.{key}={value}" for key, value in result["changes"].items())
        printing.show(f"The config is for one device; these keys are changed: {changes}")


_OPERATIONS: Columns = {
    "cuDNN\nattention": lambda row: " + ".join(f"{row['calls'].get(name, 0):,}" for name in ATTENTION),
    "custom\ncalls": lambda row: f"{sum(runs for name, runs in row['calls'].items() if name not in ATTENTION):,}",
    **{header: lambda row, kind=kind: f"{row['operations'][kind]:,}" for header, kind in OPERATIONS.items()},
}


def _exchanges(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = []
    for row in rows if any(row["collectives"] for row in rows) else ():
        name = _name(row)
        for kind, sums in row["collectives"].items():
            shown.append((name, kind, f"{sums['count']:,}", _mb(sums["payload_bytes"]), _mb(sums["sent_bytes"])))
            name = ""
        shown.append((name, "all", "", "", _mb(row["sent_bytes"])))
    return Table(("arm", "collective", "number", "payload\nMB", "sent\nMB"), shown, ("arm", "collective"))


def _times(rows: Sequence[Mapping[str, Any]]) -> Columns:
    uncached = {"uncached\nms": lambda row: f"{1e3 * row['uncached_seconds']:,.2f}"}
    return {
        "model\nTFLOP": lambda row: f"{row['model_flops'] / 1e12:,.1f}",
        "executed\nTFLOP": lambda row: f"{sum(row['flops'].values()) / 1e12:,.1f}",
        **{
            f"{part}\nms": lambda row, part=part: f"{1e3 * row['seconds'][part]:,.2f}"
            for part in ("compute", "memory", "links")
        },
        **(uncached if any(row["form"] for row in rows) else {}),
    }


_BOUNDS: Columns = {
    "limit": lambda row: row["by"],
    "time at\nleast, ms": lambda row: f"{1e3 * row['bound_seconds']:,.2f}",
    "MFU at\nmost, %": lambda row: f"{100 * row['mfu_bound']:.0f}",
    "tokens/s\nat most": lambda row: f"{row['tokens_per_second_bound']:,.0f}",
    "compile\ns": lambda row: f"{row['compile_seconds']:.0f}",
}


def _verdict(verdict: Mapping[str, Any]) -> str:
    numbers = ""
    if verdict["number"] is not None:
        numbers = f"\n{'':<8} {_mb(verdict['number'])} MB, at most {_mb(verdict['limit'])} MB"
    remedy = f"; {verdict['remedy']}" if verdict.get("remedy") else ""
    return f"{'met' if verdict['met'] else 'not met':<8} {verdict['what']}{numbers}{remedy}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['arm']}, {row['form']}" if row["form"] else row["arm"]


def _table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Table:
    cells = [(_name(row), *(cell(row) for cell in columns.values())) for row in rows]
    return Table(("arm", *columns), cells, ("arm", "limit"))


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f}"
