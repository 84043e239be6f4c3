"""Checkpoints through orbax: saved asynchronously, old ones deleted but every nth, never restored in another run."""

import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import logging
import os
import shutil  # noqa: TID251  reads a local disk's free space
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath

from kronecker.model import build
from kronecker.run import rundir
from kronecker.runtime import allocator, distributed, printing, sharding, storage
from kronecker.schema import dotted
from kronecker.training import checksums, train_step

_STATE, _IDENTITY = "state", "identity"
_CHECKSUMS, _SEAL = "checksums", "sha256"  # of the arrays, and of the rest of an identity; older ones lack both
_STEP = "step"  # in an identity, as a folder may be renamed; older ones lack it
_LONGEST_FAULT = 200  # characters
_INTACT, _DAMAGED, _UNREAD = range(3)  # what the processes tell one another of a checkpoint
_SMALL = "metadata", "_METADATA", "manifest.ocdbt"  # files of orbax, which reads them whole
_OF_WEIGHTS = ("tokenizer", "model shape", "byte table")  # the part of an identity that weights depend on
# The part of a config: with another norm or scale, a projection induces another table; checksums are of one type.
_OF_CONFIG = ("embedding.norm", "embedding.rank", "embedding.scale", "model.param_dtype")
_OF_RANK = ("embedding.pos_dim", "embedding.truncation", "embedding.byte_source")  # decide a rank that is derived late

Read = TypeVar("Read")


def identity(config: ml_collections.ConfigDict, arm: build.Arm, tokenizer: str, dataset: str) -> dict[str, str]:
    """Returns what must be equal in a checkpoint and a run that restores it; `config` has its vocabulary."""
    layout = {name: config.model[name] for name in ("layers", "heads", "d_model", "context", "padded_vocab", "bias")}
    layout |= {"tie_head": config.model.tie_head, "embedding": config.embedding.kind}
    if config.model.unigram_bias:  # older checkpoints lack it
        layout["unigram_bias"] = True
    return {
        "tokenizer": tokenizer,
        "dataset": dataset,
        "model shape": json.dumps(layout),
        "byte table": arm.codes.fingerprint if arm.codes else "none",
        "config": rundir.config_sha256(config),
    }


