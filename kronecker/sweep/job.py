"""What a job of a cluster does: it runs a training process, and queues itself again when it is to leave the node.

submitit starts a `Training` in every task of the job.  Two signals ask it to leave: SIGUSR2, which SLURM sends ahead of
the time limit, and SIGTERM, which comes with preemption, with `scontrol requeue` and with `scancel`.  Either is passed
on once, as SIGTERM, to the training process, which saves a checkpoint and exits with 143.  Then the first task queues
the job again, unless SLURM is ending it (`scancel`) or has queued it already.
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

LEAVE = signal.SIGUSR2  # what submitit asks SLURM to send ahead of the limit
# SLURM's controller may be too busy to answer; it kills a job KillWait, 30 seconds by default, after it has told it.
SQUEUE_TRIES, SECONDS_BETWEEN = 5, 2.0


@dataclasses.dataclass(frozen=True)
class Training:
    """One run of a sweep, as a job's function."""

    command: tuple[str, ...]  # what runs it, or makes it go on
    cwd: Path  # the directory that its relative paths start from

    def __call__(self) -> None:
        """Returns when the run is finished.

        Raises subprocess.CalledProcessError if the training process fails, so that the job counts as failed; SystemExit
        if the job is to leave.
        """
        process: subprocess.Popen | None = None
        received: list[int] = []

        def leave(number: int, frame: FrameType | None) -> None:
            del frame
            received.append(number)
            if process and len(received) == 1:
                process.terminate()

        requeue = signal.signal(LEAVE, leave)
        signal.signal(signal.SIGTERM, leave)
        with shielded():
            process = subprocess.Popen(self.command, cwd=self.cwd)
        if received:  # the signal came while the process was being born
            process.terminate()
        code = process.wait()
        if code in (STOPPED, -signal.SIGTERM):
            _leave(received, requeue)
        if code:
            raise subprocess.CalledProcessError(code, self.command)

    def checkpoint(self) -> helpers.DelayedSubmission:
        """Returns what submitit queues in this job's place: the same command, which goes on from its checkpoint."""
        return helpers.DelayedSubmission(self)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Starts processes that never get SIGUSR2: they inherit that it is blocked, and this process gets it afterwards.

    A signal to a job's step reaches the training process too where SLURM keeps track of all descendants, and this one
    would end it before it can save.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {LEAVE})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(received: list[int], requeue: signal.Handlers) -> None:
    environment = JobEnvironment()
    if environment.global_rank:  # the first task acts for all; an error code here could end it before it has
        sys.exit(0)
    if LEAVE in received or _goes_on(environment):
        requeue(LEAVE, None)  # submitit's own handler: counts time-outs, queues the job again and exits
    sys.exit(STOPPED)


def _goes_on(environment: JobEnvironment) -> bool:
    """Returns whether SLURM lets the job be, that is has neither cancelled it nor queued it again itself."""
    command = ["squeue", "--noheader", f"--jobs={environment.raw_job_id}", "--format=%T"]
    for i in range(SQUEUE_TRIES):
        time.sleep(SECONDS_BETWEEN if i else 0)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip() == "RUNNING"
    print(f"squeue does not answer, so the job is not queued again: {done.stderr.strip()}", file=sys.stderr)
    return False
