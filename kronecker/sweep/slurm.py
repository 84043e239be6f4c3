"""A sweep's runs as jobs of SLURM, submitted through submitit as one array.

OUT/slurm holds submitit's files, the jobs' logs among them, and jobs.json, which says for each run what job it was
given last.  A run that is finished, or whose job waits or runs, is not submitted again.
"""

import dataclasses
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from kronecker.run import rundir
from kronecker.runtime import locks
from kronecker.sweep import planning, run_outcome

FOLDER, JOBS = "slurm", "jobs.json"
WAIT_SECONDS = 5.0
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]\d):[0-5]\d|(?P<only>\d+)")


@dataclasses.dataclass(frozen=True)
class Resources:
    """What each run's job asks for; each field is the flag --slurm_NAME of scripts/sweep.py."""

    partition: str = ""  # SLURM's partition; empty: the cluster's default
    account: str = ""  # what the time is charged to; empty: the user's default
    # limit of one stay on the nodes: minutes, H:MM:SS or D-H:MM:SS.  A run that needs more is queued again
    time: str = "4:00:00"
    nodes: int = 1  # of a run
    tasks_per_node: int = 0  # training processes on a node; 0: one, or one a GPU where a run has several nodes
    gpus_per_node: int = 0  # of a run
    cpus_per_task: int = 0  # cores of a training process; 0: the cluster's default
    mem: float = 0.0  # gigabytes on a node; 0: the cluster's default
    array_parallelism: int = 16  # runs at the same time at most
    signal_delay: int = 120  # seconds before the limit at which a run is told to save and leave
    max_timeouts: int = 100  # how often a run that reached its limit is queued again; preemptions do not count

    @property
    def minutes(self) -> int:
        """`time` in minutes, rounded down; raises a ValueError if it is none."""
        match = _TIME.fullmatch(self.time)
        if not match:
            raise ValueError(f"--slurm_time={self.time}: write minutes, H:MM:SS or D-H:MM:SS, for example 12:00:00")
        number = {name: int(text or 0) for name, text in match.groupdict().items()}
        return number["only"] + (number["days"] * 24 + number["hours"]) * 60 + number["minutes"]

    @property
    def tasks(self) -> int:
        return self.tasks_per_node or (max(self.gpus_per_node, 1) if self.nodes > 1 else 1)

    def check(self, grace_seconds: float) -> None:
        """Raises a ValueError that names the flag if the job could not be; `grace_seconds` is the longest of a run."""
        least = {"nodes": 1, "array_parallelism": 1, "signal_delay": 1, "max_timeouts": 0, "tasks_per_node": 0}
        least |= {"gpus_per_node": 0, "cpus_per_task": 0, "mem": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"--slurm_{name}={getattr(self, name)}: at least {minimum}")
        if self.nodes * self.tasks > 1 and self.gpus_per_node not in (0, self.tasks):
            raise ValueError(
                f"--slurm_gpus_per_node={self.gpus_per_node} with {self.tasks} processes on a node: of a run with "
                "several processes, JAX gives each one GPU; set --slurm_tasks_per_node to the number of GPUs"
            )
        if self.signal_delay <= grace_seconds:
            raise ValueError(
                f"--slurm_signal_delay={self.signal_delay} is not above checkpoint.grace_seconds {grace_seconds:g}: a "
                "run at its time limit would be killed while it saves; raise the former"
            )
        if self.minutes * 60 <= self.signal_delay:
            raise ValueError(
                f"--slurm_time={self.time} is not longer than --slurm_signal_delay={self.signal_delay} seconds, so a "
                "run would be told to leave as it starts; ask for more time"
            )

    def parameters(self) -> dict[str, Any]:
        """Returns what submitit is given, by its own names."""
        parameters = {"timeout_min": self.minutes, "nodes": self.nodes, "tasks_per_node": self.tasks}
        parameters |= {"stderr_to_stdout": True}
        if self.gpus_per_node:
            parameters["gpus_per_node"] = self.gpus_per_node
        optional = {"partition": self.partition, "account": self.account}
        parameters |= {f"slurm_{name}": text for name, text in optional.items() if text}
        optional = {"cpus_per_task": self.cpus_per_task, "mem_gb": self.mem}
        parameters |= {name: number for name, number in optional.items() if number}
        parameters |= {"slurm_job_name": "kronecker", "slurm_signal_delay_s": self.signal_delay}
        parameters["slurm_array_parallelism"] = self.array_parallelism
        parameters["slurm_additional_parameters"] = {"requeue": True}  # also where the cluster's default is not to
        return parameters


@dataclasses.dataclass(frozen=True)
class Submission:
    """The runs of a sweep, sorted by what is to be done with them."""

    finished: list[planning.Planned]
    active: list[planning.Planned]  # their jobs wait or run
    new: list[planning.Planned]  # to be submitted
    jobs: Mapping[str, str]  # the last job of each run that ever had one


def sort(planned: Sequence[planning.Planned], out: Path) -> Submission:
    """Returns what is to be done with each run, as folders and scheduler say now; raises ValueError if it is silent."""
    jobs = _jobs(out)
    active = _active(planned, jobs)
    finished = [run for run in planned if run not in active and run.state == "finished"]
    new = [run for run in planned if run not in active and run not in finished]
    return Submission(finished, active, new, jobs)


