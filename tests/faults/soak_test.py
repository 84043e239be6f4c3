"""Thousands of tiny steps in one process: its memory, descriptors and threads stay what they were after the first."""

import time
from pathlib import Path
from typing import NamedTuple

import disturbed
import pytest
import tiny_runs
from commands import Command
from disturbed import FAULT, HARMLESS, Draws, Tally

STEPS = 4_000  # in CI; --faults=5 is 20,000
GROWTH = 6_000  # kB of memory that may come and go
MORE_THREADS = 4  # likewise: libraries have pools; one a step would be thousands


class Sample(NamedTuple):
    kilobytes: int
    descriptors: int
    threads: int


@pytest.mark.slow
def test_a_long_run_takes_no_more_memory_descriptors_or_threads_as_it_goes(tmp_path: Path, draws: Draws, tally: Tally):
    (tmp_path / "text").mkdir()
    tiny_runs.write_texts(tmp_path / "text")
    steps = draws.count(STEPS)
    options = disturbed.SMALL | {"train.steps": steps, "train.batch": 1, "train.sequence": 8}
    options |= {"eval.batch": 1, "eval.sequences": 2, "log.every": 50}
    options |= {"eval.every": steps // 20, "checkpoint.every": steps // 20}
    command = Command(tiny_runs.command(tmp_path / "run", tmp_path, options)[1:], tmp_path / "out")
    samples: list[tuple[int, Sample]] = []
    while command.process.exitcode is None:
        time.sleep(0.1)
        if (now := sample(command.process.pid)) and (lines := tiny_runs.lines(tmp_path / "run")):
            samples.append((lines[-1]["step"], now))
    done = command.done()
    assert done.code == 0, done.err
    assert done.err.count("Traceback") == 0
    early = [found for step, found in samples if steps / 4 < step <= steps / 2]
    late = [found for step, found in samples if 3 * steps / 4 < step < steps]
    assert early and late, f"{len(samples)} samples of {steps} steps"
    for name, allowed in zip(Sample._fields, (GROWTH, 0, MORE_THREADS), strict=True):
        # The least of each: what was open or running for a moment is no leak, and a leak raises the least too.
        before, after = (min(getattr(found, name) for found in of) for of in (early, late))
        words = f"{before:,} {name} in the second quarter of {steps:,} steps, {after:,} in the last"
        tally.add("soak", FAULT if after > before + allowed else HARMLESS, words)
    tally.check()


def sample(process: int) -> Sample | None:
    place = Path("/proc") / str(process)
    try:
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return Sample(int(status["VmRSS"].split()[0]), len(list((place / "fd").iterdir())), int(status["Threads"]))
    except (OSError, KeyError):  # it has ended
        return None
