"""Runs the processes of a visit one at a time and stops them at a time limit or a signal."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from kronecker.accelerator.ledger import ROOT
from kronecker.runtime import forwarding

POLL_SECONDS = 0.1
TO_EXIT = 30.0  # seconds from SIGTERM to SIGKILL, in which a training run saves a checkpoint


class Children(forwarding.Forwarding):
    """Starts processes and forwards SIGINT, SIGTERM and SIGHUP as SIGTERM; a second SIGINT or SIGTERM sends SIGKILL."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        super().__exit__(kind, error, where)
        if self._process:  # after an exception
            self._signal(signal.SIGKILL)

    def run(self, command: Sequence[str], log: Path, is_over: Callable[[], bool]) -> int | None:
        """Returns the exit code of a command, negative if a signal ended it; None if it was stopped at its time limit.

        Its output goes to the file `log` and to stderr.
        """
        if self.stopped_by:
            return -self.stopped_by
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        with log.open("wb") as output, log.open(encoding="utf-8", errors="replace") as printed:
            # In a new session, so that Ctrl-C reaches only this process, and so that a signal to the group reaches
            # all processes of the command.
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
            asked_at = None
            while self._process.poll() is None:
                if asked_at is None and (self.stopped_by or is_over()):
                    self._signal(signal.SIGTERM)
                    asked_at = time.monotonic()
                if asked_at is not None and time.monotonic() - asked_at > TO_EXIT:
                    self._signal(signal.SIGKILL)
                _forward(printed)
                time.sleep(POLL_SECONDS)
            _forward(printed)
        code = self._process.returncode
        self._signal(signal.SIGKILL)  # processes that the command left running
        self._process = None
        return None if asked_at is not None and not self.stopped_by else code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def pass_on(self, number: int, again: bool) -> None:
        del number
        if self._process:
            self._signal(signal.SIGKILL if again else signal.SIGTERM)
        print("stopping; finished results are saved, run the same command again to resume", file=sys.stderr, flush=True)


def _forward(printed: TextIO) -> None:
    sys.stderr.write(printed.read())
    sys.stderr.flush()
