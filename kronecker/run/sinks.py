"""Outputs of a run's metrics: metrics.jsonl always, TensorBoard and W&B if the config enables them."""

import functools
import importlib.util
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import ml_collections
from etils import epath

from kronecker.run import rundir
from kronecker.runtime import storage

METRICS, WANDB = "metrics.jsonl", "wandb.json"
HELD = "held"  # kind of a line that only a resumed run reads: updates after the last line of kind "train"
# The fields, with their types, that every line of a kind must have.
FIELDS = {
    "train": {"step": int, "tokens": int}
    | dict.fromkeys(("loss", "clip_share", "embedding_std", "tokens_per_second", "seconds"), float),
    "validation": {"step": int, "tokens": int, "loss": float, "bits_per_byte": float},
    HELD: {"step": int, "seconds": float},
}
LONGEST_LINE = 2**26  # bytes
REMEDY = (
    "restore the file from a copy; an unfinished run goes on without the line if you delete it, and its result then "
    "names the gap"
)


class Sink(Protocol):
    """An output for lines of metrics, each with "kind" and "step"."""

    def write(self, line: dict[str, Any]) -> None: ...

    def sync(self) -> None:
        """Returns once the lines would survive the end of this process; called before a checkpoint is saved."""

    def close(self) -> None: ...


class JsonLines(storage.Lines):
    """metrics.jsonl, one object per line, in the order of steps; "line" numbers those that are not HELD.

    Lines after the checkpoint that a run resumes from are dropped, as the resumed run writes them again.
    """

    def __init__(self, workdir: epath.Path, resume_step: int, config: str = "") -> None:
        """Raises ValueError if a line that is kept is of another `config`, the start of a hash; older ones lack it."""
        self.kept = [line for line in read(workdir) if resume_step and line["step"] <= resume_step]
        self._of_run = {"config": config}
        if other := [line["step"] for line in self.kept if line.get("config", config) != config]:
            raise ValueError(f"{workdir / METRICS}: its line of step {other[0]} is of another config; {REMEDY}")
        counted = [line for line in self.kept if line["kind"] != HELD]
        self._number = counted[-1].get("line", len(counted) - 1) + 1 if counted else 0
        if _trained(self.kept) < resume_step:  # its last lines are gone: leaves a number out, so `gaps` sees it
            self._number += 1
        super().__init__(workdir / METRICS, map(json.dumps, self.kept))

    def write(self, line: dict[str, Any]) -> None:
        if line["kind"] != HELD:
            line = line | {"line": self._number}
            self._number += 1
        self.append(json.dumps(line | self._of_run))


