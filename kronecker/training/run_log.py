"""A run's metrics: kept on the device, and fetched once per line of metrics.jsonl."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Self

import jax
import ml_collections
import numpy as np
from etils import epath

from kronecker.model import accounting, transformer
from kronecker.run import rundir, sinks
from kronecker.runtime import distributed, progress
from kronecker.training import pace, train_step

PLAIN_SECONDS = 600.0  # in a file, the shortest time between two lines of progress; but each evaluation prints one

Numbers = dict[str, float] | None


def label(config: ml_collections.ConfigDict) -> str:
    """Returns the prefix of a run's lines on stderr."""
    return f"{config.embedding.arm} seed {config.seed}"


class Log:
    """Step metrics on the device, and the lines made of them; of several processes the first one writes."""

    def __init__(
        self, config: ml_collections.ConfigDict, shape: transformer.Shape, workdir: epath.Path, start: int
    ) -> None:
        """Keeps earlier processes' lines up to `start` finished updates; all hosts must call it."""
        self._config, self._shape = config, shape
        self._devices = jax.devices()[0].device_kind, jax.device_count()
        lead = jax.process_index() == 0
        self._progress_line = progress.ProgressLine(label(config), config.train.steps, start, lead, PLAIN_SECONDS)
        self._sinks = sinks.open_sinks(workdir, config, start) if lead else []
        before = sinks.read(workdir) if lead else []
        if gaps := sinks.gaps(before, start):
            words = f"lacks lines {sinks.words(gaps)}; the run goes on, and {rundir.RESULT} will name the gap"
            self._progress_line.note(f"{workdir / sinks.METRICS}: {words}")
        trained = [line["seconds"] for line in before if line["kind"] == "train"]
        updates = [line for line in before if line["kind"] in ("train", sinks.HELD)]
        unlogged = [line for line in updates[-1:] if line["kind"] == sinks.HELD and line["step"] == start]
        validated = any(line["kind"] == "validation" and line["step"] == start for line in before)
        self._validated = start if distributed.told_by_all(validated)[0] else None
        self._flushed_at = trained[-1] if trained else 0.0
        self._pending = _held(unlogged[-1], workdir / sinks.METRICS) if unlogged else []
        self.watch = progress.Stopwatch(unlogged[-1]["seconds"] if unlogged else self._flushed_at)
        self._pace = pace.Pace(config, start, self.watch.seconds())
        self._loss = self._validation_loss = self._speed_words = ""  # of the progress line

    def __enter__(self) -> Self:
        self._progress_line.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for sink in self._sinks:
                sink.close()
        finally:
            self._progress_line.__exit__(*error)

    def sync(self) -> None:
        for sink in self._sinks:
            sink.sync()

    def has_validation(self, step: int) -> bool:
        """Returns whether `step` is the first of this process, and an earlier process has evaluated it."""
        return step == self._validated

    def add(self, step_metrics: train_step.StepMetrics) -> None:
        """Adds the metrics of one update without waiting for them."""
        self._pending.append(step_metrics)

    def catch_up(self, step: int) -> None:
        """Waits until `step` updates are finished, so that the host is at most one ahead, and shows the progress."""
        if not self._pending:
            return
        loss = jax.block_until_ready(self._pending[-1].loss)
        if estimate := self._pace.measure(step, self.watch.seconds()):
            self._progress_line.note(estimate)
        if self._progress_line.is_due():
            self._show_training(step, float(jax.device_get(loss)), self._speed(self.watch.seconds()))

    def flush(self, step: int) -> None:
        """Writes one line for the updates since the last line, up to `step`."""
        if not self._pending:
            return
        values = self._values(step)
        seconds = self.watch.seconds()
        speed = self._speed(seconds)
        self._pending = []
        self._flushed_at = seconds
        line = {
            "kind": "train",
            "step": step,
            "tokens": self._tokens(step),
            "loss": float(values.loss.mean()),
            "lr": values.lr[-1],
            "grad_norm": values.grad_norm[-1],
            "clip_share": values.clip_share[-1],
            "update_norm": values.update_norm[-1],
            "embedding_std": values.embedding_std[-1],
            "tokens_per_second": speed,
            "mfu": accounting.mfu(self._shape, self._config.train.sequence, speed, *self._devices),
            "seconds": seconds,
        }
        self._write(line)
        self._show_training(step, line["loss"], speed)

    def save_pending(self, step: int) -> None:
        """Saves metrics not yet in a line, so that a resumed run includes them in its next line."""
        if self._pending:
            values = np.stack(self._values(step), axis=1).tolist()
            self._write({"kind": sinks.HELD, "step": step, "seconds": self.watch.seconds(), "values": values})

    def evaluate(self, step: int, evaluate: Callable[[Callable[[], bool]], Numbers], stop: Callable[[], bool]) -> bool:
        """Writes a validation line, with the training clock stopped; returns False if `stop` ended `evaluate`."""
        self.flush(step)
        self._show(step, "evaluating")
        began = time.perf_counter()
        with self.watch.pause():
            numbers = evaluate(stop if step else self._pace.watched(stop, self._progress_line.note))
        if numbers is None:
            return False
        if not np.isfinite(numbers["loss"]):
            remedy = "try a lower train.lr" if step else "lower embedding.init_std, or start from other weights"
            raise FloatingPointError(f"the validation loss after step {step} is not finite; {remedy}")
        self._pace.evaluation = time.perf_counter() - began
        self._write({"kind": "validation", "step": step, "tokens": self._tokens(step), **numbers})
        self._validation_loss = f"val {numbers['loss']:.4f}"
        self._show(step, always=True)
        return True

    def _values(self, step: int) -> train_step.StepMetrics:
        """Returns each metric of the updates since the last line, float64 (updates,)."""
        values = train_step.StepMetrics(*np.asarray(jax.device_get(self._pending), np.float64).T)
        if not np.isfinite([values.loss, values.grad_norm, values.update_norm]).all():
            first, finite = step - len(self._pending) + 1, values.loss[np.isfinite(values.loss)]
            self._pending = []
            raise FloatingPointError(
                f"loss, gradient or update is not finite between steps {first} and {step} (last finite loss: "
                f"{f'{finite[-1]:.4f}' if len(finite) else 'none'}); try a lower train.lr in another --workdir"
            )
        return values

    def _tokens(self, steps: int) -> int:
        return steps * self._config.train.batch * self._config.train.sequence

    def _speed(self, seconds: float) -> float:
        return self._tokens(len(self._pending)) / (seconds - self._flushed_at)

    def _show_training(self, step: int, loss: float, speed: float) -> None:
        self._loss, self._speed_words = f"loss {loss:.4f}", f"{speed:,.0f} tokens/s"
        self._show(step)

    def _show(self, step: int, *more: str, always: bool = False) -> None:
        words = filter(None, (self._loss, self._validation_loss, self._speed_words, *more))
        self._progress_line.show(step, *words, left=self._pace.left(step), always=always)

    def _write(self, line: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(line)


def _held(line: dict[str, Any], path: epath.Path) -> list[train_step.StepMetrics]:
    with contextlib.suppress(KeyError, OverflowError, TypeError, ValueError):
        if np.isfinite(np.array(line["values"], np.float64)).all():
            return [train_step.StepMetrics(*map(float, values)) for values in line["values"]]
    raise ValueError(f"{path}: the line {sinks.HELD!r} of step {line['step']} is damaged; {sinks.REMEDY}")
