"""What came of the parts, read from the JSON files: tables for the terminal, and the same on a page with pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kronecker.accelerator import parts
from kronecker.accelerator.extents import mfu_name
from kronecker.accelerator.ledger import Ledger
from kronecker.benchmark import contenders, timing_figures
from kronecker.report import figures, pages
from kronecker.runtime import printing
from kronecker.runtime.printing import Table

PAGE = "report.html"
MFU_TARGET, STEP_TARGET = 0.45, 1.0
TARGET_DEVICE, TARGET_SIZE = "NVIDIA H100", "124m"

Waiting = Mapping[str, tuple[int, bool]]  # part -> results that are missing, and whether more will follow from those


def show(ledger: Ledger, chosen: Sequence[str], waiting: Waiting, file: TextIO | None = None) -> bool:
    """Prints a table for each part, the targets, and what is left; returns whether a part of `chosen` has failures."""
    titled = [part for title, told in _tables(ledger) for part in (f"\n{title}", told)]
    printing.show(*titled, f"\n{_machine(ledger)}", _overview(ledger, waiting), file=file, wrap=True)
    failed = [sentence for part in chosen for sentence in _failures(ledger, part)]
    printing.show(*failed, file=file)
    if not failed and not any(number or more for number, more in waiting.values()):
        printing.show(
            "Nothing is left: every result is there, of these devices, this code and these versions.", file=file
        )
    return bool(failed)


def write(ledger: Ledger, waiting: Waiting) -> Path:
    """Writes the page, and its pictures with their numbers in a folder beside it; returns the page's path."""
    file = ledger.folder / PAGE
    drawn = _figures(ledger)
    numbers = pages.folder_of(file)
    pages.write_figures(numbers, drawn)
    made = pages.render(
        "accelerator.html",
        title=f"First results on {ledger.facts['devices'][0]}",
        numbers=numbers.name,
        facts=_facts(ledger),
        failures=[sentence for part in parts.PARTS for sentence in _failures(ledger, part.name)],
        tables=[*_tables(ledger), ("What is there", _overview(ledger, waiting))],
        figures=drawn,
    )
    pages.write_text(file, made)
    return file


def targets(ledger: Ledger) -> Table:
    """Returns what became of the two targets; a number that cannot be had is said to be missing."""
    rows = []
    facts = ledger.facts
    right_device = len(facts["devices"]) == 1 and facts["devices"][0].startswith(TARGET_DEVICE)
    best = _best(ledger)
    if best:
        share = best["mfu"]
        found = f"no peak is known of {facts['devices'][0]}" if share is None else f"{100 * share:.1f} %"
        reached = None if share is None else share >= MFU_TARGET
        aim = f"at least {100 * MFU_TARGET:.0f} %"
        own = right_device and best["size"] == TARGET_SIZE and best["dtype"] == "bfloat16"
        rows.append((f"MFU of {best['arm']}, {best['size']}, {best['dtype']}", found, aim, _verdict(reached, own)))
    for record in _results(ledger, "step").values():
        for verdict in record["verdicts"]:
            own = right_device and record["size"] == TARGET_SIZE
            found = f"{verdict['median']:.3f} ({verdict['low']:.3f} to {verdict['high']:.3f})"
            verdict_here = _verdict(verdict["median"] <= STEP_TARGET, own)
            rows.append((f"{verdict['what']}, {record['size']}", found, f"at most {STEP_TARGET:.2f}", verdict_here))
    return Table(("target", "found", "aim", "verdict"), tuple(rows), ("target", "aim", "verdict"))


def _verdict(reached: bool | None, as_specified: bool) -> str:
    if reached is None:
        return "not known"
    words = "reached" if reached else "not reached"
    return words if as_specified else f"{words}, but it is for one {TARGET_DEVICE} at {TARGET_SIZE}"