class TensorBoard:
    """Event files in the run's folder, by tensorboardX, with every number of a line as KIND/NAME."""

    def __init__(self, workdir: epath.Path, resume_step: int, kept: Sequence[dict[str, Any]]) -> None:
        """Purges events after `resume_step`; `kept` are the lines up to it, for a folder without events."""
        import tensorboardX

        folder = workdir / "tensorboard"
        lacking = [] if folder.exists() else kept
        purged = resume_step + 1 if resume_step else 0
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=purged)
        for line in lacking:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        for name, value in _numbers(line).items():
            self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run of the configured project, with every number of a line as KIND/NAME over the axis "step".

    The axis is a number like the others: W&B's own step only rises, so it would drop the lines that a resumed run
    writes again.  The run's id is kept in its folder.  A moved folder goes on with it; a copy, a run that starts
    anew and one in another project draw another one, and log the lines so far.
    """

    def __init__(
        self, workdir: epath.Path, config: ml_collections.ConfigDict, resume_step: int, kept: Sequence[dict[str, Any]]
    ) -> None:
        """`kept` are the lines up to `resume_step`; raises ValueError if W&B refuses, such as without a login."""
        import wandb

        here = str(storage.absolute(workdir))
        known = rundir.read_json(workdir / WANDB, {"id": str, "folder": str}) if resume_step else None
        if known and known.get("project", config.log.wandb) != config.log.wandb:
            known = None
        before = known["folder"] if known else here
        original = storage.open_path(before, f"{workdir / WANDB}: folder") / WANDB
        if before != here and original.exists() and rundir.read_json(original).get("id") == known["id"]:
            known = None  # this folder is a copy
        run_id = known["id"] if known else uuid.uuid4().hex[:16]
        place = {} if storage.is_remote(workdir) else {"dir": here}
        try:
            self._run = wandb.init(
                project=config.log.wandb, name=workdir.name, id=run_id, resume="allow", config=config.to_dict(), **place
            )
        except wandb.errors.Error as error:
            raise ValueError(f"log.wandb={config.log.wandb}: {error}; or set log.wandb to empty") from error
        rundir.write_json(workdir / WANDB, {"id": run_id, "folder": here, "project": config.log.wandb})
        self._run.define_metric("*", step_metric="step")
        for line in kept if known is None else ():
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        if named := {f"{line['kind']}/{name}": value for name, value in _numbers(line).items()}:
            self._run.log(named | {"step": line["step"]})

    def sync(self) -> None:
        """Does nothing: W&B keeps its own copy."""

    def close(self) -> None:
        self._run.finish()


def check_sinks(config: ml_collections.ConfigDict) -> None:
    if config.log.wandb and not importlib.util.find_spec("wandb"):
        raise ValueError("log.wandb is set, but wandb is not installed; pip install wandb, or set log.wandb to empty")


def open_sinks(workdir: epath.Path, config: ml_collections.ConfigDict, resume_step: int) -> list[Sink]:
    """Returns the sinks that the config enables; `resume_step` is 0 for a new run."""
    lines = JsonLines(workdir, resume_step, rundir.config_sha256(config)[:12])
    sinks: list[Sink] = [lines]
    if config.log.tensorboard:
        sinks.append(TensorBoard(workdir, resume_step, lines.kept))
    if config.log.wandb:
        sinks.append(WeightsAndBiases(workdir, config, resume_step, lines.kept))
    return sinks


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl, without an incomplete last line.

    Raises ValueError, with the line's number, if one is damaged, lacks a field of FIELDS, is repeated or out of order.
    """
    path, lines = workdir / METRICS, []
    if not path.exists():
        return lines
    storage.check_ends(path)
    last: dict[str, int] = {}  # step of the last line of each kind
    with path.open("rb") as opened, io.BufferedReader(opened) as file:  # a remote file's own readline has no limit
        for number, text in enumerate(iter(functools.partial(file.readline, LONGEST_LINE), b""), 1):
            if not text.endswith(b"\n") and len(text) < LONGEST_LINE:
                break
            where = f"{path} line {number}"
            line = rundir.parsed(text, where, {"kind": str}, REMEDY)
            if line["kind"] not in FIELDS:
                raise ValueError(f"{where}: kind is {line['kind']!r}; allowed: {', '.join(FIELDS)}; {REMEDY}")
            rundir.check({"line": 0} | line, where, FIELDS[line["kind"]] | {"line": int}, REMEDY)
            if line["kind"] != HELD and line["step"] <= last.get(line["kind"], -1):
                raise ValueError(
                    f"{where}: {line['kind']} of step {line['step']} is repeated or out of order; {REMEDY}"
                )
            last[line["kind"]] = line["step"]
            lines.append(line)
    return lines


def gaps(lines: Iterable[dict[str, Any]], steps: int) -> list[list[int]]:
    """Returns pairs of steps between which lines are missing, of a run with `steps` finished updates."""
    found, number, at = [], 0, 0
    for line in lines:
        if line["kind"] != HELD:
            if line.get("line", number) > number:
                found.append([at, line["step"]])
            number, at = line.get("line", number) + 1, line["step"]
    trained = _trained(lines)
    return found if trained >= steps else [*found, [trained, steps]]


def words(found: Iterable[Sequence[int]]) -> str:
    return ", ".join(f"between steps {after:,} and {before:,}" for after, before in found)


def _trained(lines: Iterable[dict[str, Any]]) -> int:
    """Returns the number of updates up to the last one that a line is about."""
    return max((line["step"] for line in lines if line["kind"] in ("train", HELD)), default=0)


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    if line["kind"] == HELD:
        return {}
    return {k: v for k, v in line.items() if k not in ("kind", "step", "line") and isinstance(v, int | float)}
