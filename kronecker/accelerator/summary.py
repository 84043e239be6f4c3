"""Tables of the results, read from the JSON files, for the terminal, and for a page that adds figures."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kronecker.accelerator import parts
from kronecker.accelerator.ledger import Ledger
from kronecker.benchmark import contenders, timing_figures, timing_tables
from kronecker.report import figures, pages
from kronecker.runtime import printing, storage
from kronecker.runtime.printing import Table

PAGE = "report.html"
MFU_TARGET, STEP_TARGET = 0.45, 1.0
TARGET_DEVICE, TARGET_SIZE = "NVIDIA H100", "124m"
WIDE = 52  # characters of a kernel's name before a line break
INDENT = "\N{NO-BREAK SPACE}" * 2  # kept by browsers, unlike spaces

Waiting = Mapping[str, tuple[int, bool]]  # part -> missing results, and whether more may follow


def show(ledger: Ledger, chosen: Sequence[str], waiting: Waiting) -> bool:
    """Prints the tables and what is missing; returns whether a part of `chosen` has failures."""
    titled = [part for title, table in _tables(ledger) for part in (f"\n{title}", table)]
    machine = (f"{name}: {value}" for name, value in _facts(ledger).items())
    printing.show(*titled, "", *machine, _overview(ledger, waiting), wrap=True)
    failed = [sentence for part in chosen for sentence in _failures(ledger, part)]
    printing.show(*failed)
    if not failed and not any(number or more for number, more in waiting.values()):
        printing.show("Complete: all results exist for these devices, this code and these versions.")
    return bool(failed)


def write(ledger: Ledger, waiting: Waiting) -> Path:
    """Writes the page, and its figures with their numbers to a folder beside it; returns the page's path."""
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
        tables=[*_tables(ledger), ("Results", _overview(ledger, waiting))],
        figures=drawn,
    )
    storage.write_text(file, made)
    return file


def targets(ledger: Ledger) -> Table:
    """Returns the verdicts on the two targets; MFU is unknown if the device's peak is."""
    rows = []
    facts = ledger.facts
    right_device = len(facts["devices"]) == 1 and facts["devices"][0].startswith(TARGET_DEVICE)
    if best := _best(ledger):
        share = best["mfu"]
        found = "peak unknown" if share is None else f"{100 * share:.1f} %"
        reached = None if share is None else share >= MFU_TARGET
        aim = f"at least {100 * MFU_TARGET:.0f} %"
        own = right_device and best["size"] == TARGET_SIZE and best["dtype"] == "bfloat16"
        what = f"MFU of a training step:\n{best['arm']}, {best['size']}, {best['dtype']}"
        rows.append((what, found, aim, _verdict(reached, own)))
    for record in _results(ledger, "step").values():
        for verdict in record["verdicts"]:
            own = right_device and record["size"] == TARGET_SIZE
            found = f"{verdict['median']:.3f}\n({verdict['low']:.3f} to {verdict['high']:.3f})"
            verdict_here = _verdict(verdict["median"] <= STEP_TARGET, own)
            what = verdict["what"].replace(": ", ":\n")
            rows.append((f"{what}, {record['size']}", found, f"at most {STEP_TARGET:.2f}", verdict_here))
    return Table(("target", "measured", "goal", "verdict"), tuple(rows), ("target", "goal", "verdict"))


def _verdict(reached: bool | None, as_specified: bool) -> str:
    if reached is None:
        return "unknown"
    text = "reached" if reached else "not reached"
    return text if as_specified else f"{text}, on\nanother setup"


def _tables(ledger: Ledger) -> list[tuple[str, Table]]:
    titled = [
        ("Correctness: relative errors; for losses, differences in nats per token", _checks(ledger)),
        ("Input side, ms: forward; forward + gradient; forward + gradient + AdamW", _encoder(ledger)),
    ]
    for result in _results(ledger, "step").values():
        titled.append(("Training steps: time", timing_tables.step_times(result)))
        titled.append(("Training steps: memory", timing_tables.step_memory(result)))
    best = _best(ledger)
    titled += [
        (f"Training steps of {best['arm']} by setting" if best else "", _mfu(ledger)),
        ("The costliest kernels of the fastest setting", _kernels(best)),
        ("The study: losses in nats per token", _study(ledger)),
        (f"Targets, set for one {TARGET_DEVICE} at {TARGET_SIZE}", targets(ledger)),
    ]
    return [(title, table) for title, table in titled if table.rows]


def _checks(ledger: Ledger) -> Table:
    rows = []
    for name, result in _results(ledger, "check").items():
        rows.append((name, "", "", "", ""))
        for row in result["rows"]:
            error, allowed = ("" if row[key] is None else f"{row[key]:.1e}" for key in ("error", "allowed"))
            wrong = row.get("fault") or (row["error"] is not None and not row["error"] <= row["allowed"])
            verdict = "WRONG" if wrong else "not run" if "reason" in row else "right"
            bits = {None: "", True: "equal bits", False: "different bits"}[row.get("bitwise")]
            rows.append((f"{INDENT}{row['what']}", error, allowed, verdict, bits))
    headers = ("result", "error", "allowed", "verdict", "second run")
    return Table(headers, tuple(rows), ("result", "verdict", "second run"))


