"""The benchmark of whole runs: how many train.py finishes an hour, by how many are at work at a time on a CPU's cores.

Each of K runs at a time has a K-th of the cores, as simulated devices.  A round trains the same runs each way, one for
each core, to the end: start-up, compilation, training, evaluation and checkpoints are in its time.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kronecker.benchmark import timing
from kronecker.runtime import printing, progress

TRAIN = Path(__file__).parents[2] / "train.py"


def run(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Returns the numbers of each way, ready for JSON; raises ChildProcessError with the log's place if a run fails.

    `arguments` are train.py's; `folder` gets the runs, the prepared text, and a log of each run.
    """
    cores = timing.threads()
    at_once = [k for k in range(1, cores + 1) if cores % k == 0]
    cases = {k: lambda _, k=k: _train(arguments, folder, cores, k) for k in at_once}
    with progress.ProgressLine("rounds", timing.LEAST_ROUNDS, 0) as line:
        samples = timing.interleave(
            cases, timing.LEAST_ROUNDS, 0, lambda done, words: line.show(done, f"{words} at a time")
        )
    return {
        "benchmark": "runs",
        "arguments": list(arguments),
        "cores": cores,
        "runs_in_a_round": cores,
        "ways": [
            {
                "at_a_time": k,
                "devices_each": cores // k,
                "runs_per_hour": 3600 * cores / samples[k].median,
                "speedup": timing.ratio(samples[1], samples[k]),
                **samples[k].summary(),
            }
            for k in at_once
        ],
    }


def show(result: Mapping[str, Any]) -> None:
    headers = ("at a time", "devices\neach", "seconds\na run", "runs\nan hour", "ratio", "quartiles")
    rows = [
        (
            f"{way['at_a_time']}",
            f"{way['devices_each']}",
            f"{way['median_seconds'] / result['runs_in_a_round']:.0f}",
            f"{way['runs_per_hour']:.1f}",
            f"{way['speedup']['median']:.2f}",
            f"{way['speedup']['low']:.2f} to {way['speedup']['high']:.2f}",
        )
        for way in result["ways"]
    ]
    printing.show(
        printing.Table(headers, rows, ()), "ratio: runs an hour over those of one at a time, median of rounds"
    )


def _train(arguments: Sequence[str], folder: Path, cores: int, at_once: int) -> None:
    for first in range(0, cores, at_once):
        started = []
        for seed in range(first, first + at_once):
            workdir, log = folder / f"seed{seed}", folder / f"seed{seed}.log"
            shutil.rmtree(workdir, ignore_errors=True)
            own = {"seed": seed, "mesh.cpu_devices": cores // at_once, "data.folder": folder / "data"}
            command = [sys.executable, str(TRAIN), *arguments, *(f"--config.{k}={v}" for k, v in own.items())]
            with log.open("w", encoding="utf-8") as file:
                started.append(
                    (log, subprocess.Popen([*command, f"--workdir={workdir}"], stdout=file, stderr=subprocess.STDOUT))
                )
        if failed := [log for log, process in started if process.wait()]:
            raise ChildProcessError(f"a run failed; its log is {failed[0]}")
