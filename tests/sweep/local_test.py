"""Sweeps whose runs go at once, as children of one process: ended, started twice; and what needs no SLURM to test."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import pytest
import submitit
import terminals
import tiny_sweep

from kronecker.sweep import devices, job, local, planning, slurm

ROOT = Path(__file__).parents[2]

# A child that says where it is, waits until it may end, and leaves a result.  Told to leave it saves, unless deaf.
RUN = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
def leave(number, frame):
    (folder / "saved").touch()
    if not (folder.parent / "deaf").exists():
        sys.exit(143)
signal.signal(signal.SIGTERM, leave)
with (folder.parent / "starts").open("a") as starts:
    starts.write(folder.name + "\\n")
print("devices:", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
(folder / "pid").write_text(str(os.getpid()))
while not (folder.parent / "go").exists():
    time.sleep(0.02)
(folder / "config.json").write_text("{}")
(folder / "result.json").write_text(json.dumps({"train_loss": 1.5, "validation_loss": 1.25}))
"""
NAMES = ("first", "second", "third")
SWEEP = f"""
import pathlib, sys
from kronecker.sweep import local, planning
out = pathlib.Path(sys.argv[1])
planned = [planning.Planned(n, out / n, (sys.executable, "-c", {RUN!r}, str(out / n))) for n in {NAMES!r}]
sys.exit(local.execute(planned, out, parallel=int(sys.argv[2])))
"""


def start(out: Path, parallel: int, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SWEEP, str(out), str(parallel)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | env, **pipes)


def process_id(out: Path, name: str) -> int:
    file = out / name / "pid"
    tiny_sweep.wait_until(lambda: file.exists() and file.read_text(), f"{file}")
    return int(file.read_text())


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def states(out: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) +(finished|skipped|stopped|failed) ", out, re.MULTILINE))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return tiny_sweep.undisturbed(tmp_path_factory.mktemp("reference"))


def test_as_many_runs_as_asked_for_are_at_work_each_with_its_own_log(tmp_path: Path):
    process = start(tmp_path, 2, CUDA_VISIBLE_DEVICES="")
    both = {process_id(tmp_path, "first"), process_id(tmp_path, "second")}
    assert len(both) == 2
    assert all(map(is_alive, both))
    assert not (tmp_path / "third").exists()
    (tmp_path / "go").touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith("2 runs at a time; no GPUs to split: the runs share this machine's cores and memory\n")
    assert states(out) == dict.fromkeys(NAMES, "finished")
    assert sorted(log.name for log in (tmp_path / local.LOGS).iterdir()) == [f"{name}.log" for name in NAMES]
    assert all(log.read_text().count("devices:") == 1 for log in (tmp_path / local.LOGS).iterdir())
    assert "devices:" not in out


def test_each_run_has_an_equal_share_of_the_gpus_and_passes_it_on(tmp_path: Path):
    (tmp_path / "go").touch()
    process = start(tmp_path, 2, CUDA_VISIBLE_DEVICES="0,1,4,GPU-5c1f", JAX_PLATFORMS="")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    told = [(tmp_path / local.LOGS / f"{name}.log").read_text().strip() for name in NAMES]
    assert sorted(told[:2]) == ["devices: 0,1", "devices: 4,GPU-5c1f"]
    assert told[2] in told[:2]
    assert "2 runs at a time; GPUs: 2 each" in out


