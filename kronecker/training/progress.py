"""One live line about a run: step, loss, tokens per second, time left."""

import sys
import time
from typing import Self

from rich import console, progress

PLAIN_EVERY_SECONDS = 10.0


class ProgressLine:
    """A bar that redraws itself on a terminal; elsewhere, such as in a log file, a plain line now and then."""

    def __init__(self, label: str, steps: int, start: int) -> None:
        self._label, self._steps, self._last_print = label, steps, 0.0
        self._live = sys.stderr.isatty()
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("step {task.completed:,.0f}/{task.total:,.0f}  {task.fields[numbers]}"),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("left"),
            console=console.Console(stderr=True),
            disable=not self._live,
        )
        self._task = self._bar.add_task(label, total=steps, completed=start, numbers="compiling")
        self._start = (start, time.perf_counter())

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, tokens_per_second: float, validation: float | None) -> None:
        """Shows the state after `step` updates; `validation` is the newest validation loss."""
        held_out = "" if validation is None else f"  val {validation:.4f}"
        numbers = f"loss {loss:.4f}{held_out}  {tokens_per_second:,.0f} tok/s"
        self._bar.update(self._task, completed=step, numbers=numbers)
        now = time.perf_counter()
        if not self._live and (now - self._last_print > PLAIN_EVERY_SECONDS or step == self._steps):
            self._last_print = now
            left = (now - self._start[1]) / max(1, step - self._start[0]) * (self._steps - step)
            print(f"{self._label}  step {step:,}/{self._steps:,}  {numbers}  {left:,.0f} s left", file=sys.stderr)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._live:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr)
