"""What a benchmark prints: a table a setting, then the verdicts."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from rich import box, console, measure, table

from kronecker.benchmark import contenders, settings
from kronecker.schema import choices

HEADERS = {"forward": "forward\nms", "gradient": "+ gradient\nms", "update": "+ AdamW\nms"}


def show_setting(setting: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints the numbers of one setting of the encoder's benchmark."""
    rows = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    rows.add_column("contender", vertical="bottom")
    for header in (*HEADERS.values(), "rounds", "share of\nbandwidth, %", "temporary\nMB"):
        rows.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for row in setting["contenders"]:
        measured = [row["measures"][name] for name in contenders.MEASURES]
        held = row["memory"].get("update")
        rows.add_row(
            row["name"] + (" (auto)" if row["name"] == setting["auto"] else ""),
            *(_spread(one) for one in measured),
            "/".join(str(len(one["rounds"])) for one in measured),
            "/".join(f"{100 * one['bandwidth_share']:.2g}" for one in measured),
            f"{held['temporaries'] / 1e6:,.1f}" if held else "not measured",
        )
    for name in setting["refused"]:
        rows.add_row(name, left_out(name))
    bandwidth = setting["bandwidth"]["bytes_per_second"] / 1e9
    _print(
        file,
        f"\n{title(setting)}\n{setting['distinct_ids']:,} distinct ids a batch, {setting['mean_length']:.2f} bytes a "
        f"token, {setting['source']}; memory bandwidth {bandwidth:.1f} GB/s",
        rows,
        *(f"{name}: {reason}" for name, reason in setting["refused"].items()),
        *_fastest(setting),
    )


def show_steps(result: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints the numbers of the benchmark of training steps."""
    rows = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    times = ("step\nms", "rounds", "tokens\n/s", "ratio to\n" + result["baseline"], "quartiles")
    rows.add_column("arm", vertical="bottom")
    rows.add_column("product", vertical="bottom")
    for header in (*times, "memory\nMB", "buffers\nMB"):
        rows.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for row in result["arms"]:
        against = row["ratio"]
        rows.add_row(
            row["name"],
            row["implementation"] or "",
            _spread(row),
            str(len(row["rounds"])),
            f"{row['tokens_per_second']:,.0f}",
            f"{against['median']:.3f}",
            f"{against['low']:.3f} to {against['high']:.3f}",
            f"{row['memory']['total'] / 1e6:,.0f}",
            f"{row['buffers_bytes'] / 1e6:,.2f}",
        )
    _print(file, f"\n{step_title(result)}", rows)


def show_training(result: Mapping[str, Any], file: TextIO = sys.stdout) -> None:
    """Prints the numbers of one size of the benchmark of the trainer."""
    rows = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    rows.add_column("contender", vertical="bottom")
    rivals = list(result["contenders"][0]["speedup"])
    against = [header for rival in rivals for header in (f"speed over\n{rival}", "quartiles")]
    for header in ("step\nms", "rounds", "tokens\n/s", "GFLOP\n/s", "MFU\n%", *against):
        rows.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for row in result["contenders"]:
        ratios = [row["speedup"][rival] for rival in rivals]
        rows.add_row(
            row["name"],
            _spread(row),
            str(len(row["rounds"])),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['flops_per_second'] / 1e9:,.0f}",
            "no peak" if row["mfu"] is None else f"{100 * row['mfu']:.1f}",
            *(cell for r in ratios for cell in (f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}")),
        )
    _print(file, f"\n{training_title(result)}", rows)


def training_title(result: Mapping[str, Any]) -> str:
    """Returns one size of the benchmark of the trainer in words."""
    return (
        f"training steps of {result['size']}, {result['batch']} x {result['sequence']} tokens, V = {result['vocab']:,} "
        f"({result['tokenizer']}), {result['dtype']}"
    )


def show_verdicts(verdicts: Iterable[Mapping[str, Any]], file: TextIO = sys.stdout) -> None:
    """Prints one line a target."""
    for verdict in verdicts:
        reached = "reached" if verdict["reached"] else "not reached"
        target = f"at least {verdict['at_least']}" if "at_least" in verdict else f"at most {verdict['at_most']:.2f}"
        elsewhere = "" if verdict["as_specified"] else f", which was set for {verdict['set_for']}"
        rounds = f"{verdict['median']:.3g}, " if "median" in verdict else ""
        _print(
            file,
            f"{reached:<12} {verdict['what']}: {verdict['of_medians']:.3g} (round by round {rounds}quartiles "
            f"{verdict['low']:.3g} to {verdict['high']:.3g}); target {target}{elsewhere}",
        )


def show_rows(title: str, rows: table.Table, lines: Iterable[str], file: TextIO = sys.stdout) -> None:
    """Prints a title, a table and the lines under it."""
    _print(file, f"\n{title}", rows, *lines)


def left_out(name: str) -> str:
    """Returns the word for a contender that was not timed."""
    return "not installed" if name == settings.REFERENCE else "refused"


def title(setting: Mapping[str, Any]) -> str:
    """Returns the one line that names a setting."""
    return (
        f"{setting['tokens']:,} tokens, d = {setting['d']}, V = {setting['vocab']:,} ({setting['tokenizer']}), "
        f"P = {setting['P']}"
    )


def step_title(result: Mapping[str, Any]) -> str:
    """Returns the one line that names what the steps were."""
    return (
        f"{result['size']}, {result['batch']} x {result['sequence']} tokens, V = {result['vocab']:,} "
        f"({result['ids']:,} of {result['tokenizer']}), P = {result['P']}, {result['dtype']}, {result['source']}"
    )


def _fastest(setting: Mapping[str, Any]) -> Iterable[str]:
    """Returns the line that says whether `auto` chose well."""
    times = {row["name"]: row["measures"]["update"]["median_seconds"] for row in setting["contenders"]}
    ours = {name: seconds for name, seconds in times.items() if name in choices.IMPLEMENTATIONS}
    if setting["auto"] in ours and len(ours) > 1:
        best = min(ours, key=ours.get)
        yield f"auto is {setting['auto']}, {ours[setting['auto']] / ours[best]:.2f} times the fastest's, {best}'s, time"


def _spread(one: Mapping[str, Any]) -> str:
    return f"{_ms(one['median_seconds'])} ({_ms(one['low'])}–{_ms(one['high'])})"


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def _print(file: TextIO, *parts: str | table.Table) -> None:
    screen = console.Console(file=file, highlight=False, markup=False)
    for part in parts:
        if isinstance(part, table.Table):  # a cut number is worse than a wrapped line
            natural = measure.Measurement.get(screen, screen.options.update(max_width=1000), part).maximum
            screen.width = max(screen.width, natural)
        screen.print(part, soft_wrap=isinstance(part, str))
