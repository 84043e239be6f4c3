"""Real commands that start quickly.

A command runs as its script does, with its own flags, environment, files and exit code, in a process that a server
forks: the server has imported what scripts import, JAX included, and started none of it.  That is a third of the time
of a tiny run.  What JAX reads of the environment on import is the server's.
"""

import atexit
import dataclasses
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SERVERS = multiprocessing.get_context("forkserver")
SERVERS.set_forkserver_preload(
    [
        *("hypothesis", "tensorflow_datasets", "matplotlib.figure", "rich.progress", "scipy.special", "wcwidth"),
        *("kronecker.training.loop", "kronecker.training.restore", "kronecker.training.token_losses"),
        *("kronecker.probes.on_runs", "kronecker.report.comparison_page", "kronecker.sweep.local"),
    ]
)


def run(*arguments: Any, **environment: str) -> subprocess.CompletedProcess:
    """Returns what subprocess.run does of a command, its output as text; `environment` is added to ours."""
    command = start(*arguments, **environment)
    return subprocess.CompletedProcess(arguments, command.wait(600), *command.communicate())


def start(*arguments: Any, **environment: str) -> "Command":
    """Starts a command; `communicate` also removes the files that it writes its output to."""
    return Command(arguments, Path(tempfile.mkdtemp(prefix="kronecker-command-")), environment=environment)


@dataclasses.dataclass(frozen=True)
class Done:
    """An ended command."""

    code: int | None  # below zero: the signal that ended it
    out: str
    err: str
    seconds: float

    @property
    def refused(self) -> bool:
        """Whether it ended with code 2 and its last line is the one line of the error."""
        last = self.err.strip().splitlines()[-1:]
        return self.code == 2 and "Traceback" not in self.err and bool(last) and last[0].startswith("error: ")


class Command:
    """A started script, with the methods of subprocess.Popen that tests call.

    Its first argument is its path below the root, or -c, with the code next.
    """

    def __init__(
        self,
        arguments: Sequence[Any],
        folder: Path,
        limits: Mapping[int, int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it; `folder` gets what it prints, `limits` are of resource.setrlimit, `environment` is added."""
        folder.mkdir(parents=True, exist_ok=True)
        self._files = folder / "out", folder / "err"
        for file in self._files:
            file.write_bytes(b"")
        self._began = time.monotonic()
        environment = os.environ | (environment or {})
        told = [str(argument) for argument in arguments], self._files, dict(limits or {}), environment
        self.process: BaseProcess = SERVERS.Process(target=_as_script, args=told)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def said(self) -> str:
        """Returns what it has written on stderr so far."""
        return self._files[1].read_text(errors="replace")

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._files), timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (file.read_text(errors="replace") for file in self._files)
        shutil.rmtree(self._files[0].parent)
        return out, err

    def kill(self) -> None:
        """Kills it, and what it has started, with SIGKILL."""
        for kill in (os.killpg, os.kill):
            try:
                kill(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has ended, or leads no group yet
                continue

    def done(self, seconds: float = 180) -> Done:
        """Waits until it has ended; kills it after so many seconds."""
        self.process.join(seconds)
        took = time.monotonic() - self._began
        if self.process.exitcode is None:
            self.kill()
            self.process.join()
        out, err = (file.read_text(errors="replace") for file in self._files)
        return Done(self.process.exitcode, out, err, took)


def _as_script(
    arguments: list[str], files: tuple[Path, Path], limits: Mapping[int, int], environment: Mapping[str, str]
) -> None:
    os.setsid()
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_TRUNC), descriptor)
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(ROOT)
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # JAX waits there for other processes; multiprocessing leaves it out
