"""Being told to stop: a signal becomes a complete checkpoint and exit code 128 + its number, in a grace period.

The signals are SIGTERM, Ctrl-C, and SIGHUP, by which a terminal says that it was closed.

The training loop polls `asked()` between steps, when the state can be saved.  Before training starts there is nothing
to save, and a signal ends the process at once, even in a compilation.  A thread ends it after the grace period, saved
or not.  With several processes, JAX's runtime passes SIGTERM from any of them to all, and `asked()` is true at the same
call in each.  A second signal changes nothing, but a second Ctrl-C ends the process at once.
"""

import os
import signal
import socket
import sys
import threading
import time

from kronecker.runtime import interrupts  # also opens closed streams, before there is a socket

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TERMINATED = 128 + signal.SIGTERM  # exit code
_RESUMES = "the same command resumes from the newest complete checkpoint"


class Preempted(Exception):  # noqa: N818  not an error: the run resumes later
    """The run was told to stop and has stopped; the text says what is saved."""

    def __init__(self, words: str, received: signal.Signals) -> None:
        super().__init__(words)
        self.code = 128 + received


class Notice:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        # Of each signal, from its arrival or, with several processes, from when they agree to stop.
        self.grace_seconds = 30.0
        self._received: signal.Signals | None = None  # the first one
        self._interrupts = 0
        self._leaves = threading.Event()
        self._training = False
        self._calls = 0

    def listen(self) -> None:
        """Begins to listen; the main thread calls it as early as possible."""
        interrupts.outlive_output(terminals_only=True)
        # Python runs a handler between two bytecodes only, so a compilation or a step delays it, and an exception from
        # it is lost where libraries call back; this socket, which C code writes to, wakes the thread at once.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        threading.Thread(target=self._listen, name="preemption", daemon=True).start()
        signal.set_wakeup_fd(self._writer.fileno())
        for number in heard():
            signal.signal(number, lambda *_: None)

    def close(self) -> None:
        """Ends listening, unless there was a signal: then this process ends soon, or by the next Ctrl-C."""
        if self._received is None:
            for number in heard():
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            self._writer.close()  # and the thread ends

    def asked(self) -> signal.Signals | None:
        """Returns why to save and exit, else None; all processes call it equally often, once there is a state."""
        self._training = True
        if not self._leaves.is_set() and _is_one_of_several():
            from jax.experimental import multihost_utils  # here, so that this module listens before JAX is loaded

            self._calls += 1
            if multihost_utils.reached_preemption_sync_point(self._calls):
                self._leave()
        return (self._received or signal.SIGTERM) if self._leaves.is_set() else None

    def _listen(self) -> None:
        while signals := self._reader.recv(64):
            for number in signals:
                if number in SIGNALS:
                    self._hear(signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        interrupts.outlive_output()
        if not self._training:
            _end(f"received {number.name} before training started: nothing to save; run the same command again", number)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                _end(f"received SIGINT again: ends at once; {_RESUMES}", number)
            print("received SIGINT: saves and stops; press Ctrl-C again to end at once", file=sys.stderr, flush=True)
        if self._received is None:
            self._received = number
            if number != signal.SIGTERM and _is_one_of_several():
                os.kill(os.getpid(), signal.SIGTERM)  # for JAX, which has its own handler, of SIGTERM alone
            else:
                self._leave()

    def _leave(self) -> None:
        self._leaves.set()
        threading.Thread(target=self._end_in_time, name="grace", daemon=True).start()

    def _end_in_time(self) -> None:
        time.sleep(self.grace_seconds)
        received = self._received or signal.SIGTERM
        late = f"did not stop within checkpoint.grace_seconds={self.grace_seconds:g}; exiting now"
        _end(f"received {received.name} and {late}; {_RESUMES}", received)


NOTICE = Notice()  # of this process; only train.py listens


def heard() -> list[signal.Signals]:
    """Returns those of SIGNALS that this process does not ignore, as under nohup, or in the background of a script."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _end(words: str, number: signal.Signals) -> None:
    terminal = sys.__stderr__  # as a live line replaces sys.stderr
    print(f"\n\x1b[?25h{words}" if terminal.isatty() else words, file=terminal, flush=True)  # shows the cursor again
    os._exit(128 + number)
