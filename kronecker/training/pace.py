"""How long a run takes on this machine, measured on its own steps and evaluations."""

import os
import time
from collections.abc import Callable

import ml_collections

from kronecker.runtime import progress

LONG_STEP = 10.0  # seconds; a shorter first step gives no estimate
MEASURED = 5.0  # seconds of steps before the estimate
LONG_RUN = 86_400.0  # seconds; a run that takes longer gets advice
BATCHES = 5  # of the first evaluation until its speed is measured; up to three of them are not finished then
UPDATE_PER_EVALUATION = 3  # time of a token's update over that of its evaluation, which has no backward pass


class Pace:
    """The time that a run still takes, in seconds."""

    def __init__(self, config: ml_collections.ConfigDict, start: int, seconds: float) -> None:
        """This process begins after `start` updates, which took `seconds` of training."""
        self._config, self._start, self._from = config, start, (start, seconds)
        self._a_step: float | None = None
        self._printed = self._advised = False
        self.evaluation = 0.0  # seconds of the last one

    def left(self, step: int) -> float | None:
        """Returns the time from `step` finished updates to the end; None: no step has been measured."""
        last, every = self._config.train.steps, self._config.eval.every
        evaluations = (-(-last // every) - step // every if every else 1) if step < last else 0
        return None if self._a_step is None else self._a_step * (last - step) + self.evaluation * evaluations

    def measure(self, step: int, seconds: float) -> str | None:
        """Records that `step` updates took `seconds` of training; returns an estimate, two if the first is long."""
        first, began = self._from
        if step <= first:
            return None
        self._a_step = (seconds - began) / (step - first)
        if first == self._start:
            self._from = step, seconds
            return self._estimate(step, "") if self._a_step >= LONG_STEP else None
        if not self._printed and seconds - began > MEASURED:
            self._printed = True
            return self._estimate(step, "")
        return None

    def watched(self, asked: Callable[[], bool], show: Callable[[str], None]) -> Callable[[], bool]:
        """Returns `asked` for the evaluation before the first step; it shows an estimate if the run takes days."""
        times: list[float] = []
        c = self._config

        def ask() -> bool:
            times.append(time.perf_counter())
            if len(times) == BATCHES:
                a_token = (times[-1] - times[-2]) / (c.eval.batch * c.train.sequence)
                self._a_step = UPDATE_PER_EVALUATION * a_token * c.train.batch * c.train.sequence
                if self.left(0) > LONG_RUN:
                    show(self._estimate(0, ", estimated from its first evaluation"))
            return asked()

        return ask

    def _estimate(self, step: int, basis: str) -> str:
        t, left = self._config.train, self.left(step)
        line = f"about {progress.duration(left)} left at {t.batch * t.sequence / self._a_step:,.0f} tokens/s"
        if tokens := int(os.environ.get(progress.SWEEP_TOKENS) or "0"):
            line += f" ({progress.duration(left + tokens / t.tokens * self.left(0))} for the sweep)"
        if left < LONG_RUN or self._advised:
            return line + basis
        self._advised = True
        return (
            f"{line}{basis}; to shorten the run, lower train.steps (now {t.steps:,}; {3600 / self._a_step:,.0f} take "
            "an hour), or train.tokens if train.steps is not set; or choose a smaller model (model.layers, "
            "model.d_model) or a GPU or TPU"
        )