@contextlib.contextmanager
def open_manager(workdir: epath.Path, config: ml_collections.ConfigDict) -> Iterator[ocp.CheckpointManager]:
    """Yields the manager that saves a run's checkpoints; waits for the last save at the end."""
    _ignore_late_faults()
    folder = storage.absolute(workdir / rundir.CHECKPOINTS)  # orbax takes absolute paths only
    for step in rundir.saved_steps(workdir):
        if os.path.islink(folder / str(step)):  # noqa: PTH114  of a remote path false
            raise ValueError(f"{folder / str(step)}: a link, which orbax cannot delete; put the folder itself there")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=config.checkpoint.keep,
        keep_period=config.checkpoint.keep_every or None,
        lightweight_initialize=True,  # else a damaged _CHECKPOINT_METADATA, which nothing needs, ends the run
        temporary_path_class=None if storage.is_remote(folder) else _OnDisk,
    )
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handlers.add(_STATE, ocp.args.StandardSave, ocp.StandardCheckpointHandler())
    handlers.add(_IDENTITY, ocp.args.JsonSave, _LateJson())
    manager = _Manager(folder, options=options, handler_registry=handlers)
    try:
        yield manager
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, state: train_step.TrainState, identity: dict[str, str]) -> None:
    """Starts to save `state` after `step` updates; all hosts must call it; raises OSError if the disk is full."""
    _check_free_space(manager.directory, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    with jax.transfer_guard("allow"):  # the loop forbids implicit transfers, and checksums and orbax make them
        sums = checksums.start(state)
        late = ocp.args.JsonSave(lambda: _sealed(identity | {_STEP: step, _CHECKSUMS: sums()}))
        args = ocp.args.Composite(**{_STATE: ocp.args.StandardSave(state), _IDENTITY: late})
        manager.save(step, args=args, force=True)


def resume(
    workdir: epath.Path, abstract_state: train_step.TrainState, identity: dict[str, str]
) -> tuple[int, train_step.TrainState | None]:
    """Returns step and state of the newest intact checkpoint, or (0, None) if nothing is saved; all hosts must call it.

    The state has the layout of `abstract_state`: ShapeDtypeStructs with shardings, or a state.  Damaged newer
    checkpoints are moved to DAMAGED.  Raises ValueError if the newest intact one has another `identity` than the
    current model and data, or if all are damaged.
    """
    left, faults, state = rundir.saved_steps(workdir), {}, None
    while state is None and (step := distributed.told_by_all(max(left, default=0))[0]):
        left = [older for older in left if older < step]
        try:
            state = _read(workdir, step, abstract_state, identity)
        except DamagedError as fault:
            faults[step] = str(fault)  # as text: the exception holds on to what was read
    if state is None and distributed.told_by_all(rundir.has_checkpoint(workdir))[0]:
        raise ValueError(
            f"{workdir / rundir.CHECKPOINTS}: no checkpoint is intact ({'; '.join(faults.values())}); put back a copy "
            "of one, or delete this folder, and the same command trains from the beginning"
        )
    if jax.process_index() == 0:
        for damaged, fault in faults.items():
            aside = _set_aside(workdir, damaged)
            then = f"resumes from step {step}" if step else "begins anew"
            printing.say(f"{fault}; moved to {aside}; {then}")
    sharding.wait_for_hosts("damaged checkpoints")
    return step, state


def restore(
    workdir: epath.Path, abstract_state: train_step.TrainState, identity: dict[str, str], step: int | None = None
) -> train_step.TrainState:
    """Returns the saved state, like `resume`; `step` None: the last one.

    Raises ValueError if there is none, or not with `identity`, or if it is damaged.
    """
    step = _last_step(workdir, step)
    return _unless_damaged(workdir, step, abstract_state, lambda: _read(workdir, step, abstract_state, identity))


class DamagedError(ValueError):
    """A checkpoint that is not what was saved, or of which a part is missing."""


class Weights(NamedTuple):
    """A checkpoint of another run, whose parameters a run starts from."""

    workdir: epath.Path  # of the other run
    step: int

    @property
    def facts(self) -> dict[str, Any]:
        """Returns what env.json records."""
        return {"step": self.step}

    def restore(self, abstract_params: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters, laid out as `abstract_params`; all hosts must call it.

        Raises ValueError if the checkpoint was deleted, or is damaged.
        """
        if not _folder(*self).exists():
            raise ValueError(
                f"{_folder(*self)}: the checkpoint was deleted by its own run, which keeps recent ones only; run the "
                "same command again to use the newest, or wait until that run is finished"
            )
        item = {"params": abstract_params}
        return _unless_damaged(*self, item, lambda: _read(*self, item))["params"]


def find_weights(
    workdir: epath.Path, identity: dict[str, str], config: ml_collections.ConfigDict, abstract_params: dict[str, Any]
) -> Weights:
    """Returns the last checkpoint in another run's `workdir`; the other arguments are those of this run.

    Raises ValueError if there is none, or it is damaged, or what weights depend on differs.
    """
    named = f"checkpoint.init_from={workdir}"
    if not rundir.has_checkpoint(workdir):
        raise ValueError(f"{named}: no checkpoint in this folder; set it to the folder of a run that has saved one")
    step = _last_step(workdir)
    found = Weights(workdir, step)
    saved = _unless_damaged(*found, {"params": abstract_params}, lambda: _read_identity(workdir, step))
    for name in _OF_WEIGHTS:
        if saved.get(name) != identity[name]:
            raise ValueError(
                f"{named}: its weights have another {name}: {saved.get(name)}, here {identity[name]}; make both equal"
            )
    their_config = rundir.read_config(workdir / rundir.CONFIG)
    if not their_config or rundir.config_sha256(their_config) != saved.get("config"):
        raise ValueError(f"{named}: its {rundir.CONFIG} is not that of its checkpoints; restore the file from a copy")
    theirs, ours = dotted.flat(their_config), dotted.flat(config)
    of_rank = _OF_RANK if config.embedding.rank_rows == "used" else ()
    for key in (*_OF_CONFIG, *of_rank):
        if theirs[key] != ours[key]:
            raise ValueError(f"{named}: its {key} is {theirs[key]}, here {ours[key]}; make both equal")
    if (draw := build.draw(their_config)) != (own := build.draw(config)):
        raise ValueError(
            f"{named}: its code is draw {draw}, here {own}, that of the seed with embedding.redraw; make both equal"
        )
    return found


def _last_step(workdir: epath.Path, step: int | None = None) -> int:
    """Returns `step`, or the last one of the run; raises ValueError if it is not saved."""
    saved, result = rundir.saved_steps(workdir), rundir.read_json(workdir / rundir.RESULT, {"step": int})
    if step is None and (saved or result):
        step = result["step"] if result else saved[0]
    if step is None or step not in saved:
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        there = ", ".join(map(str, sorted(saved))) or "none; train the run first"
        raise ValueError(f"{workdir / rundir.CHECKPOINTS}: {wanted} here; saved steps: {there}")
    return step


def _unless_damaged(workdir: epath.Path, step: int, abstract: Any, read: Callable[[], Read]) -> Read:
    """Returns `read()`, of this step; raises ValueError with the intact steps if it is damaged."""
    try:
        return read()
    except DamagedError as error:
        fault = str(error)
    intact = []
    for other in rundir.saved_steps(workdir):
        with contextlib.suppress(DamagedError):
            _read(workdir, other, abstract)
            intact.append(str(other))
    if not intact:
        raise ValueError(f"{fault}; no other checkpoint is intact: train the run again in a new --workdir")
    raise ValueError(
        f"{fault}; intact steps: {', '.join(intact)}; eval.py --step={intact[0]} uses one; to make the newest again, "
        f"delete {workdir / rundir.RESULT}, if it is there, and give the run's train.py command again"
    )


def _read(workdir: epath.Path, step: int, abstract: Any, identity: dict[str, str] | None = None) -> Any:
    """Returns the arrays of a checkpoint that `abstract` has; all hosts must call it.

    Raises DamagedError, on all hosts, or ValueError if it was saved with another `identity`.
    """
    folder = _folder(workdir, step)
    saved = _read_identity(workdir, step)
    for name, value in (identity or {}).items():
        if saved.get(name) != value:
            raise ValueError(
                f"{folder.parent}: step {step} was saved with another {name} ({saved.get(name)}, now {value}); "
                "restore it with the same one, or train in a new --workdir"
            )
    item = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract)
    args = ocp.args.PyTreeRestore(
        item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
    )
    # Not by a Checkpointer: its processes wait for one another, also for one that found a fault.
    arrays = _on_all(
        folder, _STATE, lambda part: ocp.PyTreeCheckpointHandler().restore(storage.absolute(part), args=args)
    )
    if _CHECKSUMS not in saved:
        if jax.process_index() == 0:
            printing.say(f"{folder}: cannot be checked for damage, as it was saved without checksums")
        return arrays
    changed = [path for path, number in checksums.of(arrays).items() if saved[_CHECKSUMS].get(path) != number]
    if changed:
        more = f" and {len(changed) - 1} more arrays are" if changed[1:] else " is"
        raise DamagedError(f"{folder}: damaged ({changed[0]}{more} not what was saved)")
    return arrays


def _read_identity(workdir: epath.Path, step: int) -> dict[str, Any]:
    """Returns what a checkpoint belongs to, with the checksums of its arrays; all hosts must call it."""

    def read(part: epath.Path) -> dict[str, Any]:
        saved = ocp.JsonCheckpointHandler().restore(part)
        if saved.keys() & {_CHECKSUMS, _SEAL} and saved != _sealed(saved):
            raise ValueError("not what was saved")
        if saved.get(_STEP, step) != step:
            raise ValueError(f"it was saved as step {saved[_STEP]}")
        return saved

    return _on_all(_folder(workdir, step), _IDENTITY, read)


def _on_all(folder: epath.Path, part: str, read: Callable[[epath.Path], Read]) -> Read:
    """Returns what `read` returns for a part of a checkpoint.

    If it fails on one host, all of them raise the same: DamagedError, or what is no fault of the content.
    """
    _ignore_late_faults()
    fault, other = "", None
    try:
        storage.check_ends(folder / part)
        for name in filter(lambda name: (folder / part / name).exists(), _SMALL):
            storage.read_whole(folder / part / name)
        found = read(folder / part)
    except Exception as error:  # noqa: BLE001  orbax and its libraries raise many kinds for files that are not whole
        fault = f"{part}: " + " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]
        other = _no_damage(folder / part, error)
    states = distributed.told_by_all(_UNREAD if other else _DAMAGED if fault else _INTACT)
    if other:
        raise other
    if _UNREAD in states:
        raise OSError(f"{folder / part}: process {states.index(_UNREAD)} cannot read it now; see its log")
    if fault and states[0] == _INTACT:
        printing.say(f"{folder}: damaged ({fault})")
    if _DAMAGED in states:
        which = states.index(_DAMAGED)
        raise DamagedError(f"{folder}: damaged ({fault or f'process {which} cannot read it; see its log'})")
    return found


def _no_damage(part: epath.Path, error: Exception) -> Exception | None:
    """Returns what to raise if a read failed for another reason than what is stored: it may be whole."""
    if isinstance(error, MemoryError) or allocator.OUT_OF_MEMORY in str(error):
        return error
    reached = True
    try:
        storage.check_reachable(part)
    except Exception as found:  # noqa: BLE001  the clients of buckets raise many kinds
        reached, error = False, found
    if reached and not storage.is_of_access(error):
        return None
    reason = " ".join(str(error).split())[-_LONGEST_FAULT:] or type(error).__name__
    return OSError(
        f"{part}: cannot be read now ({reason}), which is no damage, so nothing is changed; mend the rights, the "
        "network or the limit, and run the same command again"
    )


@functools.cache
def _ignore_late_faults() -> None:
    """Silences reads and writes that find the event loop of orbax closed, after a first fault of a file or the disk."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value) and not inspect.iscoroutine(unraisable.object):
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _sealed(about: dict[str, Any]) -> dict[str, Any]:
    content = {name: value for name, value in about.items() if name != _SEAL}
    return content | {_SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _folder(workdir: epath.Path, step: int) -> epath.Path:
    return workdir / rundir.CHECKPOINTS / str(step)


def _set_aside(workdir: epath.Path, step: int) -> epath.Path:
    folder = workdir / rundir.DAMAGED
    names = itertools.chain([str(step)], (f"{step}-{number}" for number in itertools.count(2)))
    aside = next(folder / name for name in names if not (folder / name).exists())
    storage.move(_folder(workdir, step), aside)
    return aside


class _LateJson(ocp.JsonCheckpointHandler):
    """Saves what a function returns, called in the background: the loop does not wait for the checksums."""

    async def _save_fn(self, x: Callable[[], Any], directory: epath.Path) -> None:
        await super()._save_fn(x(), directory)


class _OnDisk(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A new checkpoint, which a power cut leaves whole or leaves out.

    Older ones are deleted after `finalize`.  Only the files of arrays are flushed to the disk by their writer.
    """

    async def finalize(self) -> None:
        storage.sync(self.get())
        await super().finalize()
        storage.flush(self.get_final().parent)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Returns False: only `preemption.Notice` may ask JAX.

        JAX agrees on the call at which all processes stop by the number of their last call, so a second caller with
        numbers of its own makes them agree on one that has passed, and the preemption is missed.
        """
        del step
        return False


def _check_free_space(folder: epath.Path, needed: int) -> None:
    # A write that fails prints dozens of tracebacks from other threads; this check prints one line.
    if storage.is_remote(folder):
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: a checkpoint needs {needed / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are free; free some "
            "space and run the same command again; it resumes from the last checkpoint"
        )
