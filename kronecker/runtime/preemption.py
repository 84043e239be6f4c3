"""Preemption: SIGTERM becomes a complete checkpoint and exit code 143, within a grace period.

The training loop polls `asked()` between steps, when the state can be saved.  Before training starts there is nothing
to save, and SIGTERM ends the process at once, even in a compilation.  A thread ends it after the grace period, saved or
not.  With several processes, JAX's runtime passes the signal of any of them to all, and `asked()` returns True at the
same call in each.  A second signal changes nothing.
"""

import os
import signal
import socket
import sys
import threading
import time
from typing import Self

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(Exception):  # noqa: N818  not an error: the run resumes later
    """The run was preempted and has stopped; the text says what is saved."""


class Notice:
    """Whether this process has been preempted; a context that the main thread enters as early as possible."""

    def __init__(self, grace_seconds: float) -> None:
        """`grace_seconds` begin with the signal or, with several processes, when they agree to stop."""
        self._grace = grace_seconds
        self._received = threading.Event()
        self._training = False
        self._calls = 0

    def __enter__(self) -> Self:
        # Python runs a handler between two bytecodes only, so a compilation or a step delays it; this socket, which C
        # code writes to, wakes the thread at once.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=self._listen, name="preemption", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        handler, wakeup = self._before
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self._received.is_set() else handler or signal.SIG_DFL)
        self._writer.close()  # and the thread ends

    def asked(self) -> bool:
        """Returns whether to save and exit; all processes call it equally often, once there is a state to save."""
        self._training = True
        if self._received.is_set():
            return True
        import jax  # here, so that this module listens before JAX is loaded

        if jax.distributed.is_initialized():
            from jax.experimental import multihost_utils

            self._calls += 1
            if multihost_utils.reached_preemption_sync_point(self._calls):
                self._received.set()
                threading.Thread(target=self._end_in_time, name="grace", daemon=True).start()
        return self._received.is_set()

    def _listen(self) -> None:
        while signals := self._reader.recv(64):
            if signal.SIGTERM in signals:
                break
        else:
            return
        if not self._training:
            _end("received SIGTERM before training started: nothing to save; run the same command again")
        self._received.set()
        self._end_in_time()

    def _end_in_time(self) -> None:
        time.sleep(self._grace)
        _end(
            f"received SIGTERM and did not stop within checkpoint.grace_seconds={self._grace:g}; exiting now; the same "
            "command resumes from the newest complete checkpoint"
        )


def _end(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
