"""A sweep's runs as child processes, one after another or several at a time.

Each run is a process, so that its failure does not end the others.  SIGINT, SIGTERM and SIGHUP end the children and
then the sweep; a second SIGINT or SIGTERM kills them.
"""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

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
    shares = devices.split(parallel) if parallel > 1 else None
    with locks.locked(out / locks.LOCK) as lock, _Children(lock) as children:
        slurm.check_none_at_work(planned, out)
        outcomes = _at_once(planned, out, children, shares) if shares else _in_turn(planned, children)
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
        if log is None:
            process = subprocess.Popen(command, pass_fds=(self._lock,), env=env)
        else:
            log.parent.mkdir(exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                process = subprocess.Popen(
                    command,
                    pass_fds=(self._lock,),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches the sweep only, which forwards it once
                )
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

    def wait(self, process: subprocess.Popen) -> int:
        try:
            return process.wait()
        finally:
            self._alive.remove(process)

    def pass_on(self, number: int, again: bool) -> None:
        words = "kills its runs" if again else "its runs save and stop; a second signal kills them"
        with interrupts.lossy(2):  # `print` may be at work
            os.write(2, f"sweep: received {signal.Signals(number).name}: {words}\n".encode())
        for process in self._alive:
            process.send_signal(signal.SIGKILL if again else signal.SIGTERM)


def _environment(later: Sequence[planning.Planned], parallel: int = 1) -> dict[str, str]:
    """Returns a child's environment, with the tokens of `later` runs for its estimate of the sweep's time."""
    tokens = sum(run.tokens for run in later if run.state != "finished") // parallel
    return os.environ | {progress.SWEEP_TOKENS: str(tokens)}


def _in_turn(planned: Sequence[planning.Planned], children: _Children) -> list[run_outcome.Outcome]:
    outcomes = []
    for number, run in enumerate(planned, 1):
        if run.state == "finished":
            print(f"{planning.header(number, planned)} (finished before)", flush=True)
            outcomes.append(run_outcome.skipped(run))
            continue
        print(planning.header(number, planned), flush=True)
        began, code = time.monotonic(), -(children.stopped_by or 0)
        if not children.stopped_by:
            code = children.wait(children.start(run.command, _environment(planned[number:])))
        outcomes.append(run_outcome.ended(run, time.monotonic() - began, code, bool(children.stopped_by)))
        if children.stopped_by:
            break
    return outcomes


def _at_once(
    planned: Sequence[planning.Planned], out: Path, children: _Children, shares: Sequence[devices.Share]
) -> list[run_outcome.Outcome]:
    outcomes: dict[str, run_outcome.Outcome] = {}
    print(f"{len(shares)} runs at a time; {devices.describe(shares)}", flush=True)
    waiting, free, alive = [], list(shares), []
    for number, run in enumerate(planned, 1):
        if run.state == "finished":
            print(f"{planning.header(number, planned)} (finished before)", flush=True)
            outcomes[run.name] = run_outcome.skipped(run)
        else:
            waiting.append((number, run))
    while alive or (waiting and not children.stopped_by):
        while waiting and free and not children.stopped_by:
            (number, run), share = waiting.pop(0), free.pop(0)
            log = out / LOGS / f"{run.name}.log"
            env = _environment([run for _, run in waiting], len(shares)) | share
            process = children.start(run.command, env, log)
            alive.append(_Child(number, run, share, process, time.monotonic()))
            words = "".join(f", {name}={value}" for name, value in share.items())
            print(f"{planning.header(number, planned)}\n  log: {log}{words}", flush=True)
        ended = [child for child in alive if children.has_ended(child.process)]
        for child in ended:
            seconds, code = time.monotonic() - child.began, child.process.returncode
            done = run_outcome.ended(child.run, seconds, code, bool(children.stopped_by))
            outcomes[child.run.name] = done
            took = progress.duration(seconds)
            print(f"{planning.header(child.number, planned)} {done.state} after {took}", flush=True)
            alive.remove(child)
            free.append(child.share)
        if not ended:
            time.sleep(POLL_SECONDS)
    return [outcomes[run.name] for run in planned if run.name in outcomes]
