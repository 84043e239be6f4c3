"""A training of seconds: the keys that make it small, text for it, its processes, and the losses that it leaves."""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import commands
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# What a test compiles, in its own process or one that it starts, runs a few times at most.  So XLA's passes over the
# program stay the same, and the machine code is the quickest to make: an update's in a tenth of the time.
QUICK_TO_COMPILE = ["--xla_backend_optimization_level=0"]
if Version(metadata.version("jax")) < Version("0.11"):  # later ones have no other emitters
    QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
OPTIONS: dict[str, Any] = {
    "model.layers": 1,
    "model.heads": 2,
    "model.d_model": 16,
    "model.context": 32,
    "train.batch": 4,
    "train.sequence": 32,
    "eval.every": 4,
    "eval.sequences": 8,
    "eval.batch": 4,
    "log.every": 1,
}


def xla_flags_of_users() -> str:
    """Returns XLA_FLAGS without QUICK_TO_COMPILE, for processes that compile as users' do."""
    return " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if flag not in QUICK_TO_COMPILE)


def write_texts(folder: Path) -> None:
    """Writes 300 documents of 120 made-up words into `folder`."""
    words = [f"{a}{b}" for a in ("kron", "byte", "code", "table") for b in ("s", "er", "ing", "ed", "")]
    rng = random.Random(0)
    for i in range(300):
        (folder / f"{i:03}.txt").write_text(" ".join(rng.choices(words, k=120)) + ".\n")


def command(workdir: Path, data: Path, options: Mapping[str, Any], config: str = "configs/demo.py") -> list[str]:
    """Returns the command that trains on the texts in data/text, its folder as people type it."""
    values = OPTIONS | {"data.folder": data, "data.source": f"text:{data / 'text'}"} | options
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    return [sys.executable, "train.py", f"--config={config}", f"--workdir={os.path.relpath(workdir, ROOT)}", *overrides]


def start(
    workdir: Path, data: Path, options: Mapping[str, Any], processes: int = 1, flags: Sequence[str] = ()
) -> list[commands.Command]:
    """Starts the command with more `flags`, as so many processes of one run on this machine."""
    return start_all([[*command(workdir, data, options), *flags]] * processes)


def start_all(all_arguments: Sequence[Sequence[str]]) -> list[commands.Command]:
    """Starts each command, all of them as processes of one run on this machine where there are several."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = []
    for index, arguments in enumerate(all_arguments):
        place = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": len(all_arguments), "JAX_PROCESS_ID": index}
        environment = {key: str(value) for key, value in place.items()} if len(all_arguments) > 1 else {}
        started.append(commands.start(*arguments[1:], **environment))
    return started


def finish(processes: Sequence[commands.Command | subprocess.Popen], code: int = 0) -> list[str]:
    """Waits until all have ended with `code` and returns what they wrote on stderr."""
    ended = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(ended)
    return ended


def lines(workdir: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Returns the whole lines of metrics.jsonl that are of one kind."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in found if line["kind"] == kind]


def losses(workdir: Path) -> dict[str, float]:
    """Returns every loss of a run, by what it is of and its step."""
    return {f"{k} {line['step']}": line["loss"] for k in ("train", "validation") for line in lines(workdir, k)}
