"""Being told to leave: SIGTERM becomes a complete checkpoint and exit code 143, within a time of grace.

A process alone takes the signal itself.  Before training begins there is nothing to save, and it leaves at once, even
out of a compilation; from then on whoever trains asks `asked()` at moments at which a state is whole, and saves.  A
thread ends the process when the grace is over, saved or not, and even if it only waits for the others to leave.

Several processes are told by JAX, whose runtime takes the signal of any of them, tells the others, and lets all of them
stop at the same call of `asked()`.  A second signal changes nothing.
"""

import os
import signal
import socket
import sys
import threading
import time
from typing import Self

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(Exception):  # noqa: N818  no error: the run goes on later
    """The run was told to leave and has done so; the text says what is saved."""


class Notice:
    """Says whether this process has been told to leave; a context, entered by the main thread as early as possible."""

    def __init__(self, grace_seconds: float) -> None:
        """`grace_seconds` are from the signal (of several processes: from their agreement to stop) to the end."""
        self._grace = grace_seconds
        self._told = threading.Event()
        self._training = False
        self._calls = 0

    def __enter__(self) -> Self:
        # Python runs a handler between two bytecodes, which a long compilation or a step keeps from coming; what C
        # writes into this socket wakes the thread at once.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=self._listen, name="preemption", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        handler, wakeup = self._before
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self._told.is_set() else handler or signal.SIG_DFL)
        self._writer.close()  # and the thread ends

    def asked(self) -> bool:
        """Returns whether to save and leave; from the first call on there is something to save.

        Of several processes all call it equally often, and all get True at the same call.
        """
        self._training = True
        if self._told.is_set():
            return True
        import jax  # here, so that this module can listen before JAX is there

        if jax.distributed.is_initialized():
            from jax.experimental import multihost_utils

            self._calls += 1
            if multihost_utils.reached_preemption_sync_point(self._calls):
                self._told.set()
                threading.Thread(target=self._end_in_time, name="grace", daemon=True).start()
        return self._told.is_set()

    def _listen(self) -> None:
        while signals := self._reader.recv(64):
            if signal.SIGTERM in signals:
                break
        else:
            return
        if not self._training:
            _end("told to leave before training began: nothing to save; the same command starts again")
        self._told.set()
        self._end_in_time()

    def _end_in_time(self) -> None:
        time.sleep(self._grace)
        _end(
            f"told to leave, and still here {self._grace:g} s later (checkpoint.grace_seconds); the same command goes "
            "on from the newest checkpoint that is whole"
        )


def _end(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