def _encoder(ledger: Ledger) -> Table:
    rows = []
    for name, result in _results(ledger, "encoder").items():
        rows.append((name, "", "", "", "", ""))
        of = {row["name"]: row["measures"] for row in result["contenders"]}
        for contender, measures in of.items():
            times = (f"{1e3 * measures[one]['median_seconds']:.3f}" for one in contenders.MEASURES)
            over = measures["update"]["median_seconds"] / of["table"]["update"]["median_seconds"]
            share = 100 * measures["update"]["bandwidth_share"]
            mark = " (auto)" if contender == result["auto"] else ""
            rows.append((f"{INDENT}{contender}{mark}", *times, f"{over:.2f}", f"{share:.1f}"))
    headers = ("setting", "forward", "gradient", "AdamW", "AdamW /\ntable's", "bandwidth\nused, %")
    return Table(headers, tuple(rows), ("setting",))


def _mfu(ledger: Ledger) -> Table:
    results, rows = _results(ledger, "mfu").values(), []
    keys = tuple(dict.fromkeys(key for result in results for key in result["settings"]))
    for result in results:
        setting = (str(result["settings"].get(key, "")) for key in keys)
        if "out_of_memory" in result:
            rows.append((*setting, "out of memory"))
            continue
        share = "unknown" if result["mfu"] is None else f"{100 * result['mfu']:.1f}"
        speed, memory = f"{result['tokens_per_second']:,.0f}", f"{result['memory']['total'] / 1e6:,.0f}"
        rows.append((*setting, f"{1e3 * result['median_seconds']:.2f}", speed, share, memory, result["attention"]))
    names = (key.rpartition(".")[2].replace("_", "_\n") for key in keys)
    return Table((*names, "step, ms", "tokens/s", "MFU, %", "memory\nMB", "attention"), tuple(rows), ("attention",))


def _kernels(best: Mapping[str, Any] | None) -> Table:
    rows = [
        (
            "\n  ".join(textwrap.wrap(" ".join(dict.fromkeys((kernel["name"], kernel["operation"]))), WIDE)),
            f"{kernel['calls'] / best['recorded_steps']:,.1f}",
            f"{1e3 * kernel['seconds'] / best['recorded_steps']:.3f}",
            f"{100 * kernel['share']:.1f}",
        )
        for kernel in (best or {"kernels": []})["kernels"]
    ]
    headers = ("kernel and operation", "calls\nper step", "ms\nper step", "share, %")
    return Table(headers, tuple(rows), ("kernel and operation",))


def _study(ledger: Ledger) -> Table:
    rows = []
    for name, result in _results(ledger, parts.STUDY).items():
        if result["diverged"]:
            rows.append((name, "diverged", "", "", ""))
            continue
        losses = (f"{result[key]:.4f}" for key in ("train_loss", "validation_loss"))
        rows.append((name, *losses, f"{result['tokens_per_second']:,.0f}", f"{result['seconds']:.0f}"))
    headers = ("run", "training\nloss", "validation\nloss", "tokens/s", "training\nseconds")
    return Table(headers, tuple(rows), ("run",))


def _overview(ledger: Ledger, waiting: Waiting) -> Table:
    rows = []
    for part in parts.PARTS:
        records = _current(ledger, part.name)
        failed = sum(record["error"] is not None for record in records)
        seconds = sum(record["seconds"] for record in records)
        number, more = waiting.get(part.name, ("", False))
        left = f"{number}{'+' if more else ''}"
        rows.append((part.name, part.what, str(len(records) - failed), str(failed), left, f"{seconds:.0f}"))
    return Table(("part", "measures", "results", "failed", "left", "seconds"), tuple(rows), ("part", "measures"))


def _failures(ledger: Ledger, part: str) -> list[str]:
    records = (record for record in _current(ledger, part) if record["error"] is not None)
    return [f"FAILED: {part}, {record['name']}: {record['error']}" for record in records]


def _current(ledger: Ledger, part: str) -> list[dict[str, Any]]:
    """Returns the records that are valid now; a study's run is valid for any code."""
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


def _facts(ledger: Ledger) -> dict[str, str]:
    facts = ledger.facts
    memory = facts["memory_bytes"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    shown = {
        "devices": ", ".join(facts["devices"]),
        "memory per device": f"{memory / 1e9:.1f} GB" if memory else "unknown",
        "driver": facts["driver"] or "unknown",
        "code": f"{facts['code']} (commit {facts['commit'] or 'unknown'})",
        "versions": f"Python {facts['python']}, {versions}",
    }
    return shown | ({"sizes": "toy sizes of a rehearsal"} if facts["rehearsal"] else {})


def _figures(ledger: Ledger) -> list[figures.Figure]:
    drawn = []
    if encoder := [*_results(ledger, "encoder").values()]:
        caption = "Time of forward, forward + gradient, and forward + gradient + AdamW, on a log axis."
        svg = timing_figures.encoder({"settings": encoder})
        drawn.append(_figure("encoder", "Time of the input side", caption, svg, _encoder(ledger)))
    for result in _results(ledger, "step").values():
        caption = "Time of each arm's step / the baseline's in the same round, with median and quartiles."
        svg, table = timing_figures.steps(result), timing_tables.step_times(result)
        drawn.append(_figure("step", "Time of a training step", caption, svg, table))
    return drawn


def _figure(name: str, title: str, caption: str, svg: str, table: Table) -> figures.Figure:
    headers = tuple(header.replace("\n", " ") for header in table.headers)
    return figures.Figure(name, title, caption, svg, (headers, *table.rows), wide=True)
