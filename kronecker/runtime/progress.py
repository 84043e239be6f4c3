"""The progress of a run on stderr: one live line on a terminal, plain lines in a file."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Self

from rich import console, live

from kronecker.runtime import printing

# Set by a sweep for its runs: the tokens to train after this run is finished, for an estimate of the sweep's time.
SWEEP_TOKENS = "KRONECKER_SWEEP_TOKENS"
LIVE_EVERY_SECONDS = 0.5


class ProgressLine:
    """Label, step, a few words and the time left.

    On a terminal the line redraws itself, broken between its parts where it is wider than the terminal.  In a file,
    `show` prints at most one line in `plain_seconds`, except for those with `always`.
    """

    def __init__(self, label: str, steps: int, start: int, shown: bool = True, plain_seconds: float = 10.0) -> None:
        """`start` of the `steps` are finished already; only a process with `shown` prints."""
        self._label, self._steps, self._start = label, steps, start
        self._began = self._shown_at = time.perf_counter()
        screen = console.Console(stderr=True, highlight=False, markup=False)
        self._shows, self._live = shown, shown and sys.stderr.isatty() and not screen.is_dumb_terminal
        self._seconds = LIVE_EVERY_SECONDS if self._live else plain_seconds
        self._display = live.Live(console=screen, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._live:
            self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()

    def is_due(self) -> bool:
        """Returns whether the line shown last is old enough to be replaced."""
        return time.perf_counter() - self._shown_at > self._seconds

    def show(self, step: int, *words: str, left: float | None = None, always: bool = False) -> None:
        """Shows that `step` updates are finished; `left`: seconds; None: estimated from the steps since `start`."""
        if not self._shows or not (self._live or always or self.is_due()):
            return
        self._shown_at = time.perf_counter()
        if left is None and step > self._start:
            left = (self._shown_at - self._began) / (step - self._start) * (self._steps - step)
        parts = [self._label, f"step {step:,}/{self._steps:,}", *words]
        parts += [] if left is None else [f"{duration(left)} left"]
        if self._live:
            self._display.update(printing.fill(parts, "  ", self._display.console.width), refresh=True)
        else:
            print("  ".join(parts), file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        if self._shows:
            note(self._label, line)


def note(label: str, line: str) -> None:
    """Prints a line about a run on stderr; a terminal breaks it between words only."""
    width = console.Console(stderr=True).width if sys.stderr.isatty() else sys.maxsize
    print(printing.fill((f"{label} ", *line.split(" ")), " ", width), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Returns a time in the largest unit of which it has two or more."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{int(unit != 'min' and seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"


class Stopwatch:
    """Counts training seconds, without evaluation, saving and the time before a resumed run's first step."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._start = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Returns the training seconds so far, including those of this run's earlier processes."""
        return self._before + time.perf_counter() - self._start - self._paused

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start
