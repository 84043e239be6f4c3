"""Signals that a process passes on to its children, so that they save and stop before it does."""

import signal
from types import FrameType, TracebackType
from typing import Self

from kronecker.runtime import interrupts, preemption


class Forwarding:
    """A context in which signals go to `pass_on`; `stopped_by` is the last one, or None."""

    stopped_by: int | None = None

    def pass_on(self, number: int, again: bool) -> None:
        """Signals the children; `again`: it is a second SIGINT or SIGTERM, which kills them."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        interrupts.outlive_output(terminals_only=True)
        self._before = {number: signal.signal(number, self._hear) for number in preemption.heard()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        interrupts.outlive_output()
        if number == signal.SIGHUP and self.stopped_by is not None:  # a terminal that closes sends several
            return
        again, self.stopped_by = self.stopped_by is not None, number
        self.pass_on(number, again)
