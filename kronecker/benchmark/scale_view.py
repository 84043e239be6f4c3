"""The benchmark of data at scale as a table and as a picture."""

from collections.abc import Mapping
from typing import Any, TextIO

import matplotlib as mpl
import numpy as np
from matplotlib import figure

from kronecker.report import plot
from kronecker.runtime import printing
from kronecker.runtime.printing import Table

FIT_WORDS = {
    "prepare_seconds_exponent": "preparing: seconds ~ tokens^{:.3f}",
    "prepare_cpu_seconds_exponent": "preparing: CPU seconds ~ tokens^{:.3f}",
    "prepare_peak_slope": "preparing: peak memory, {:+.3f} bytes a token",
    "prepare_peak_slope_from_the_second": "preparing: the same without the first size, {:+.3f} bytes a token",
    "read_peak_slope": "reading: peak memory, {:+.4f} bytes a token",
    "open_seconds_exponent": "starting: seconds to open ~ tokens^{:.3f}",
    "first_batch_seconds_exponent": "starting: seconds to the first batch ~ tokens^{:.3f}",
}


def show(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints a line a size and the fits."""
    headers = (
        *("M tokens", "prepare\ns", "CPU\ns", "M tokens\n/s", "peak\nMB", "shards", "largest\nMB"),
        *("open\nms", "first\nbatch ms", "read\nM tokens/s", "quartiles", "peak\nMB"),
    )
    rows = []
    for one in result["sizes"]:
        made = one["prepare"]
        rows.append(
            (
                f"{made['tokens'] / 1e6:,.1f}",
                f"{made['seconds']:,.1f}",
                f"{made['cpu_seconds']:,.1f}",
                f"{made['tokens'] / made['seconds'] / 1e6:.2f}",
                f"{made['peak_bytes'] / 1e6:,.0f}",
                f"{made['shards']}",
                f"{made['largest_shard_bytes'] / 1e6:,.1f}",
                *_used(one["start"], one["read"]),
            )
        )
        if "read_cold" in one:
            rows.append(("from disk", *[""] * 8, *_used(one["start"], one["read_cold"])[2:]))
    far = result["far"]
    rows.append((f"{far['tokens'] / 1e6:,.0f}", "linked", *[""] * 5, *_used(far["start"], far["read"])))
    title = (
        f"\n{result['source']} in {result['tokenizer']}'s ids, read as batches of {result['batch']} x "
        f"{result['sequence']} tokens; every line's processes are new ones"
    )
    fitted = (words.format(result["fits"][name]) for name, words in FIT_WORDS.items() if name in result["fits"])
    printing.show(title, Table(headers, rows, ()), *fitted, file=file)


def picture(result: Mapping[str, Any]) -> str:
    """Returns the picture: time and memory over the tokens, with the line of linear time through the largest size."""
    tokens = np.array([one["prepare"]["tokens"] for one in result["sizes"]]) / 1e6
    made = [one["prepare"] for one in result["sizes"]]
    with mpl.rc_context(plot.LOOK):
        paper = figure.Figure((9.0, 3.4), layout="constrained")
        time, memory = paper.subplots(1, 2)
        for name, words, colour in (("seconds", "seconds", plot.BLUE), ("cpu_seconds", "CPU seconds", plot.VERMILION)):
            taken = np.array([one[name] for one in made])
            time.plot(tokens, taken, "o", color=colour, label=words)
            time.plot(tokens, taken[-1] * tokens / tokens[-1], color=colour, linewidth=0.9)
        time.set_xscale("log")
        time.set_yscale("log")
        time.set_title("preparing; lines: linear from the largest", fontsize=9.5)
        reading = [one["read"] for one in result["sizes"]]
        for steps, words, colour, mark in ((made, "preparing", plot.BLUE, "o"), (reading, "reading", plot.GREEN, "s")):
            peaks = [one["peak_bytes"] / 1e6 for one in steps]
            memory.plot(tokens, peaks, mark + "-", color=colour, label=words)
        far = result["far"]
        memory.plot(far["tokens"] / 1e6, far["read"]["peak_bytes"] / 1e6, "s", color=plot.GREEN, mfc="none")
        memory.set_xscale("log")
        memory.set_ylim(bottom=0)
        memory.set_title("peak memory of the process, MB; hollow: linked shards", fontsize=9.5)
        for ax in (time, memory):
            ax.set_xlabel("million tokens")
            ax.legend(frameon=False)
        return plot.svg(paper)


def _used(start: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    return [
        f"{1e3 * start['open_seconds']:.1f}",
        f"{1e3 * start['first_batch_seconds']:.0f}",
        f"{read['median'] / 1e6:.1f}",
        f"{read['low'] / 1e6:.1f} to {read['high'] / 1e6:.1f}",
        f"{read['peak_bytes'] / 1e6:,.0f}",
    ]
