"""The tables that a benchmark prints, and its verdicts; each fits a terminal of 80 columns."""

from collections.abc import Iterable, Mapping
from typing import Any

from kronecker.benchmark import contenders, settings
from kronecker.runtime import printing
from kronecker.runtime.printing import Table
from kronecker.schema import choices

MEASURES = {"forward": "forward", "gradient": "forward +\ngradient", "update": "forward +\ngradient +\nAdamW"}


def show_setting(setting: Mapping[str, Any]) -> None:
    times, use = [], []
    for row in setting["contenders"]:
        measured = [row["measures"][name] for name in contenders.MEASURES]
        held = row["memory"].get("update")
        label = row["name"] + (" (auto)" if row["name"] == setting["auto"] else "")
        times.append(
            (label, *(_spread(one) for one in measured), "/".join(str(len(one["rounds"])) for one in measured))
        )
        shares = (f"{100 * one['bandwidth_share']:.1f}" for one in measured)
        use.append((label, *shares, f"{held['temporaries'] / 1e6:,.1f}" if held else "not measured"))
    times += [(name, left_out(name)) for name in setting["refused"]]
    bandwidth = setting["bandwidth"]["bytes_per_second"] / 1e9
    printing.show(
        f"\n{title(setting)}",
        f"{setting['source']}: {setting['distinct_ids']:,} distinct ids in a batch, {setting['mean_length']:.2f} bytes "
        f"per token; memory bandwidth {bandwidth:.1f} GB/s",
        "\ntime in ms: median (10 % to 90 % quantile)",
        Table(("contender", *MEASURES.values(), "rounds"), times, ("contender",)),
        "\nshare of the memory bandwidth in %, and temporary memory of an update",
        Table(("contender", *MEASURES.values(), "temporary\nMB"), use, ("contender",)),
        "",
        *(f"{name}: {reason}" for name, reason in setting["refused"].items()),
        *_fastest(setting),
        wrap=True,
    )


def show_steps(result: Mapping[str, Any]) -> None:
    printing.show(f"\n{step_title(result)}\n", step_times(result), "", step_memory(result), "")


def step_times(result: Mapping[str, Any]) -> Table:
    headers = ("arm", "step, ms", "tokens/s", f"step /\n{result['baseline']}", "quartiles")
    rows = []
    for row in result["arms"]:
        ratio, quartiles = f"{row['ratio']['median']:.3f}", f"{row['ratio']['low']:.3f} to {row['ratio']['high']:.3f}"
        rows.append((row["name"], _spread(row), f"{row['tokens_per_second']:,.0f}", ratio, quartiles))
    return Table(headers, rows, ("arm",))


def step_memory(result: Mapping[str, Any]) -> Table:
    headers = ("arm", "implementation", "rounds", "memory\nMB", "buffers\nMB")
    rows = []
    for row in result["arms"]:
        memory, buffers = f"{row['memory']['total'] / 1e6:,.0f}", f"{row['buffers_bytes'] / 1e6:,.2f}"
        rows.append((row["name"], row["implementation"] or "table", str(len(row["rounds"])), memory, buffers))
    return Table(headers, rows, ("arm", "implementation"))


def show_training(result: Mapping[str, Any]) -> None:
    others = list(result["contenders"][0]["speedup"])
    speeds, ratios = [], []
    for row in result["contenders"]:
        speed, flops = f"{row['tokens_per_second']:,.0f}", f"{row['flops_per_second'] / 1e9:,.0f}"
        mfu = "unknown" if row["mfu"] is None else f"{100 * row['mfu']:.1f}"
        speeds.append((row["name"], _spread(row), str(len(row["rounds"])), speed, flops, mfu))
        against = (row["speedup"][other] for other in others)
        ratios.append((row["name"], *(f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})" for r in against)))
    headers = ("contender", "step, ms", "rounds", "tokens/s", "GFLOP/s", "MFU, %")
    printing.show(f"\n{training_title(result)}\n", Table(headers, speeds, ("contender",)), "")
    if others:
        headers = ("contender", *(f"tokens/s /\n{other}'s" for other in others))
        printing.show(Table(headers, ratios, ("contender",)), "")


def training_title(result: Mapping[str, Any]) -> str:
    return (
        f"training steps of {result['size']}, {result['batch']} x {result['sequence']} tokens, V = {result['vocab']:,} "
        f"({result['tokenizer']}), {result['dtype']}"
    )


def show_verdicts(verdicts: Iterable[Mapping[str, Any]]) -> None:
    for verdict in verdicts:
        reached = "reached" if verdict["reached"] else "not reached"
        target = f"at least {verdict['at_least']:.2f}" if "at_least" in verdict else f"at most {verdict['at_most']:.2f}"
        rounds = f"median {verdict['median']:#.3g}, " if "median" in verdict else ""
        printing.show(
            f"{reached:<12} {verdict['what']}",
            f"{'':<12} {verdict['of_medians']:#.3g}, target {target}",
            f"{'':<12} ratios of the rounds: {rounds}quartiles {verdict['low']:#.3g} to {verdict['high']:#.3g}",
            *([] if verdict["as_specified"] else [f"{'':<12} the target is set for {verdict['set_for']}"]),
        )


def left_out(name: str) -> str:
    return "not installed" if name == settings.REFERENCE else "too large"


def title(setting: Mapping[str, Any]) -> str:
    dtype = f", {setting['dtype']}" if "dtype" in setting else ""
    return (
        f"{setting['tokens']:,} tokens, d = {setting['d']}, V = {setting['vocab']:,} ({setting['tokenizer']}), "
        f"P = {setting['P']}{dtype}"
    )


def step_title(result: Mapping[str, Any]) -> str:
    """Returns two lines that describe the steps."""
    return (
        f"training steps of {result['size']}, {result['batch']} x {result['sequence']} tokens of {result['source']}, "
        f"{result['dtype']}\nV = {result['vocab']:,} ({result['tokenizer']} has {result['ids']:,}), P = {result['P']}"
    )


def _fastest(setting: Mapping[str, Any]) -> Iterable[str]:
    times = {row["name"]: row["measures"]["update"]["median_seconds"] for row in setting["contenders"]}
    ours = {name: seconds for name, seconds in times.items() if name in choices.IMPLEMENTATIONS}
    if setting["auto"] in ours and len(ours) > 1:
        best, chosen = min(ours, key=ours.get), setting["auto"]
        slower = f"takes {ours[chosen] / ours[best]:.2f} times as long as {best}, the fastest implementation"
        yield f"auto chooses {chosen}, which {'is the fastest implementation' if best == chosen else slower}"


def _spread(one: Mapping[str, Any]) -> str:
    return f"{_ms(one['median_seconds'])} ({_ms(one['low'])}–{_ms(one['high'])})"


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
