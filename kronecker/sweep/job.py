"""A SLURM job: it runs a training process, and requeues itself when it is preempted or reaches its time limit.

submitit starts a `Training` in every task of the job.  SLURM sends SIGUSR2 before the time limit, and SIGTERM for
preemption, `scontrol requeue` and `scancel`.  The job forwards the first signal, as SIGTERM, to the training process,
which saves a checkpoint and exits with 143.  Then the first task requeues the job, unless SLURM has cancelled
(`scancel`) or requeued it already.
"""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from submitit import JobEnvironment, helpers

from kronecker.sweep.run_outcome import STOPPED

LEAVE = signal.SIGUSR2  # submitit makes SLURM send it before the time limit
# SLURM's controller may be too busy to answer; it kills a job KillWait, by default 30 seconds, after the signal.
SQUEUE_TRIES, SECONDS_BETWEEN = 5, 2.0


@dataclasses.dataclass(frozen=True)
class Training:
    """One run of a sweep, as a job's function."""

    command: tuple[str, ...]  # starts or resumes it
    cwd: Path  # of its relative paths

    def __call__(self) -> None:
        """Returns once the run is finished; a failure raises, so that the job fails too; a signal raises SystemExit."""
        process: subprocess.Popen | None = None
        received: list[int] = []

        def leave(number: int, _: FrameType | None) -> None:
            received.append(number)
            if process and len(received) == 1:
                process.terminate()

        requeue = signal.signal(LEAVE, leave)
        signal.signal(signal.SIGTERM, leave)
        with shielded():
            process = subprocess.Popen(self.command, cwd=self.cwd)
        if received:  # the signal came while the process was being started
            process.terminate()
        code = process.wait()
        if code in (STOPPED, -signal.SIGTERM):
            _leave(received, requeue)
        if code:
            raise subprocess.CalledProcessError(code, self.command)

    def checkpoint(self) -> helpers.DelayedSubmission:
        """Returns what submitit requeues: the same command, which resumes from its checkpoint."""
        return helpers.DelayedSubmission(self)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Blocks SIGUSR2 for the processes started inside; this process gets the signal afterwards.

    Where SLURM tracks all descendants, its signal also reaches the training process, and would end it unsaved.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {LEAVE})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(received: list[int], requeue: signal.Handlers) -> None:
    environment = JobEnvironment()
    if environment.global_rank:  # only the first task requeues; an error code of another could end it too early
        sys.exit(0)
    if LEAVE in received or _is_running(environment):
        requeue(LEAVE, None)  # submitit's own handler: counts time-outs, requeues the job and exits
    sys.exit(STOPPED)


def _is_running(environment: JobEnvironment) -> bool:
    """Returns whether SLURM has neither cancelled nor requeued the job itself."""
    command = ["squeue", "--noheader", f"--jobs={environment.raw_job_id}", "--format=%T"]
    for i in range(SQUEUE_TRIES):
        time.sleep(SECONDS_BETWEEN if i else 0)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip() == "RUNNING"
    print(f"squeue failed, so the job is not requeued; start the sweep again: {done.stderr.strip()}", file=sys.stderr)
    return False
