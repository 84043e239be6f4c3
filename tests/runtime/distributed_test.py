"""One run on several processes and devices, and on others when it goes on: real processes of train.py on loopback."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import pytest
import tiny_runs
from tiny_runs import finish, losses, start

from configs import base
from kronecker.runtime import distributed

STEPS, SAVED = 12, 4
OPTIONS = {
    "tokenizer": "bpe:300",
    "train.steps": STEPS,
    "checkpoint.every": SAVED,
    "checkpoint.keep": 10,
    "mesh.cpu_devices": 1,
}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    finish(start(workdir, data, OPTIONS))
    return workdir


@pytest.fixture(scope="module")
def on_four(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "four"
    ended = finish(start(workdir, data, OPTIONS, processes=4))
    for index, words in enumerate(ended):
        assert f"process {index} of 4 on " in words
        assert "1 of 4 devices, cpu" in words
    return workdir


def cut_off(run: Path, workdir: Path, step: int) -> Path:
    """Copies a finished run as it was when its checkpoint of `step` was the newest."""
    shutil.copytree(run, workdir)
    (workdir / "result.json").unlink()
    for saved in (workdir / "checkpoints").iterdir():
        if int(saved.name) > step:
            shutil.rmtree(saved)
    return workdir


@pytest.mark.slow
def test_four_processes_train_as_one_does_and_the_first_writes(alone: Path, on_four: Path):
    assert losses(on_four) == pytest.approx(losses(alone), abs=1e-5)
    steps = [line["step"] for line in tiny_runs.lines(on_four)]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((on_four / "env.json").read_text())["processes"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_what_four_processes_saved_goes_on_on_other_numbers(
    processes: int, data: Path, alone: Path, on_four: Path, tmp_path: Path
):
    workdir = cut_off(on_four, tmp_path / "run", 2 * SAVED)
    (workdir / "checkpoints" / str(2 * SAVED) / "state" / "manifest.ocdbt").write_bytes(b"")
    words = finish(start(workdir, data, OPTIONS, processes))
    assert f"damaged-checkpoints/{2 * SAVED}; resumes from step {SAVED}\n" in words[0]
    assert losses(workdir) == pytest.approx(losses(alone), abs=1e-5)
    assert len(losses(workdir)) == len(losses(alone))


@pytest.mark.slow
def test_processes_agree_on_a_checkpoint_that_all_can_read(tmp_path: Path):
    script = (
        "import os, sys, jax, ml_collections\n"
        "from etils import epath\n"
        "from configs import base\n"
        "from kronecker.runtime import device_mesh, distributed, sharding\n"
        "from kronecker.training import checkpoint\n"
        "distributed.start(base.get_config())\n"
        "whole = sharding.replicated(device_mesh.make_mesh())\n"
        "state = jax.jit(lambda: {'w': jax.numpy.arange(4.0)}, out_shardings=whole)()\n"
        "keep = ml_collections.ConfigDict({'checkpoint': {'keep': 3, 'keep_every': 0}})\n"
        "with checkpoint.open_manager(epath.Path(sys.argv[1]), keep) as manager:\n"
        "    for step in (1, 2, 3):\n"
        "        checkpoint.save(manager, step, state, {})\n"
        "if jax.process_index() == 0:\n"
        "    import pathlib, shutil\n"
        "    shutil.copytree(sys.argv[1], sys.argv[2])\n"
        "    for folder, step in ((sys.argv[1], 3), (sys.argv[2], 2)):\n"
        "        pathlib.Path(folder, 'checkpoints', str(step), 'state', 'manifest.ocdbt').unlink()\n"
        "sharding.wait_for_hosts('damages')\n"
        "own = epath.Path(sys.argv[1 + jax.process_index()])\n"
        "print('step', checkpoint.resume(own, state, {})[0])\n"
        "if jax.process_index() == 1:\n"
        "    (own / 'checkpoints/1/identity').rename(own / 'mislaid')\n"
        "    os.symlink('identity', own / 'checkpoints/1/identity')\n"  # which leads to itself
        "try:\n"
        "    checkpoint.restore(own, state, {}, 1)\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "first"), str(tmp_path / "second")]
    ended = [process.communicate(timeout=120) for process in tiny_runs.start_all([command] * 2)]
    said = [out.splitlines()[-2:] for out, _ in ended]
    assert [lines[0] for lines in said] == ["step 1"] * 2, ended
    assert said[0][1].endswith("/first/checkpoints/1/identity: process 1 cannot read it now; see its log"), ended
    assert "/second/checkpoints/1/identity: cannot be read now ([Errno 40] Too many levels" in said[1][1]
    first, second = (words for _, words in ended)
    assert "first/checkpoints/3: damaged (state: " in first
    assert "first/checkpoints/2: damaged (process 1 cannot read it; see its log); moved to " in first
    assert "second/checkpoints/2: damaged (state: " in second


@pytest.mark.slow
def test_a_run_goes_on_on_eight_devices_and_then_on_four(data: Path, alone: Path, tmp_path: Path):
    workdir = cut_off(alone, tmp_path / "eight", SAVED)
    finish(start(workdir, data, OPTIONS | {"mesh.cpu_devices": 8, "mesh.fsdp": 2, "mesh.tensor": 2}))
    assert losses(workdir) == pytest.approx(losses(alone), abs=1e-5)
    workdir = cut_off(workdir, tmp_path / "four", 2 * SAVED)
    finish(start(workdir, data, OPTIONS | {"mesh.cpu_devices": 4, "mesh.data": 1, "mesh.fsdp": -1}))
    assert losses(workdir) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.slow
def test_a_process_that_never_comes_is_not_waited_for(data: Path, tmp_path: Path):
    first, second = start(tmp_path / "run", data, OPTIONS | {"distributed.timeout_seconds": 8}, processes=2)
    second.kill()
    second.communicate()
    began = time.monotonic()
    _, words = first.communicate(timeout=60)
    assert time.monotonic() - began < 40
    assert first.returncode == -signal.SIGABRT
    assert re.search(
        r"^process 0 of 2 at 127\.0\.0\.1:\d+ on .*: waiting up to 8 s for other processes$", words, re.MULTILINE
    )
    assert "RegisterTask" in words  # JAX's own message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_that_dies_is_named_and_not_waited_for(data: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    options = OPTIONS | {"train.steps": 10**6, "checkpoint.every": 10**5, "distributed.heartbeat_seconds": 10}
    first, second = start(workdir, data, options, processes=2)
    while not tiny_runs.lines(workdir):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    second.kill()
    second.communicate(timeout=20)
    began = time.monotonic()
    _, words = first.communicate(timeout=60)
    assert time.monotonic() - began < 40
    assert first.returncode not in (0, 143)
    assert "Task 1 heartbeat timeout" in words


@pytest.mark.slow
def test_all_processes_wait_for_whoever_holds_the_folder_and_find_the_same(data: Path, alone: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with (workdir / ".lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        group = start(workdir, data, OPTIONS, processes=2)
        while "another process uses this folder; waiting for it" not in group[0].said():
            assert group[0].poll() is None, group[0].said()
            time.sleep(0.01)
        assert [process.poll() for process in group] == [None, None]
        shutil.copytree(alone, workdir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
    finish(group)  # the run has finished meanwhile
    assert losses(workdir) == losses(alone)
    other = tmp_path / "other"
    other.mkdir()
    with (other / ".lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        holder.write(json.dumps({"pid": 7, "host": "far", "started": "now", "config": {"seed": 7}}))
        holder.flush()
        first, second = finish(start(other, data, OPTIONS, processes=2), 2)
    assert "process 7 on far since now trains another config here (" in first
    assert "seed was 7, is 0" in first
    assert "in use; see process 0" in second


def test_all_processes_take_the_smallest_limit(tmp_path: Path):
    script = (
        "import sys\n"
        "from configs import base; from kronecker.runtime import distributed; from kronecker.training import plan\n"
        "distributed.start(base.get_config())\n"
        "plan._LIMITS = sys.argv[1:]\n"
        "print(plan.device_limit())\n"
    )
    commands = []
    for name, size in (("first", 3 << 30), ("second", 2 << 30)):
        (tmp_path / name).write_text(f"{size}\n")
        commands.append([sys.executable, "-c", script, str(tmp_path / name)])
    ended = [process.communicate(timeout=120) for process in tiny_runs.start_all(commands)]
    limits = [said.splitlines()[-1:] for said, _ in ended]  # Gloo speaks before
    assert limits == [[str(1 << 30)]] * 2, ended  # two processes of one machine share its memory


def group(**values: Any) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"coordinator": "", "processes": 0, "index": -1} | values)


def test_the_place_of_a_process_comes_from_the_config_or_from_the_environment():
    want = {"coordinator_address": "10.0.0.1:8476", "num_processes": 4, "process_id": 3}
    assert distributed.explicit(group(coordinator="10.0.0.1:8476", processes=4, index=3), {}) == want
    told = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
    assert distributed.explicit(group(index=3), told) == want
    assert distributed.explicit(group(), {}) == {}


@pytest.mark.parametrize(
    ("values", "environment", "message"),
    [
        ({"coordinator": "a:1"}, {}, "processes=0, index=-1: set all three or none"),
        ({"coordinator": "a", "processes": 2, "index": 0}, {}, "the coordinator must be HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "index": 2}, {}, "the index must be from 0 to 1"),
        ({}, {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'; it must be a whole number"),
    ],
)
def test_a_place_that_cannot_be_is_refused(values: dict, environment: dict, message: str):
    with pytest.raises(ValueError, match=message):
        distributed.explicit(group(**values), environment)


def test_processes_that_nothing_tells_of_each_other_are_told_what_to_set():
    script = (
        "from configs import base; from kronecker.runtime import distributed\n"
        "distributed.start(base.apply(base.get_config(), {'distributed.enabled': 'on'}))\n"
    )
    alone = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM_", "OMPI_"))}
    done = subprocess.run([sys.executable, "-c", script], cwd=tiny_runs.ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(
        r"ValueError: .* no SLURM, Open MPI or Cloud TPU started this one .*; set distributed.coord", done.stderr
    )


def test_a_cluster_is_asked_only_where_nothing_else_says_where_a_process_is(monkeypatch: pytest.MonkeyPatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **values: joined.append(values))
    c = base.apply(base.get_config(), {"distributed.enabled": "on"})
    distributed.start(c)
    base.apply(c, {"distributed.coordinator": "a:1", "distributed.processes": 2, "distributed.index": 0})
    distributed.start(c)
    assert [values["cluster_detection_method"] for values in joined] == [None, "deactivate"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "named"),
    [("train.lr", "train.lr is"), ("eval.every", "eval.every is"), ("data.source", "the prepared text")],
)
def test_processes_with_other_keys_or_text_are_refused(key: str, named: str, data: Path, tmp_path: Path):
    texts = tmp_path / "text"
    shutil.copytree(data / "text", texts)
    (texts / "000.txt").write_text("Another text.\n" * 50)
    other = {"train.lr": 0.1, "eval.every": 3, "data.source": f"text:{texts}"}[key]
    # Text that one process has to prepare first would outlast the others' wait where the machine is slow.
    options = OPTIONS | {"tokenizer": "gpt2"}
    commands = [tiny_runs.command(tmp_path / "run", data, options | more) for more in ({}, {key: other})]
    for words in finish(tiny_runs.start_all(commands), code=2):
        assert words.splitlines()[-1].startswith(f"error: {named}")
        assert "and not the same in all processes of this run; start all of them" in words
    assert not (tmp_path / "run").exists()


def test_processes_of_another_version_are_refused_before_their_facts_are_compared(monkeypatch: pytest.MonkeyPatch):
    distributed.require_equal({"seed": 0})
    monkeypatch.setattr(distributed, "told_by_all", lambda number: [number, number + 1])
    with pytest.raises(ValueError, match="start all of them with one version of kronecker"):
        distributed.require_equal({"seed": 0})
