"""Processes of a visit: one at a time, stopped when its time is over or a signal comes, and none left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Self, TextIO

from kronecker.accelerator.ledger import ROOT

POLL_SECONDS = 0.1
TO_LEAVE = 30.0  # seconds from SIGTERM to SIGKILL: a training run saves meanwhile


class Children:
    """Starts processes and passes SIGINT and SIGTERM on as SIGTERM; a second signal kills.

    `stopped_by` is the signal that ended the visit; None: none has.
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._process:  # an error here
            self._signal(signal.SIGKILL)

    def run(self, command: Sequence[str], log: Path, is_over: Callable[[], bool]) -> int | None:
        """Returns the exit code of a command, negative if a signal ended it; None if its time was over.

        `log` gets what it prints, which is passed on to stderr.
        """
        if self.stopped_by:
            return -self.stopped_by
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        with log.open("w") as output, log.open() as printed:
            # A session of its own: Ctrl-C reaches this process alone, and a signal to the group all it has started.
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
            told_at = None
            while self._process.poll() is None:
                if told_at is None and (self.stopped_by or is_over()):
                    self._signal(signal.SIGTERM)
                    told_at = time.monotonic()
                if told_at is not None and time.monotonic() - told_at > TO_LEAVE:
                    self._signal(signal.SIGKILL)
                _pass_on(printed)
                time.sleep(POLL_SECONDS)
            _pass_on(printed)
        code = self._process.returncode
        self._signal(signal.SIGKILL)  # what it has started and left
        self._process = None
        return None if told_at is not None and not self.stopped_by else code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self.stopped_by = self.stopped_by is not None, number
        if self._process:
            self._signal(signal.SIGKILL if again else signal.SIGTERM)
        print("told to stop; what is done is kept, and the same command goes on", file=sys.stderr, flush=True)


def _pass_on(printed: TextIO) -> None:
    sys.stderr.write(printed.read())
    sys.stderr.flush()
