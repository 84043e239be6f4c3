"""The benchmark of data at scale: what preparing, starting and reading take as the text grows, in new processes."""

import itertools
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from kronecker import tokenization
from kronecker.data import manifests, sources

ROOT = Path(__file__).parents[2]
SEQUENCE, BATCH = 1024, 528  # the paper's step
FILE_BYTES = 1 << 26  # of text a file
SAMPLE_BYTES = 4_000_000  # of text that says how many tokens a byte is
LEAST_BATCHES, MOST_BATCHES, BLOCK = 100, 1000, 10  # of a reading; BLOCK a sample
STARTS = 5
# The fastest arm of size 124m eats some 600,000 tokens a second on an H100; a reader should not be seen beside that.
TARGET = 20 * 600_000


def run(
    data: ml_collections.ConfigDict, tokenizer: str, sizes: Sequence[int], far: int, folder: Path
) -> dict[str, Any]:
    """Returns the numbers of each size, the fits through them, and the verdict on the reader, ready for JSON.

    Args:
      data: the `data` group of a config; its source is repeated as often as a size needs.
      tokenizer: as in a config.
      sizes: tokens, rising; each is met to a few percent, and what it came to is in the result.
      far: tokens of a dataset that lists the largest size's shards again and again, to start and read there.
      folder: for text and datasets; removed, and each size's before the next.
    """
    source = sources.open_source(data)
    source.fetch(lambda done, total: None)
    measured, far_away = [], {}
    try:
        for size in sizes:
            texts = write_texts(source, tokenizer, size, folder / "text")
            made = _step(
                "prepare", folder=str(folder), source=f"jsonl:{texts}", tokenizer=tokenizer, workers=data.workers
            )
            prepared = made.pop("folder")
            measured.append({"prepare": made, **_use(prepared)})
            print(f"{made['tokens']:,} tokens prepared in {made['seconds']:.1f} s and read", file=sys.stderr)
            shutil.rmtree(texts)
            if size == sizes[-1]:
                measured[-1]["read_cold"] = _read(prepared, cold=True)
                far_away = _use(link(Path(prepared), folder / "far", far))
            shutil.rmtree(prepared)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "benchmark": "data",
        "source": source.name,
        "tokenizer": tokenizer,
        "sequence": SEQUENCE,
        "batch": BATCH,
        "sizes": measured,
        "far": far_away,
    }
    return result | {"fits": fits(measured), "verdicts": verdicts(result)}


def write_texts(source: sources.Source, tokenizer: str, tokens: int, folder: Path) -> Path:
    """Writes about so many tokens of a source's documents as JSON lines, from its start again where it ends."""
    sample = list(sources.training_texts(source, 0.0, SAMPLE_BYTES))
    sample_tokens = sum(map(len, tokenization.load(tokenizer).encode_batch(sample))) + len(sample)
    left = tokens * sum(len(text.encode()) for text in sample) / sample_tokens
    folder.mkdir(parents=True)
    texts = _again_and_again(source)
    for number in itertools.count():
        if left <= 0:
            return folder
        with (folder / f"{number:05d}.jsonl").open("w") as file:
            while left > 0 and file.tell() < FILE_BYTES:
                text = next(texts)
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                left -= len(text.encode())
    raise AssertionError  # the count has no end


def _again_and_again(source: sources.Source) -> Iterator[str]:
    while True:
        yield from sources.training_texts(source, 0.0, sys.maxsize)