def _tables(ledger: Ledger) -> list[tuple[str, Table]]:
    best = _best(ledger)
    told = [
        ("Is it right here: norm of the error over the norm; for losses, nats per token", _checks(ledger)),
        ("What the input side costs: ms, medians; ratio: to a table with its update", _encoder(ledger)),
        ("What a whole step costs", _steps(ledger)),
        ("Which settings use the device best", _mfu(ledger)),
        (f"The costliest kernels of {mfu_name(best['settings']) if best else ''}", _kernels(best)),
        ("The study: nats per token", _study(ledger)),
        ("Targets", targets(ledger)),
    ]
    return [(title, one) for title, one in told if one.rows]


def _checks(ledger: Ledger) -> Table:
    rows = []
    for name, result in _results(ledger, "check").items():
        for row in result["rows"]:
            error, allowed = ("" if row[key] is None else f"{row[key]:.1e}" for key in ("error", "allowed"))
            wrong = row.get("fault") or (row["error"] is not None and not row["error"] <= row["allowed"])
            bits = {None: "", True: "equal bits", False: "other bits"}[row.get("bitwise")]
            rows.append((name, row["what"], error, allowed, "WRONG" if wrong else "right", bits))
    headers = ("result", "what", "error", "allowed", "verdict", "the same twice")
    return Table(headers, tuple(rows), ("result", "what", "verdict", "the same twice"))


def _encoder(ledger: Ledger) -> Table:
    rows = []
    for result in _results(ledger, "encoder").values():
        where = f"{result['tokens']:,}, d {result['d']:,}, P {result['P']}, V {result['vocab']:,}, {result['dtype']}"
        of = {row["name"]: row["measures"] for row in result["contenders"]}
        for name, measures in of.items():
            times = (f"{1e3 * measures[one]['median_seconds']:.3f}" for one in contenders.MEASURES)
            over = measures["update"]["median_seconds"] / of["table"]["update"]["median_seconds"]
            share = 100 * measures["update"]["bandwidth_share"]
            mark = " (auto)" if name == result["auto"] else ""
            rows.append((where, name + mark, *times, f"{over:.2f}", f"{share:.0f}"))
    headers = ("tokens", "contender", "forward", "+ gradient", "+ AdamW", "ratio", "share of\nbandwidth, %")
    return Table(headers, tuple(rows), ("tokens", "contender"))


def _steps(ledger: Ledger) -> Table:
    rows = []
    for result in _results(ledger, "step").values():
        for row in result["arms"]:
            against = row["ratio"]
            rows.append(
                (
                    row["name"],
                    row["implementation"] or "",
                    f"{1e3 * row['median_seconds']:.2f}",
                    f"{row['tokens_per_second']:,.0f}",
                    f"{against['median']:.3f}",
                    f"{against['low']:.3f} to {against['high']:.3f}",
                    f"{row['memory']['total'] / 1e6:,.0f}",
                )
            )
    headers = ("arm", "product", "step, ms", "tokens/s", "ratio to\nthe baseline", "quartiles", "memory,\nMB")
    return Table(headers, tuple(rows), ("arm", "product"))


def _mfu(ledger: Ledger) -> Table:
    rows = []
    for name, result in _results(ledger, "mfu").items():
        if "out_of_memory" in result:
            rows.append((name, "", "", "", "", "out of memory"))
            continue
        share = "no peak" if result["mfu"] is None else f"{100 * result['mfu']:.1f}"
        speed, memory = f"{result['tokens_per_second']:,.0f}", f"{result['memory']['total'] / 1e6:,.0f}"
        rows.append((name, f"{1e3 * result['median_seconds']:.2f}", speed, share, memory, result["attention"]))
    headers = ("setting", "step, ms", "tokens/s", "MFU, %", "memory,\nMB", "attention")
    return Table(headers, tuple(rows), ("setting", "attention"))


def _kernels(best: Mapping[str, Any] | None) -> Table:
    rows = [
        (
            kernel["name"][:60],
            kernel["operation"][:30],
            f"{kernel['calls'] / best['recorded_steps']:,.1f}",
            f"{1e3 * kernel['seconds'] / best['recorded_steps']:.3f}",
            f"{100 * kernel['share']:.1f}",
        )
        for kernel in (best or {"kernels": []})["kernels"]
    ]
    headers = ("kernel", "operation", "calls\na step", "ms\na step", "share, %")
    return Table(headers, tuple(rows), ("kernel", "operation"))


