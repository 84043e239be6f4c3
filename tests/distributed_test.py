"""Two real processes of one run against a single one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys, jax
folder, workdir, index, port = sys.argv[1:]
if port != "0":
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(index))
from kronecker import config
from kronecker.training import loop
c = config.load("configs/demo.py:arm=kronecker")
c.tokenizer, c.data.folder, c.data.source = "gpt2", folder, f"text:{folder}/text"
c.model.layers, c.model.d_model, c.train.batch, c.train.sequence, c.train.steps = 1, 16, 4, 32, 6
c.eval.every, c.eval.batch, c.checkpoint.every, c.log.every, c.mesh.cpu_devices = 3, 4, 2, 1, 1
loop.run(c, workdir)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder: Path, workdir: Path, index: int, port: int) -> subprocess.Popen:
    environment = os.environ | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(workdir), str(index), str(port)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def losses(workdir: Path) -> dict[str, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {f"{line['kind']} {line['step']}": line["loss"] for line in lines}


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_write_one_run(tmp_path: Path):
    (tmp_path / "text").mkdir()
    for i in range(300):
        (tmp_path / "text" / f"{i:03}.txt").write_text(f"number {i} and some words of its own, {i * i}\n" * 9)
    finish(start(tmp_path, tmp_path / "one", 0, 0))
    port = free_port()
    for process in [start(tmp_path, tmp_path / "two", index, port) for index in (0, 1)]:
        finish(process)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert len(losses(tmp_path / "two")) == 6 + 3
    assert json.loads((tmp_path / "two" / "env.json").read_text())["processes"] == 2
