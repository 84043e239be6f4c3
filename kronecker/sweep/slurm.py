"""A sweep's runs as SLURM jobs, submitted through submitit as one array.

OUT/slurm holds submitit's files, the jobs' logs, and jobs.json, the last job of each run.  A run that is finished, or
whose job waits or runs, is not submitted again.
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
    """The resources of each run's job; each field is the flag --slurm_NAME of scripts/sweep.py, explained there."""

    partition: str = ""
    account: str = ""
    time: str = "4:00:00"
    nodes: int = 1
    tasks_per_node: int = 0
    gpus_per_node: int = 0
    cpus_per_task: int = 0
    mem: float = 0.0
    array_parallelism: int = 16
    signal_delay: int = 120
    max_timeouts: int = 100

    @property
    def minutes(self) -> int:
        """`time` in minutes, rounded down; raises ValueError if it is malformed."""
        match = _TIME.fullmatch(self.time)
        if not match:
            raise ValueError(
                f"--slurm_time={self.time}: it must be minutes, H:MM:SS or D-H:MM:SS, for example 12:00:00"
            )
        number = {name: int(text or 0) for name, text in match.groupdict().items()}
        return number["only"] + (number["days"] * 24 + number["hours"]) * 60 + number["minutes"]

    @property
    def tasks(self) -> int:
        return self.tasks_per_node or (max(self.gpus_per_node, 1) if self.nodes > 1 else 1)

    def check(self, grace_seconds: float) -> None:
        """Raises a ValueError with the flag that is out of range; `grace_seconds` is the largest of all runs."""
        least = {"nodes": 1, "array_parallelism": 1, "signal_delay": 1, "max_timeouts": 0, "tasks_per_node": 0}
        least |= {"gpus_per_node": 0, "cpus_per_task": 0, "mem": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"--slurm_{name}={getattr(self, name)}: it must be at least {minimum}")
        if self.nodes * self.tasks > 1 and self.gpus_per_node not in (0, self.tasks):
            raise ValueError(
                f"--slurm_gpus_per_node={self.gpus_per_node} with {self.tasks} processes on a node: with several "
                "processes, JAX gives each of them one GPU; set --slurm_tasks_per_node to the number of GPUs"
            )
        if self.signal_delay <= grace_seconds:
            raise ValueError(
                f"--slurm_signal_delay={self.signal_delay} must be above checkpoint.grace_seconds={grace_seconds:g}, "
                "so that SLURM does not kill a run while it saves"
            )
        if self.minutes * 60 <= self.signal_delay:
            raise ValueError(
                f"--slurm_time={self.time} must be longer than --slurm_signal_delay={self.signal_delay} seconds, so "
                "that a run is not stopped as soon as it starts"
            )

    def parameters(self) -> dict[str, Any]:
        optional = {"gpus_per_node": self.gpus_per_node, "slurm_partition": self.partition}
        optional |= {"slurm_account": self.account, "cpus_per_task": self.cpus_per_task, "mem_gb": self.mem}
        parameters = {"timeout_min": self.minutes, "nodes": self.nodes, "tasks_per_node": self.tasks}
        parameters |= {"stderr_to_stdout": True} | {name: value for name, value in optional.items() if value}
        parameters |= {"slurm_job_name": "kronecker", "slurm_signal_delay_s": self.signal_delay}
        parameters["slurm_array_parallelism"] = self.array_parallelism
        parameters["slurm_additional_parameters"] = {"requeue": True}  # also if the cluster's default is not to
        return parameters


@dataclasses.dataclass(frozen=True)
class Submission:
    """The runs of a sweep by their state."""

    finished: list[planning.Planned]
    active: list[planning.Planned]  # their jobs wait or run
    new: list[planning.Planned]  # to be submitted
    jobs: Mapping[str, str]  # the last job of each run that had one