def check_none_at_work(planned: Sequence[planning.Planned], out: Path) -> None:
    """Raises a ValueError if a run of a sweep on this machine is a job that waits or runs.

    Away from the cluster, where there is no squeue, nothing is known of its jobs.
    """
    if shutil.which("squeue") and (active := _active(planned, _jobs(out))):
        raise ValueError(f"{out}: {active[0].name} is at work under --launcher=slurm; use that, or end it first")


def describe(planned: Sequence[planning.Planned], out: Path, resources: Resources) -> str:
    """Returns what `execute` would submit, as text for --dry_run.

    Raises ValueError as `execute` does.
    """
    resources.check(max((run.grace_seconds for run in planned), default=0.0))
    sorted_runs = sort(planned, out)
    parameters = " ".join(f"{name}={value}" for name, value in resources.parameters().items())
    lines = [f"would submit {len(sorted_runs.new)} of {len(planned)} runs, each as a job with {parameters}"]
    lines += [f"  {run.name}: has finished" for run in sorted_runs.finished]
    lines += [f"  {run.name}: its job {sorted_runs.jobs[run.name]} waits or runs" for run in sorted_runs.active]
    return "\n".join(lines)


def execute(planned: Sequence[planning.Planned], out: Path, resources: Resources, wait: bool) -> int:
    """Submits what is neither finished nor at work, and says how to follow it; returns the exit code.

    Args:
      planned: the runs.
      out: the sweep's folder, on a disk that the nodes share.
      resources: of each run.
      wait: whether to stay until no job is left, and end in the table of a local sweep.

    Raises ValueError if a flag cannot be, SLURM is not there or refuses the jobs.
    """
    resources.check(max((run.grace_seconds for run in planned), default=0.0))
    with locks.locked(out / locks.LOCK):
        sorted_runs = sort(planned, out)
        jobs = {**sorted_runs.jobs, **(_submit(sorted_runs.new, out, resources) if sorted_runs.new else {})}
        (out / FOLDER).mkdir(exist_ok=True)
        rundir.write_json(epath.Path(out / FOLDER / JOBS), {"jobs": jobs})
    for run in planned:
        words = "finished before" if run in sorted_runs.finished else f"job {jobs.get(run.name)}"
        at_work = ", submitted before" if run in sorted_runs.active else ""
        print(f"{planning.header(planned.index(run) + 1, planned)} ({words}{at_work})", flush=True)
    begun = {run.name: jobs[run.name] for run in (*sorted_runs.active, *sorted_runs.new)}
    if begun:
        _tell_how_to_follow(out, next(iter(begun.values())))
    return _follow(planned, sorted_runs, out, begun) if wait else 0


def _alive(jobs: Sequence[str]) -> set[str]:
    """Returns which of the jobs wait or run."""
    done = subprocess.run(
        [_find("squeue"), "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"squeue does not answer, so that running jobs could be doubled: {done.stderr.strip()}")
    return set(done.stdout.split()) & set(jobs)


def _jobs(out: Path) -> dict[str, str]:
    """Returns the last job of each run that ever had one."""
    return (rundir.read_json(epath.Path(out / FOLDER / JOBS)) or {"jobs": {}})["jobs"]


def _active(planned: Sequence[planning.Planned], jobs: Mapping[str, str]) -> list[planning.Planned]:
    """Returns the runs whose jobs wait or run."""
    at_work = _alive(list(jobs.values())) if jobs else set()
    return [run for run in planned if jobs.get(run.name) in at_work]


def _submit(new: Sequence[planning.Planned], out: Path, resources: Resources) -> dict[str, str]:
    import submitit  # after the flags: no other launcher needs it

    from kronecker.sweep import job

    _find("sbatch")
    executor = submitit.AutoExecutor(out / FOLDER, cluster="slurm", slurm_max_num_timeout=resources.max_timeouts)
    executor.update_parameters(**resources.parameters())
    try:
        with executor.batch():
            submitted = [executor.submit(job.Training(run.command, Path.cwd())) for run in new]
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM refused the jobs; change the --slurm_ flag it names: {error}") from None
    return {run.name: job.job_id for run, job in zip(new, submitted, strict=True)}


def _find(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise ValueError(f"--launcher=slurm: {program} is not on PATH; run this on a login node of the cluster")
    return found


def _log(out: Path, job_id: str) -> Path:
    return out / FOLDER / f"{job_id}_0_log.out"


def _tell_how_to_follow(out: Path, job_id: str) -> None:
    print(f"follow one:    tail -n +1 -F {_log(out, job_id)}")
    print(f"follow all:    squeue --me; end all: scancel {job_id.partition('_')[0]}")
    print("when they end: the same command shows what is left and submits that; --wait stays until then", flush=True)


def _follow(planned: Sequence[planning.Planned], sorted_runs: Submission, out: Path, begun: Mapping[str, str]) -> int:
    since, seconds = time.monotonic(), {}
    while len(seconds) < len(begun):
        at_work = _alive(list(begun.values()))
        for run in planned:
            if run.name in begun and run.name not in seconds and begun[run.name] not in at_work:
                seconds[run.name] = time.monotonic() - since
                print(f"{run.name}: its job has ended ({run.state}; log: {_log(out, begun[run.name])})", flush=True)
        if len(seconds) < len(begun):
            time.sleep(WAIT_SECONDS)
    done = [
        run_outcome.skipped(run)
        if run in sorted_runs.finished
        else run_outcome.ended(run, seconds[run.name], None, False)
        for run in planned
    ]
    run_outcome.show(done)
    return run_outcome.exit_code(done)
