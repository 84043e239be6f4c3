"""What a benchmark prints: a table a setting, then the verdicts."""

from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from kronecker.benchmark import contenders, settings
from kronecker.runtime import printing
from kronecker.runtime.printing import Table
from kronecker.schema import choices

HEADERS = {"forward": "forward\nms", "gradient": "+ gradient\nms", "update": "+ AdamW\nms"}


def show_setting(setting: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints the numbers of one setting of the encoder's benchmark."""
    rows = []
    for row in setting["contenders"]:
        measured = [row["measures"][name] for name in contenders.MEASURES]
        held = row["memory"].get("update")
        rows.append(
            (
                row["name"] + (" (auto)" if row["name"] == setting["auto"] else ""),
                *(_spread(one) for one in measured),
                "/".join(str(len(one["rounds"])) for one in measured),
                "/".join(f"{100 * one['bandwidth_share']:.2g}" for one in measured),
                f"{held['temporaries'] / 1e6:,.1f}" if held else "not measured",
            )
        )
    rows += [(name, left_out(name)) for name in setting["refused"]]
    headers = ("contender", *HEADERS.values(), "rounds", "share of\nbandwidth, %", "temporary\nMB")
    bandwidth = setting["bandwidth"]["bytes_per_second"] / 1e9
    printing.show(
        f"\n{title(setting)}\n{setting['distinct_ids']:,} distinct ids a batch, {setting['mean_length']:.2f} bytes a "
        f"token, {setting['source']}; memory bandwidth {bandwidth:.1f} GB/s",
        Table(headers, rows, ("contender",)),
        *(f"{name}: {reason}" for name, reason in setting["refused"].items()),
        *_fastest(setting),
        file=file,
    )


def show_steps(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints the numbers of the benchmark of training steps."""
    times = ("step\nms", "rounds", "tokens\n/s", "ratio to\n" + result["baseline"], "quartiles")
    headers = ("arm", "product", *times, "memory\nMB", "buffers\nMB")
    rows = [
        (
            row["name"],
            row["implementation"] or "",
            _spread(row),
            str(len(row["rounds"])),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']['median']:.3f}",
            f"{row['ratio']['low']:.3f} to {row['ratio']['high']:.3f}",
            f"{row['memory']['total'] / 1e6:,.0f}",
            f"{row['buffers_bytes'] / 1e6:,.2f}",
        )
        for row in result["arms"]
    ]
    printing.show(f"\n{step_title(result)}", Table(headers, rows, ("arm", "product")), file=file)


def show_training(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints the numbers of one size of the benchmark of the trainer."""
    rivals = list(result["contenders"][0]["speedup"])
    against = [header for rival in rivals for header in (f"speed over\n{rival}", "quartiles")]
    headers = ("contender", "step\nms", "rounds", "tokens\n/s", "GFLOP\n/s", "MFU\n%", *against)
    rows = []
    for row in result["contenders"]:
        ratios = [row["speedup"][rival] for rival in rivals]
        rows.append(
            (
                row["name"],
                _spread(row),
                str(len(row["rounds"])),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['flops_per_second'] / 1e9:,.0f}",
                "no peak" if row["mfu"] is None else f"{100 * row['mfu']:.1f}",
                *(cell for r in ratios for cell in (f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}")),
            )
        )
    printing.show(f"\n{training_title(result)}", Table(headers, rows, ("contender",)), file=file)


def training_title(result: Mapping[str, Any]) -> str:
    """Returns one size of the benchmark of the trainer in words."""
    return (
        f"training steps of {result['size']}, {result['batch']} x {result['sequence']} tokens, V = {result['vocab']:,} "
        f"({result['tokenizer']}), {result['dtype']}"
    )


def show_verdicts(verdicts: Iterable[Mapping[str, Any]], file: TextIO | None = None) -> None:
    """Prints one line a target."""
    for verdict in verdicts:
        reached = "reached" if verdict["reached"] else "not reached"
        target = f"at least {verdict['at_least']}" if "at_least" in verdict else f"at most {verdict['at_most']:.2f}"
        elsewhere = "" if verdict["as_specified"] else f", which was set for {verdict['set_for']}"
        rounds = f"{verdict['median']:.3g}, " if "median" in verdict else ""
        printing.show(
            f"{reached:<12} {verdict['what']}: {verdict['of_medians']:.3g} (round by round {rounds}quartiles "
            f"{verdict['low']:.3g} to {verdict['high']:.3g}); target {target}{elsewhere}",
            file=file,
        )


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