def sort(planned: Sequence[planning.Planned], out: Path) -> Submission:
    """Sorts the runs by their folders and the scheduler; raises ValueError if that does not answer."""
    jobs = _jobs(out)
    active = _active(planned, jobs)
    finished = [run for run in planned if run not in active and run.state == "finished"]
    new = [run for run in planned if run not in active and run not in finished]
    return Submission(finished, active, new, jobs)


def check_none_at_work(planned: Sequence[planning.Planned], out: Path) -> None:
    """Raises a ValueError if a run is a job that waits or runs; checks nothing if squeue is not installed."""
    if shutil.which("squeue") and (active := _active(planned, _jobs(out))):
        raise ValueError(
            f"{out}: {active[0].name} is a SLURM job that waits or runs; use --launcher=slurm, or cancel the job first"
        )


def describe(planned: Sequence[planning.Planned], out: Path, resources: Resources) -> str:
    """Returns what `execute` would submit; raises ValueError as it does."""
    resources.check(max((run.grace_seconds for run in planned), default=0.0))
    sorted_runs = sort(planned, out)
    parameters = " ".join(f"{name}={value}" for name, value in resources.parameters().items())
    lines = [f"would submit {len(sorted_runs.new)} of {len(planned)} runs, each as a job with {parameters}"]
    lines += [f"  {run.name}: finished" for run in sorted_runs.finished]
    lines += [f"  {run.name}: its job {sorted_runs.jobs[run.name]} waits or runs" for run in sorted_runs.active]
    return "\n".join(lines)


def execute(planned: Sequence[planning.Planned], out: Path, resources: Resources, wait: bool) -> int:
    """Submits the new runs, prints how to follow them, and returns the exit code.

    `out` is on a disk that the nodes share.  With `wait` it waits for all jobs and prints the table of a local sweep.
    Raises ValueError if a flag is out of range, SLURM is missing or refuses the jobs.
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
        job_id = next(iter(begun.values()))
        print(f"follow one: tail -n +1 -F {_log(out, job_id)}")
        print("follow all: squeue --me")
        print(f"cancel all: scancel {job_id.partition('_')[0]}")
        print("after the jobs end, the same command resubmits unfinished runs; --wait waits for the jobs", flush=True)
    return _follow(planned, sorted_runs, out, begun) if wait else 0


def _alive(jobs: Sequence[str]) -> set[str]:
    """Returns the jobs that wait or run."""
    done = subprocess.run(
        [_find("squeue"), "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"squeue failed, so it is unknown which jobs run; try again later: {done.stderr.strip()}")
    return set(done.stdout.split()) & set(jobs)


def _jobs(out: Path) -> dict[str, str]:
    return (rundir.read_json(epath.Path(out / FOLDER / JOBS), {"jobs": dict}) or {"jobs": {}})["jobs"]


def _active(planned: Sequence[planning.Planned], jobs: Mapping[str, str]) -> list[planning.Planned]:
    at_work = _alive(list(jobs.values())) if jobs else set()
    return [run for run in planned if jobs.get(run.name) in at_work]


def _submit(new: Sequence[planning.Planned], out: Path, resources: Resources) -> dict[str, str]:
    import submitit  # here, as no other launcher needs it

    from kronecker.sweep import job

    _find("sbatch")
    executor = submitit.AutoExecutor(out / FOLDER, cluster="slurm", slurm_max_num_timeout=resources.max_timeouts)
    executor.update_parameters(**resources.parameters())
    try:
        with executor.batch():
            submitted = [executor.submit(job.Training(run.command, Path.cwd())) for run in new]
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM refused the jobs; change the --slurm_ flag that it names: {error}") from None
    return {run.name: job.job_id for run, job in zip(new, submitted, strict=True)}


def _find(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise ValueError(f"--launcher=slurm: {program} is not on PATH; run this on a login node of the cluster")
    return found


def _log(out: Path, job_id: str) -> Path:
    return out / FOLDER / f"{job_id}_0_log.out"


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
