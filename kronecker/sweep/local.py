"""A sweep's runs as child processes, one after another or several at a time.

Each run is a process, so that its failure does not end the others.  SIGINT, SIGTERM and SIGHUP end the children and
then the sweep; a second SIGINT or SIGTERM kills them.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kronecker.runtime import forwarding, interrupts, locks, progress
from kronecker.sweep import devices, planning, run_outcome, slurm

LOGS = "logs"  # in the sweep's folder
POLL_SECONDS = 0.1


def execute(planned: Sequence[planning.Planned], out: Path, parallel: int = 1) -> int:
    """Runs the unfinished runs in order, prints a table, and returns the sweep's exit code.

    A run alone has the terminal.  Of several at a time, each has a log, OUT/logs/NAME.log, and an equal share of the
    GPUs.

    The code is 0 if every run is finished; 1 if one failed; 143 if one was stopped; 128 + the signal's number if a
    signal ended the sweep.  Raises ValueError if `parallel` is below 1 or does not divide the number of GPUs, or a run
    is a SLURM job that waits or runs.
    """
    if parallel < 1:
        raise ValueError(f"--parallel={parallel}: it must be at least 1; the default is 1, one run after another")
    shares = devices.split(parallel) if parallel > 1 else [{}]
    with locks.locked(out / locks.LOCK) as lock, _Children(lock) as children:
        slurm.check_none_at_work(planned, out)
        outcomes = _run(planned, out, children, shares)
    run_outcome.show(outcomes)
    return 128 + children.stopped_by if children.stopped_by else run_outcome.exit_code(outcomes)


@dataclasses.dataclass(frozen=True)
class _Child:
    number: int
    run: planning.Planned
    share: devices.Share
    process: subprocess.Popen
    began: float


class _Children(forwarding.Forwarding):
    """Starts child processes, which inherit the sweep's lock, forwards signals to them, and leaves none behind."""

    def __init__(self, lock: int) -> None:
        self._lock, self._alive = lock, []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        super().__exit__(kind, error, where)
        if error:  # for example, a child could not be started
            for process in self._alive:
                process.terminate()
            for process in self._alive:
                process.wait()

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path | None = None) -> subprocess.Popen:
        """Returns the child that runs `command`, on the terminal or, detached from it, with a log."""
        with contextlib.ExitStack() as opened:
            detached: dict[str, Any] = {}
            if log:
                log.parent.mkdir(exist_ok=True)
                file = opened.enter_context(log.open("a", encoding="utf-8"))
                detached = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
                detached["start_new_session"] = True  # Ctrl-C reaches the sweep only, which forwards it once
            process = subprocess.Popen(command, pass_fds=(self._lock,), env=env, **detached)
        self._alive.append(process)
        if self.stopped_by:  # the signal came while the child was being started
            process.terminate()
        return process

    def has_ended(self, process: subprocess.Popen) -> bool:
        """Returns whether a child has ended; an ended one gets no more signals."""
        if process.poll() is None:
            return False
        self._alive.remove(process)
        return True

    def pass_on(self, number: int, again: bool) -> None:
        words = "kills its runs" if again else "its runs save and stop; a second signal kills them"
        with interrupts.lossy(2):  # `print` may be at work
            os.write(2, f"sweep: received {signal.Signals(number).name}: {words}\n".encode())
        for process in self._alive:
            process.send_signal(signal.SIGKILL if again else signal.SIGTERM)


def _run(
    planned: Sequence[planning.Planned], out: Path, children: _Children, shares: Sequence[devices.Share]
) -> list[run_outcome.Outcome]:
    """Runs as many at a time as there are `shares`: each with a log, or one with the terminal."""
    outcomes: dict[str, run_outcome.Outcome] = {}
    at_once = len(shares)
    if at_once > 1:
        print(f"{at_once} runs at a time; {devices.describe(shares)}", flush=True)
    waiting, free, alive = list(enumerate(planned, 1)), list(shares), []
    while alive or (waiting and not children.stopped_by):
        while waiting and free and not children.stopped_by:
            number, run = waiting.pop(0)
            header = planning.header(number, planned)
            if run.state == "finished":
                print(f"{header} (finished before)", flush=True)
                outcomes[run.name] = run_outcome.skipped(run)
                continue
            share, log = free.pop(0), out / LOGS / f"{run.name}.log" if at_once > 1 else None
            words = "".join(f", {name}={value}" for name, value in share.items())
            print(f"{header}\n  log: {log}{words}" if log else header, flush=True)
            later = sum(one.tokens for _, one in waiting if one.state != "finished") // at_once
            env = os.environ | {progress.SWEEP_TOKENS: str(later)} | share  # for an estimate of the sweep's time
            alive.append(_Child(number, run, share, children.start(run.command, env, log), time.monotonic()))
        ended = [child for child in alive if children.has_ended(child.process)]
        for child in ended:
            seconds, code = time.monotonic() - child.began, child.process.returncode
            done = run_outcome.ended(child.run, seconds, code, bool(children.stopped_by))
            outcomes[child.run.name] = done
            if at_once > 1:
                took = progress.duration(seconds)
                print(f"{planning.header(child.number, planned)} {done.state} after {took}", flush=True)
            alive.remove(child)
            free.append(child.share)
        if not ended:
            time.sleep(POLL_SECONDS)
    outcomes |= {run.name: run_outcome.skipped(run) for _, run in waiting if run.state == "finished"}
    return [outcomes[run.name] for run in planned if run.name in outcomes]
