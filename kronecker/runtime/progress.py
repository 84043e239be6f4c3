"""One live line about a run: step, loss, tokens per second, time left."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Self

from rich import console, progress

PLAIN_EVERY_SECONDS = 10.0
LIVE_EVERY_SECONDS = 0.5


class ProgressLine:
    """A bar that redraws itself on a terminal; elsewhere, such as in a log file, a plain line now and then."""

    def __init__(self, label: str, steps: int, start: int, shown: bool = True) -> None:
        """`label` begins the line; `start` of `steps` were finished before; of several processes one shows it."""
        self._shows = shown
        self._label, self._steps, self._start = label, steps, start
        self._began, self._shown = time.perf_counter(), 0.0
        self._live = shown and sys.stderr.isatty()
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("step {task.completed:,.0f}/{task.total:,.0f}  {task.fields[words]}"),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("left"),
            console=console.Console(stderr=True),
            disable=not self._live,
        )
        self._task = self._bar.add_task(label, total=steps, completed=start, words="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def is_due(self) -> bool:
        """Returns whether what was shown last is old enough to be replaced."""
        return time.perf_counter() - self._shown > (LIVE_EVERY_SECONDS if self._live else PLAIN_EVERY_SECONDS)

    def show(self, step: int, words: str) -> None:
        """Shows that `step` updates are finished, and a few words; a plain line waits until one is due."""
        self._bar.update(self._task, completed=step, words=words)
        if self.is_due() and self._shows and not self._live:
            print(f"{self._label}  step {step:,}/{self._steps:,}  {words}{self._left(step)}", file=sys.stderr)
        if self.is_due():
            self._shown = time.perf_counter()

    def _left(self, step: int) -> str:
        if step == self._start:
            return ""
        a_step = (time.perf_counter() - self._began) / (step - self._start)
        return f"  {a_step * (self._steps - step):,.0f} s left"


class Stopwatch:
    """Counts the seconds of training; evaluation, saving and the time before a resume's first step stay out."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._start = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Returns the training seconds so far, those of earlier processes of this run included."""
        return self._before + time.perf_counter() - self._start - self._paused

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start
