"""Where a run's numbers go: metrics.jsonl always, TensorBoard and W&B where the config asks for them."""

import hashlib
import importlib.util
import json
from typing import Any, Protocol

import ml_collections
from etils import epath

from kronecker.runtime import storage

METRICS = "metrics.jsonl"
HELD = "held"  # the kind of a line that only a resumed run reads: updates that are in no line of kind "train" yet


class Sink(Protocol):
    """Something that takes one line of metrics."""

    def write(self, line: dict[str, Any]) -> None:
        """Takes a line; it has "kind" and "step"."""

    def sync(self) -> None:
        """Returns when what was taken outlives this process: a checkpoint of the same step is about to be written."""

    def close(self) -> None:
        """Flushes."""


class JsonLines:
    """metrics.jsonl, one object a line.

    Steps in it are unique and rise: lines from beyond the checkpoint that a run resumes at are dropped, since the
    resumed run writes them again.
    """

    def __init__(self, workdir: epath.Path, resume_step: int) -> None:
        kept = [line for line in read(workdir) if resume_step and line["step"] <= resume_step]
        self._lines = storage.Lines(workdir / METRICS, map(json.dumps, kept))

    def write(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line))

    def sync(self) -> None:
        """Writes what an object store does not have yet."""
        self._lines.sync()

    def close(self) -> None:
        self._lines.close()


class TensorBoard:
    """Event files in the run's folder, through tensorboardX."""

    def __init__(self, workdir: epath.Path, resume_step: int) -> None:
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Writes every number of the line as KIND/NAME."""
        for name, value in _numbers(line).items():
            self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run of the configured project; `pip install wandb` first."""

    def __init__(self, workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
        import wandb

        run_id = hashlib.sha256(str(storage.absolute(workdir)).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=config.log.wandb, name=workdir.name, id=run_id, resume="allow", config=config.to_dict()
        )

    def write(self, line: dict[str, Any]) -> None:
        """Writes every number of the line as KIND/NAME."""
        named = {f"{line['kind']}/{name}": value for name, value in _numbers(line).items()}
        self._run.log(named, step=line["step"])

    def sync(self) -> None:
        """Does nothing: W&B keeps its own copy of a run."""

    def close(self) -> None:
        self._run.finish()


def check_sinks(config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError if the config asks for a sink whose library is not installed."""
    if config.log.wandb and not importlib.util.find_spec("wandb"):
        raise ValueError("log.wandb is set but wandb is missing; pip install wandb, or leave it empty")


def open_sinks(workdir: epath.Path, config: ml_collections.ConfigDict, resume_step: int) -> list[Sink]:
    """Returns the sinks that the config asks for; `resume_step` is 0 for a new run."""
    sinks: list[Sink] = [JsonLines(workdir, resume_step)]
    if config.log.tensorboard:
        sinks.append(TensorBoard(workdir, resume_step))
    if config.log.wandb:
        sinks.append(WeightsAndBiases(workdir, config))
    return sinks


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl; a last line cut off by a kill is left out."""
    path = workdir / METRICS
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    if line["kind"] == HELD:
        return {}
    return {k: v for k, v in line.items() if k not in ("kind", "step") and isinstance(v, int | float)}