def _study(ledger: Ledger) -> Table:
    rows = []
    for name, result in _results(ledger, parts.STUDY).items():
        if result["diverged"]:
            rows.append((name, "diverged", "", "", ""))
            continue
        losses = (f"{result[key]:.4f}" for key in ("train_loss", "validation_loss"))
        rows.append((name, *losses, f"{result['tokens_per_second']:,.0f}", f"{result['seconds']:.0f}"))
    headers = ("run", "training", "validation", "tokens/s", "seconds\nof training")
    return Table(headers, tuple(rows), ("run",))


def _overview(ledger: Ledger, waiting: Waiting) -> Table:
    rows = []
    for part in parts.PARTS:
        records = _current(ledger, part.name)
        failed = sum(record["error"] is not None for record in records)
        seconds = sum(record["seconds"] for record in records)
        left = ""
        if part.name in waiting:
            number, more = waiting[part.name]
            left = f"{number}{' and more' if more else ''}"
        rows.append((part.name, part.what, str(len(records) - failed), str(failed), left, f"{seconds:.0f}"))
    return Table(("part", "question", "results", "failed", "left", "seconds"), tuple(rows), ("part", "question"))


def _failures(ledger: Ledger, part: str) -> list[str]:
    records = (record for record in _current(ledger, part) if record["error"] is not None)
    return [f"FAILED: {part}, {record['name']}: {record['error']}" for record in records]


def _current(ledger: Ledger, part: str) -> list[dict[str, Any]]:
    """Returns the records that hold now; a study's run holds for all code."""
    return [
        record
        for record in ledger.records(part).values()
        if record["key"] == ledger.key or (part == parts.STUDY and record["key"]["devices"] == ledger.key["devices"])
    ]


def _results(ledger: Ledger, part: str) -> dict[str, dict[str, Any]]:
    return {record["name"]: record["result"] for record in _current(ledger, part) if record["result"]}


def _best(ledger: Ledger) -> dict[str, Any] | None:
    """Returns the setting of `mfu` with the most tokens per second."""
    ran = [result for result in _results(ledger, "mfu").values() if "tokens_per_second" in result]
    return max(ran, key=lambda result: result["tokens_per_second"], default=None)


def _machine(ledger: Ledger) -> str:
    return "; ".join(f"{name} {value}" for name, value in _facts(ledger).items())


def _facts(ledger: Ledger) -> dict[str, str]:
    facts = ledger.facts
    memory = facts["memory_bytes"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    told = {
        "devices": ", ".join(facts["devices"]),
        "memory of a device": f"{memory / 1e9:.1f} GB" if memory else "not said",
        "driver": facts["driver"] or "not said",
        "code": f"{facts['code']} (commit {facts['commit'] or 'not known'})",
        "versions": f"Python {facts['python']}, {versions}",
    }
    return told | ({"sizes": "toy ones, of a rehearsal"} if facts["rehearsal"] else {})


def _figures(ledger: Ledger) -> list[figures.Figure]:
    drawn = []
    encoder = [*_results(ledger, "encoder").values()]
    if encoder:
        told = _encoder(ledger)
        caption = "Each contender's forward, with its gradient, and with the update of the input side, on a log axis."
        svg = timing_figures.encoder({"settings": encoder})
        drawn.append(_figure("encoder", "What the input side costs", caption, svg, told))
    for result in _results(ledger, "step").values():
        caption = "Each arm's step over the baseline's, round by round: quartiles and their median."
        drawn.append(_figure("step", "What a whole step costs", caption, timing_figures.steps(result), _steps(ledger)))
    return drawn


def _figure(name: str, title: str, caption: str, svg: str, told: Table) -> figures.Figure:
    headers = tuple(header.replace("\n", " ") for header in told.headers)
    return figures.Figure(name, title, caption, svg, (headers, *told.rows), wide=True)