def link(prepared: Path, folder: Path, tokens: int) -> str:
    """Makes a dataset of at least so many training tokens of hard links to another one's shards; returns its folder.

    It has the shards, the manifest and the rows of a dataset of that size, and the disk space of the small one.
    """
    folder.mkdir()
    manifest = json.loads((prepared / manifests.MANIFEST).read_text())
    train = manifest["splits"]["train"]
    times = -(-tokens // train["tokens"])
    for split in manifest["splits"].values():
        copies = [(copy, shard) for copy in range(times) for shard in split["shards"]]
        split["shards"] = [{**shard, "file": f"{copy:05d}-{shard['file']}"} for copy, shard in copies]
        split["tokens"] *= times
        for copy, shard in copies:
            (folder / f"{copy:05d}-{shard['file']}").hardlink_to(prepared / shard["file"])
    manifest["fingerprint"] = manifests.content_fingerprint(manifest)
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))
    return str(folder)


def fits(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns how time and memory grow with the tokens, by least squares.

    The exponent of n in seconds ~ n^exponent (1: linear) is the slope of the logarithms; memory's slope is in bytes a
    token.  `prepare_peak_slope_from_the_second` leaves out the first size, which may not fill a shard.
    """
    tokens = np.array([one["prepare"]["tokens"] for one in measured], np.float64)
    column = {
        (step, name): np.array([one[step][name] for one in measured], np.float64)
        for step, name in (
            *(("prepare", name) for name in ("seconds", "cpu_seconds", "peak_bytes")),
            *(("read", "peak_bytes"), ("start", "open_seconds"), ("start", "first_batch_seconds")),
        )
    }

    def slope(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else float("nan")

    found = {
        "prepare_seconds_exponent": slope(np.log(tokens), np.log(column["prepare", "seconds"])),
        "prepare_cpu_seconds_exponent": slope(np.log(tokens), np.log(column["prepare", "cpu_seconds"])),
        "prepare_peak_slope": slope(tokens, column["prepare", "peak_bytes"]),
        "prepare_peak_slope_from_the_second": slope(tokens[1:], column["prepare", "peak_bytes"][1:]),
        "read_peak_slope": slope(tokens, column["read", "peak_bytes"]),
        "open_seconds_exponent": slope(np.log(tokens), np.log(column["start", "open_seconds"])),
        "first_batch_seconds_exponent": slope(np.log(tokens), np.log(column["start", "first_batch_seconds"])),
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def verdicts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what became of the reader's target at each size: reached means that its median is at least TARGET."""
    named = [(f"{one['prepare']['tokens'] / 1e6:,.0f}M tokens", one["read"]) for one in result["sizes"]]
    named.append((f"{result['far']['tokens'] / 1e6:,.0f}M tokens, linked", result["far"]["read"]))
    named += [
        (f"{one['prepare']['tokens'] / 1e6:,.0f}M tokens, not in the page cache", one["read_cold"])
        for one in result["sizes"]
        if "read_cold" in one
    ]
    return [
        {
            "what": f"millions of tokens read a second, {name}",
            "at_least": TARGET / 1e6,
            "of_medians": read["median"] / 1e6,
            "low": read["low"] / 1e6,
            "high": read["high"] / 1e6,
            "reached": read["median"] >= TARGET,
            "as_specified": True,
        }
        for name, read in named
    ]


def _use(prepared: str) -> dict[str, Any]:
    starts = [_step("start", folder=prepared, sequence=SEQUENCE, batch=BATCH) for _ in range(STARTS)]
    start = {name: statistics.median(one[name] for one in starts) for name in starts[0]}
    return {
        "tokens": manifests.open_prepared(prepared).tokens("train"),
        "start": start | {"samples": starts},
        "read": _read(prepared, cold=False),
    }


def _read(prepared: str, cold: bool) -> dict[str, Any]:
    sizes = {"least": LEAST_BATCHES, "most": MOST_BATCHES, "block": BLOCK}
    if cold:
        sizes["most"] = LEAST_BATCHES
    found = _step("read", folder=prepared, sequence=SEQUENCE, batch=BATCH, cold=cold, **sizes)
    low, median, high = np.quantile(found["tokens_per_second"], (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high, **found}


def _step(name: str, **arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "kronecker.benchmark.scale_steps", name, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that was to {name} {arguments['folder']} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
