"""What the benchmark of data at scale measures, each in a process of its own: prepare, start, read.

  python -m kronecker.benchmark.scale_steps NAME '{"argument": ...}'

prints one JSON object as its last line.  A process's peak memory is the kernel's high-water mark of its own address
space, which a new program starts anew; CPU seconds are of all its threads, which what else the machine does moves less
than the clock's.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kronecker.data import manifests, preparation, rows
from kronecker.schema import dotted, resolution

SEED = 0


def prepare(folder: str, source: str, tokenizer: str, workers: int) -> dict[str, Any]:
    """Returns what preparing a source took, and what came out.

    Args:
      folder: for the dataset.
      source: as in data.source.
      tokenizer: as in a config.
      workers: threads.
    """
    c = dotted.defaults()
    c.tokenizer = tokenizer
    c.data.update({"folder": folder, "source": source, "workers": workers})
    c = resolution.resolve(c)
    seconds, (prepared, _) = _timed(lambda: preparation.ensure_prepared(c))
    splits = prepared.manifest["splits"].values()
    shards = [shard for split in splits for shard in split["shards"]]
    return {
        "folder": str(prepared.folder),
        "tokens": sum(split["tokens"] for split in splits),
        "text_bytes": sum(split["bytes"] for split in splits),
        "shards": len(shards),
        "largest_shard_bytes": max(shard["size"] for shard in shards),
        **seconds,
    }


def start(folder: str, sequence: int, batch: int) -> dict[str, Any]:
    """Returns the seconds until a dataset is open and until its first batch is there."""
    seconds, prepared = _timed(lambda: manifests.open_prepared(folder))
    began = time.perf_counter()
    next(rows.train_batches(prepared, sequence, batch, SEED))
    first = time.perf_counter() - began
    return {"open_seconds": seconds["seconds"], "first_batch_seconds": first, "peak_bytes": _status("VmHWM")}


def read(folder: str, sequence: int, batch: int, least: int, most: int, block: int, cold: bool) -> dict[str, Any]:
    """Returns the tokens per second of training batches, rows in the order of training, as blocks of batches.

    Args:
      folder: of the dataset.
      sequence: T.
      batch: B.
      least: batches; an epoch, if that is more.
      most: batches.
      block: batches a sample.
      cold: first ask the kernel to forget the shards, so that the disk is read.
    """
    prepared = manifests.open_prepared(folder)
    if cold:
        _forget(Path(folder))
    blocks = min(max(least, prepared.tokens("train") // (sequence * batch)), most) // block
    batches = rows.train_batches(prepared, sequence, batch, SEED)
    samples = []

    def take() -> None:
        next(batches)  # what the threads read before the clock runs is theirs for free; a block is longer
        for _ in range(blocks):
            began = time.perf_counter()
            for _ in itertools.repeat(None, block):
                next(batches)
            samples.append(block * batch * sequence / (time.perf_counter() - began))

    seconds, _ = _timed(take)
    return {"tokens_per_second": samples, "batches": blocks * block, **seconds}


def _timed(work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    before, cpu, began = _status("VmRSS"), time.process_time(), time.perf_counter()
    result = work()
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return seconds | {"before_bytes": before, "peak_bytes": _status("VmHWM")}, result


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kilobytes) << 10


def _forget(folder: Path) -> None:
    for file in folder.glob("*.array_record-*"):
        with file.open("rb") as shard:
            os.fsync(shard.fileno())  # only what is written can be forgotten
            os.posix_fadvise(shard.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    print(json.dumps({step.__name__: step for step in (prepare, start, read)}[sys.argv[1]](**json.loads(sys.argv[2]))))
