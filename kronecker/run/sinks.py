"""Outputs of a run's metrics: metrics.jsonl always, TensorBoard and W&B if the config enables them."""

import hashlib
import importlib.util
import json
from typing import Any, Protocol

import ml_collections
from etils import epath

from kronecker.runtime import storage

METRICS = "metrics.jsonl"
HELD = "held"  # kind of a line that only a resumed run reads: updates after the last line of kind "train"


class Sink(Protocol):
    """An output for lines of metrics, each with "kind" and "step"."""

    def write(self, line: dict[str, Any]) -> None: ...

    def sync(self) -> None:
        """Returns once the lines would survive the end of this process; called before a checkpoint is saved."""

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl, one object per line, in the order of steps.

    Lines after the checkpoint that a run resumes from are dropped, as the resumed run writes them again.
    """

    def __init__(self, workdir: epath.Path, resume_step: int) -> None:
        kept = [line for line in read(workdir) if resume_step and line["step"] <= resume_step]
        self._lines = storage.Lines(workdir / METRICS, map(json.dumps, kept))

    def write(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line))

    def sync(self) -> None:
        self._lines.sync()

    def close(self) -> None:
        self._lines.close()


class TensorBoard:
    """Event files in the run's folder, by tensorboardX, with every number of a line as KIND/NAME."""

    def __init__(self, workdir: epath.Path, resume_step: int) -> None:
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, line: dict[str, Any]) -> None:
        for name, value in _numbers(line).items():
            self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run of the configured project, with every number of a line as KIND/NAME."""

    def __init__(self, workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
        import wandb

        run_id = hashlib.sha256(str(storage.absolute(workdir)).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=config.log.wandb, name=workdir.name, id=run_id, resume="allow", config=config.to_dict()
        )

    def write(self, line: dict[str, Any]) -> None:
        named = {f"{line['kind']}/{name}": value for name, value in _numbers(line).items()}
        self._run.log(named, step=line["step"])

    def sync(self) -> None:
        """Does nothing: W&B keeps its own copy."""

    def close(self) -> None:
        self._run.finish()


def check_sinks(config: ml_collections.ConfigDict) -> None:
    if config.log.wandb and not importlib.util.find_spec("wandb"):
        raise ValueError("log.wandb is set, but wandb is not installed; pip install wandb, or set log.wandb to empty")


def open_sinks(workdir: epath.Path, config: ml_collections.ConfigDict, resume_step: int) -> list[Sink]:
    """Returns the sinks that the config enables; `resume_step` is 0 for a new run."""
    sinks: list[Sink] = [JsonLines(workdir, resume_step)]
    if config.log.tensorboard:
        sinks.append(TensorBoard(workdir, resume_step))
    if config.log.wandb:
        sinks.append(WeightsAndBiases(workdir, config))
    return sinks


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl, without an incomplete last line; raises ValueError if one is bad."""
    path = workdir / METRICS
    if not path.exists():
        return []
    text = path.read_text()
    try:
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON lines ({error}); restore it, or train again") from None


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    if line["kind"] == HELD:
        return {}
    return {k: v for k, v in line.items() if k not in ("kind", "step") and isinstance(v, int | float)}
