"""Sweeps through a real SLURM of one node: submitted, preempted, queued again, cancelled, finished."""

import datetime
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path

import pytest
import slurm as cluster
import tiny_sweep

from kronecker.sweep import local, planning, slurm

ROOT = Path(__file__).parents[2]
pytestmark = cluster.needed
SMALL = slurm.Resources(time="10", mem=1.0)

# A child that waits until it may end; told to leave, it notes that it saved.  Each stay on the node adds a line.
RUN = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
task = os.environ["SLURM_PROCID"]
def leave(number, frame):
    (folder / f"saved{task}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
with (folder / f"stays{task}").open("a") as stays:
    stays.write(os.environ["SLURM_JOB_ID"] + "\\n")
while not (folder.parent / "go").exists():
    time.sleep(0.02)
(folder / "config.json").write_text("{}")
(folder / "result.json").write_text(json.dumps({"train_loss": 1.5, "validation_loss": 1.25}))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    with cluster.running(tmp_path_factory.mktemp("slurm") / "cluster") as env:
        yield env


@pytest.fixture(autouse=True)
def _on_the_cluster(running: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, running[name])
    yield
    subprocess.run(["scancel", "--user=root"], check=True)  # what a failed test has left
    tiny_sweep.wait_until(lambda: not queue(), "an empty queue")


def queue() -> list[str]:
    """Returns the jobs that wait or run."""
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def submit(run: Path, resources: slurm.Resources = SMALL, code: str = RUN) -> str:
    """Returns the job of a run that `code` stands for."""
    planned = [planning.Planned(run.name, run, (sys.executable, "-c", code, str(run)))]
    assert slurm.execute(planned, run.parent, resources, wait=False) == 0
    return slurm.sort(planned, run.parent).jobs[run.name]


def wait_until(ready: Callable[[], object], what: str) -> None:
    """Waits, and lets jobs that are queued again begin in 3 seconds instead of after SLURM's two minutes."""

    def hurried() -> object:
        command = ["squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %S"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        late = (datetime.datetime.now() + datetime.timedelta(seconds=30)).isoformat()
        for number, begin in map(str.split, listed.splitlines()):
            if begin != "N/A" and begin > late:  # at once would be too soon: the node refuses the job for a second
                subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now+3"], check=True)
        return ready()

    tiny_sweep.wait_until(hurried, what, seconds=180)  # more than SLURM's two minutes, where the haste comes too late


def stays(run: Path, task: int = 0) -> Callable[[], int]:
    """Returns a function that counts how often a job has begun."""
    file = run / f"stays{task}"
    return lambda: len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_preempted_runs_of_a_real_sweep_are_queued_again_and_end_as_if_undisturbed(tmp_path: Path):
    out = tmp_path / "runs"
    command = [sys.executable, "scripts/sweep.py", *tiny_sweep.flags(tmp_path), f"--out={out}", "--seeds=2"]
    command += ["--launcher=slurm", "--slurm_time=10", "--slurm_mem=1"]
    listed = subprocess.run([*command, "--dry_run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "would submit 2 of 2 runs, each as a job with timeout_min=10 nodes=1" in listed.stdout, listed.stderr
    assert not out.exists()
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    jobs = re.findall(r"\(job (\d+_\d)\)", said.stdout)
    assert len(set(jobs)) == 2, said.stdout + said.stderr
    first = [tiny_sweep.training_process(out / f"kronecker-seed{seed}") for seed in (0, 1)]
    subprocess.run(["scancel", "--signal=USR2", jobs[0]], check=True)  # what comes ahead of the time limit
    subprocess.run(["scontrol", "requeue", jobs[1]], check=True)  # what an administrator does
    again = subprocess.Popen([*command, "--wait"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: again.poll() is not None, "both to finish")
    told = again.communicate()[0]
    assert again.returncode == 0, told
    assert told.count("submitted before") == 2
    assert re.findall(r"^(kronecker-seed\d) +(\w+) ", told, re.MULTILINE) == [
        ("kronecker-seed0", "finished"),
        ("kronecker-seed1", "finished"),
    ]
    logs = [(out / slurm.FOLDER / f"{job}_0_log.out").read_text() for job in jobs]
    assert [log.count("Starting with") for log in logs] == [2, 2]
    assert f"Requeued job {jobs[0]}" in logs[0]
    assert "Requeued job" not in logs[1]
    assert not any(Path(f"/proc/{process}").exists() for process in first)
    assert tiny_sweep.metrics(out / "kronecker-seed0") == tiny_sweep.undisturbed(tmp_path)


def test_a_job_that_a_more_urgent_one_drives_out_saves_and_comes_back(tmp_path: Path):
    run = tmp_path / "run"
    submit(run)
    wait_until(lambda: stays(run)() == 1, "the first stay")
    urgent = ["sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, capture_output=True)
    wait_until((run / "saved0").exists, "the run to save")
    wait_until(lambda: stays(run)() == 2, "the second stay")
    (tmp_path / "go").touch()
    wait_until((run / "result.json").exists, "the run to finish")


def test_a_cancelled_job_saves_and_does_not_come_back_unasked(tmp_path: Path):
    run = tmp_path / "run"
    with futures.ThreadPoolExecutor() as pool:
        (number,) = set(pool.map(submit, [run, run]))  # two at the same time make one job
    wait_until(lambda: stays(run)() == 1, "the first stay")
    assert submit(run) == number  # it is not doubled
    with pytest.raises(ValueError, match="run is a SLURM job that waits or runs; use --launcher=slurm"):
        local.execute([planning.Planned("run", run, ("true",))], tmp_path)
    subprocess.run(["scancel", number], check=True)
    wait_until((run / "saved0").exists, "the run to save")
    wait_until(lambda: not queue(), "the job to end")
    assert stays(run)() == 1
    assert submit(run) != number
    wait_until(lambda: stays(run)() == 2, "the second stay")


def test_every_task_of_a_job_saves_and_the_first_queues_it_again(tmp_path: Path):
    run = tmp_path / "run"
    number = submit(run, slurm.Resources(time="10", mem=1.0, tasks_per_node=2))
    both = [stays(run, task) for task in (0, 1)]
    wait_until(lambda: [count() for count in both] == [1, 1], "both tasks")
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    wait_until(lambda: [count() for count in both] == [2, 2], "both tasks again")
    assert {file.name for file in run.glob("saved*")} == {"saved0", "saved1"}
    log = (tmp_path / slurm.FOLDER / f"{number}_0_log.out").read_text()
    assert log.count("Requeued job") == 1


def test_the_tasks_of_a_job_find_each_other_in_jax(tmp_path: Path):
    run = tmp_path / "run"
    code = (
        "import sys, pathlib, jax; jax.distributed.initialize(); "
        "pathlib.Path(f'{sys.argv[1]}.{jax.process_index()}').write_text(f'{jax.process_count()} {jax.device_count()}')"
    )
    submit(run, slurm.Resources(time="10", mem=2.0, tasks_per_node=2), code)
    wait_until(lambda: not queue(), "the job to end")
    assert [Path(f"{run}.{index}").read_text() for index in (0, 1)] == ["2 2", "2 2"]


def test_a_run_that_fails_is_told_apart_when_one_waits(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    names = ("good", "bad")
    code = {"good": RUN, "bad": "raise SystemExit(3)"}
    planned = [planning.Planned(n, tmp_path / n, (sys.executable, "-c", code[n], str(tmp_path / n))) for n in names]
    (tmp_path / "go").touch()
    assert slurm.execute(planned, tmp_path, SMALL, wait=True) == 1
    rows = re.findall(r"^(good|bad) +(finished|failed) ", capfd.readouterr().out, re.MULTILINE)
    assert rows == [("good", "finished"), ("bad", "failed")]
    assert "returned non-zero exit status 3" in next((tmp_path / slurm.FOLDER).glob("*_1_0_log.out")).read_text()


def test_jobs_that_slurm_refuses_are_told_in_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"SLURM refused the jobs; change the --slurm_ flag .*[Ii]nvalid partition"):
        submit(tmp_path / "run", slurm.Resources(partition="absent"))
    assert not queue()


def test_a_scheduler_that_does_not_answer_stops_a_second_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path / "run"
    submit(run)
    conf = tmp_path / "silent.conf"  # of a controller that is not there
    text = Path(os.environ["SLURM_CONF"]).read_text()
    conf.write_text(re.sub("SlurmctldPort=.*", "SlurmctldPort=1\nMessageTimeout=2", text))
    with monkeypatch.context() as context:
        context.setenv("SLURM_CONF", str(conf))
        with pytest.raises(ValueError, match="squeue failed, so it is unknown which jobs run"):
            submit(run)