def test_gpus_that_do_not_divide_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(ValueError, match=r"--parallel=3 does not divide the 4 GPUs here; choose one of 1, 2, 4;"):
        local.execute([], tmp_path / "out", parallel=3)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert devices.split(3) == [{}, {}, {}]


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"  # stands in for the driver's, as this machine need not have a GPU
    program.write_text('#!/bin/sh\ntest "$1" = --query-gpu=index && printf "0\\n1\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert devices.split(2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_lets_every_child_save_and_starts_no_other(tmp_path: Path, number: signal.Signals, code: int):
    process = start(tmp_path, 2, CUDA_VISIBLE_DEVICES="")
    children = [process_id(tmp_path, name) for name in NAMES[:2]]
    process.send_signal(number)
    if number == signal.SIGHUP:
        process.send_signal(number)  # as a shell does that ends with its terminal; it kills nothing
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert not any(map(is_alive, children))
    assert all((tmp_path / name / "saved").exists() for name in NAMES[:2])
    assert not (tmp_path / "third").exists()
    assert f"sweep: received {number.name}: its runs save and stop; a second signal kills them\n" in out
    assert re.findall(r"^(first|second) +stopped +\d+ +143$", out, re.MULTILINE) == ["first", "second"]


def test_a_sweep_whose_terminal_is_closed_lets_its_runs_save(tmp_path: Path):
    process, terminal = terminals.start([sys.executable, "-c", SWEEP, str(tmp_path), "2"], ROOT)
    children = [process_id(tmp_path, name) for name in NAMES[:2]]
    os.close(terminal)
    assert process.wait(60) == 129
    assert not any(map(is_alive, children))
    assert all((tmp_path / name / "saved").exists() for name in NAMES[:2])


def test_a_sweep_whose_output_nobody_reads_lets_its_runs_save(tmp_path: Path):
    process = start(tmp_path, 2, CUDA_VISIBLE_DEVICES="")
    children = [process_id(tmp_path, name) for name in NAMES[:2]]
    process.stdout.close()  # a `tee` that ended by the same Ctrl-C
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not any(map(is_alive, children))
    assert all((tmp_path / name / "saved").exists() for name in NAMES[:2])


def test_a_second_signal_kills(tmp_path: Path):
    (tmp_path / "deaf").touch()
    process = start(tmp_path, 2, CUDA_VISIBLE_DEVICES="")
    children = [process_id(tmp_path, name) for name in NAMES[:2]]
    process.send_signal(signal.SIGTERM)
    for name in NAMES[:2]:
        tiny_sweep.wait_until((tmp_path / name / "saved").exists, f"{name} to hear the first signal")
    assert all(map(is_alive, children))
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "sweep: received SIGTERM: kills its runs\n" in out
    assert re.findall(r"^(first|second) +stopped +\d+ +-9$", out, re.MULTILINE) == ["first", "second"]


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_child_that_was_told_to_leave_is_stopped_and_the_others_go_on(tmp_path: Path, parallel: int):
    process = start(tmp_path, parallel, CUDA_VISIBLE_DEVICES="")
    os.kill(process_id(tmp_path, "first"), signal.SIGTERM)
    process_id(tmp_path, "second")
    (tmp_path / "go").touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert states(out) == {"first": "stopped", "second": "finished", "third": "finished"}


def test_two_sweeps_on_one_folder_start_each_run_once(tmp_path: Path):
    one = start(tmp_path, 3, CUDA_VISIBLE_DEVICES="")
    for name in NAMES:
        process_id(tmp_path, name)
    other = start(tmp_path, 3, CUDA_VISIBLE_DEVICES="")
    assert "waiting for it" in other.stdout.readline()
    (tmp_path / "go").touch()
    first, second = (process.communicate(timeout=60)[0] for process in (one, other))
    assert (one.returncode, other.returncode) == (0, 0)
    assert states(first) == dict.fromkeys(NAMES, "finished")
    assert states(second) == dict.fromkeys(NAMES, "skipped")
    assert sorted((tmp_path / "starts").read_text().split()) == sorted(NAMES)


@pytest.mark.slow
def test_runs_at_once_prepare_their_data_once_and_go_on_after_a_signal(tmp_path: Path, reference: list[dict[str, Any]]):
    out = tmp_path / "runs"
    options = [*tiny_sweep.flags(tmp_path), f"--out={out}", "--seeds=2", "--parallel=2"]
    command = [sys.executable, "scripts/sweep.py", *options]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    for seed in (0, 1):
        tiny_sweep.training_process(out / f"kronecker-seed{seed}")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert not any(tiny_sweep.training_processes(out / f"kronecker-seed{seed}") for seed in (0, 1))
    assert re.findall(r"^(\S+) +(\w+) ", said, re.MULTILINE)[-2:] == [(f"kronecker-seed{i}", "stopped") for i in (0, 1)]
    logs = [log.read_text() for log in sorted((out / local.LOGS).iterdir())]
    assert sum(log.count("training a BPE") for log in logs) == 1
    assert len(list((tmp_path / "data").glob("*/manifest.json"))) == 1
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert again.returncode == 0, again.stderr
    assert tiny_sweep.metrics(out / "kronecker-seed0") == reference
    results = [json.loads((out / f"kronecker-seed{seed}" / "result.json").read_text()) for seed in (0, 1)]
    assert results[0]["data_fingerprint"] == results[1]["data_fingerprint"]


def test_a_child_that_cannot_be_started_leaves_none_behind(tmp_path: Path):
    commands = {"first": (sys.executable, "-c", RUN, str(tmp_path / "first")), "second": ("no-such-program",)}
    planned = [planning.Planned(name, tmp_path / name, command) for name, command in commands.items()]
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        local.execute(planned, tmp_path, parallel=2)
    # The children inherit the folder's lock: nobody has it, so none lives.
    subprocess.run(["flock", "--nonblock", tmp_path / ".lock", "true"], check=True)


@pytest.mark.parametrize(("time", "minutes"), [("90", 90), ("1:30:00", 90), ("12:00:59", 720), ("2-01:00:00", 49 * 60)])
def test_a_time_limit_is_read_as_slurm_reads_it(time: str, minutes: int):
    assert slurm.Resources(time=time).minutes == minutes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"time": "90:00"}, r"--slurm_time=90:00: it must be minutes, H:MM:SS or D-H:MM:SS"),
        ({"time": "2"}, r"--slurm_time=2 must be longer than --slurm_signal_delay=120 seconds"),
        ({"nodes": 0}, r"--slurm_nodes=0: it must be at least 1"),
        ({"signal_delay": 30}, r"--slurm_signal_delay=30 must be above checkpoint.grace_seconds=30"),
        ({"nodes": 2, "gpus_per_node": 8, "tasks_per_node": 2}, r"--slurm_gpus_per_node=8 with 2 processes on a node"),
        ({"mem": -1.0}, r"--slurm_mem=-1.0: it must be at least 0"),
    ],
)
def test_resources_that_cannot_be_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        planned = [planning.Planned("first", tmp_path / "out" / "first", ("true",), grace_seconds=30.0)]
        slurm.execute(planned, tmp_path / "out", slurm.Resources(**wrong), wait=False)
    assert not (tmp_path / "out").exists()


