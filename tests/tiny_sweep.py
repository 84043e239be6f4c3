"""A sweep of real trainings that last a few seconds, for the tests of what launches them."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import tiny_runs

ROOT = Path(__file__).parents[1]
STEPS = 400
_BODY = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from configs import arms
from configs.demo import get_config
def sweep(seeds):
    for seed in range(seeds):
        yield arms.ARMS["kronecker"] | {{"seed": seed}}
"""


def flags(folder: Path, steps: int = STEPS) -> list[str]:
    """Writes texts and a config with one arm below `folder`; returns flags that make its runs tiny."""
    texts = folder / "text"
    if not texts.exists():
        texts.mkdir(parents=True)
        tiny_runs.write_texts(texts)
        (folder / "mine.py").write_text(_BODY)
    options = tiny_runs.OPTIONS | {"data.source": f"text:{texts}", "data.folder": folder / "data"}
    options |= {"tokenizer": "bpe:300", "train.steps": steps, "eval.every": 100, "checkpoint.every": 20}
    options |= {"mesh.cpu_devices": 1}
    return [f"--config={folder}/mine.py", *(f"--config.{key}={value}" for key, value in options.items())]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics without what depends on the clock, or on the path of its text."""
    own = ("seconds", "tokens_per_second", "mfu", "config")
    lines = [*tiny_runs.lines(run), *tiny_runs.lines(run, "validation")]
    return [{key: value for key, value in line.items() if key not in own} for line in lines]


def undisturbed(folder: Path) -> list[dict[str, Any]]:
    """Returns the metrics of the sweep's first run, trained by train.py alone in a folder of its own."""
    run = folder / "alone"
    options = [*flags(folder), "--config.embedding.arm=kronecker", "--config.seed=0", f"--workdir={run}"]
    done = commands.run("train.py", *options)
    assert done.returncode == 0, done.stderr
    return metrics(run)


def training_process(run: Path) -> int:
    """Returns the id of the process that trains `run`, once it has saved its first checkpoint."""
    wait_until(lambda: any(child.name.isdigit() for child in (run / "checkpoints").glob("*")), f"checkpoint in {run}")
    wait_until(lambda: training_processes(run), f"process of {run}")
    return training_processes(run)[0]


def training_processes(run: Path) -> list[int]:
    """Ids of the train.py processes with this --workdir, whatever started them."""
    found = []
    for entry in Path("/proc").iterdir():
        if re.fullmatch(r"\d+", entry.name):
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if f"--workdir={run}".encode() in arguments and arguments[1].endswith(b"train.py"):
                found.append(int(entry.name))
    return found


def wait_until(ready: Callable[[], Any], what: str, seconds: float = 90) -> None:
    """Waits until `ready` returns something true, and fails with `what` if it does not."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)


def end(*processes: int) -> None:
    """Kills what a test has started and may still be there."""
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
