"""The files of launch/: read by SkyPilot's own parser, and their commands run in bash, as nodes on this machine.

`make sky` installs the parser.
"""

import json
import os
import re
import signal
import socket
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny_runs
import tiny_sweep
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "launch").glob("*.yaml"))
SKY = ROOT / ".venv" / "sky" / "bin" / "python"
OPTIONS = tiny_runs.OPTIONS | {"tokenizer": "bpe:300", "train.steps": 4, "mesh.cpu_devices": 1}


def start(file: str, environment: Mapping[str, object]) -> subprocess.Popen:
    """Starts what a file runs on a node; `environment` is SkyPilot's and what --env gives."""
    task = yaml.safe_load((ROOT / "launch" / file).read_text())
    given = {name: str(value) for name, value in (task["envs"] | dict(environment)).items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        ["bash", "-c", task["run"]], cwd=ROOT, env=os.environ | given, start_new_session=True, **pipes
    )


def flags(data: Path, options: Mapping[str, object] = OPTIONS) -> str:
    values = options | {"data.folder": data, "data.source": f"text:{data / 'text'}"}
    return " ".join(f"--config.{key}={value}" for key, value in values.items())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ended(nodes: list[subprocess.Popen], code: int = 0) -> list[str]:
    said = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [code] * len(nodes), "\n".join(said)
    return said


def start_two(run: Path, options: str) -> list[subprocess.Popen]:
    together = {"SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2", "SKYPILOT_NUM_NODES": 2, "PORT": free_port()}
    together |= {"CONFIG": "configs/demo.py", "WORKDIR": run, "FLAGS": options}
    return [start("gpu.yaml", together | {"SKYPILOT_NODE_RANK": rank}) for rank in (0, 1)]


@pytest.mark.extras("" if SKY.exists() else "needs SkyPilot: make sky")
def test_skypilot_reads_every_file(tmp_path: Path):
    home = os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    command = [SKY, ROOT / "tests" / "sky_tasks.py", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tasks = json.loads(done.stdout.splitlines()[-1])
    assert {name: task["accelerators"] for name, task in tasks.items()} == {
        "gpu.yaml": {"H100": 8},
        "sweep.yaml": {"H100": 1},
        "tpu.yaml": {"tpu-v5litepod-16": 1},
    }
    assert tasks["tpu.yaml"]["runtime"] == "v2-alpha-tpuv5-lite"
    for task in tasks.values():
        assert (task["cloud"], task["spot"], task["nodes"], task["workdir"]) == ("GCP", True, 1, ".")
        assert task["recovery"]["recover_on_exit_codes"] == [143]
        assert task["recovery"]["max_restarts_on_errors"] == 3
        assert task["envs"]["WORKDIR"] == "gs://bucket/run"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_setup_is_bash_and_installs_extras_that_there_are(file: Path):
    setup = yaml.safe_load(file.read_text())["setup"]
    subprocess.run(["bash", "-n", "-c", setup], check=True)
    (extras,) = re.findall(r'"\.\[(.*)\]"', setup)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


@pytest.mark.slow
def test_two_nodes_train_one_run_and_go_on_with_the_same_command_when_they_were_told_to_leave(
    data: Path, tmp_path: Path
):
    run, options = tmp_path / "run", flags(data, OPTIONS | {"train.steps": 400, "checkpoint.every": 20})
    nodes = start_two(run, options)
    tiny_sweep.training_process(run)
    os.killpg(nodes[1].pid, signal.SIGTERM)  # bash and train.py, as SkyPilot ends them
    said = [node.communicate(timeout=120)[0] for node in nodes]
    assert "process 1 of 2 on " in said[1]
    assert nodes[0].returncode == 143, said[0]
    assert not (run / "result.json").exists()
    ended(start_two(run, options))
    assert json.loads((run / "env.json").read_text())["processes"] == 2
    steps = [line["step"] for line in tiny_runs.lines(run)]
    assert steps == list(range(1, 401))


@pytest.mark.slow
def test_the_workers_of_a_slice_train_one_run(data: Path, tmp_path: Path):
    run = tmp_path / "run"
    given = {"CONFIG": "configs/demo.py", "WORKDIR": run, "FLAGS": flags(data)}
    # On a slice, Google's metadata server says these three.
    given |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": 2}
    said = ended([start("tpu.yaml", given | {"JAX_PROCESS_ID": index}) for index in (0, 1)])
    assert "process 1 of 2 on " in said[1]
    assert (run / "result.json").exists()


@pytest.mark.slow
def test_a_job_of_a_sweep_trains_the_arm_and_the_seed_of_its_rank(data: Path, tmp_path: Path):
    given = {"CONFIG": "configs/demo.py:seed=0", "WORKDIR": tmp_path, "FLAGS": flags(data), "SKYPILOT_JOB_RANK": 6}
    ended([start("sweep.yaml", given)])
    config = json.loads((tmp_path / "kronecker-seed1" / "config.json").read_text())
    assert (config["embedding"]["arm"], config["seed"]) == ("kronecker", 1)
    assert (tmp_path / "kronecker-seed1" / "result.json").exists()