def test_a_run_of_several_nodes_has_a_process_a_gpu():
    assert slurm.Resources(nodes=2, gpus_per_node=8).tasks == 8
    assert slurm.Resources(nodes=1, gpus_per_node=8).tasks == 1
    assert slurm.Resources(nodes=2, gpus_per_node=8, tasks_per_node=2).tasks == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slurm_nodes=2"], "--slurm_nodes needs --launcher=slurm; the launcher is local"),
        (["--wait"], "--wait needs --launcher=slurm; the launcher is local"),
        (["--launcher=slurm", "--parallel=2"], "--parallel needs --launcher=local"),
        (["--parallel=0"], "--parallel=0: it must be at least 1"),
    ],
)
def test_flags_of_another_launcher_are_refused(tmp_path: Path, flags: list[str], message: str):
    done = commands.run("scripts/sweep.py", "--config=configs/demo.py", f"--out={tmp_path}/out", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_where_there_is_no_slurm_the_launcher_says_so_and_submits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    planned = [planning.Planned("first", tmp_path / "out" / "first", ("true",))]
    with pytest.raises(ValueError, match=r"--launcher=slurm: sbatch is not on PATH; run this on a login node"):
        slurm.execute(planned, tmp_path / "out", slurm.Resources(), wait=False)
    assert not (tmp_path / "out" / slurm.FOLDER).exists()


def test_a_training_process_never_gets_the_signal_that_only_its_job_understands():
    with job.shielded():
        child = subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE)
    child.send_signal(signal.SIGUSR2)
    child.communicate(b"\n", timeout=30)
    assert child.returncode == 0


@pytest.mark.parametrize(
    ("failures", "answer", "goes_on"), [(4, "RUNNING", True), (4, "COMPLETING", False), (5, "", False)]
)
def test_squeue_is_asked_five_times_whether_a_job_goes_on(
    failures: int,
    answer: str,
    goes_on: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
):
    asked = tmp_path / "asked"
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\necho $* >>{asked}\n"
        f"[ $(wc -l <{asked}) -gt {failures} ] || {{ echo 'Socket timed out' >&2; exit 1; }}\necho {answer}\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(job, "SECONDS_BETWEEN", 0.01)
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "5",
        "SLURM_ARRAY_TASK_ID": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert job._is_running(submitit.JobEnvironment()) == goes_on
    assert asked.read_text().splitlines() == ["--noheader --jobs=7 --format=%T"] * 5
    assert ("not requeued; start the sweep again: Socket timed out" in capfd.readouterr().err) == (failures == 5)
