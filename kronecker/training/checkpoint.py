"""Checkpoints through orbax: asynchronous, kept by count and by step, and never restored into the wrong run."""

import contextlib
import hashlib
import json
import shutil  # noqa: TID251  asks for a disk's room, where there is one
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath

from kronecker.model import build
from kronecker.run import rundir
from kronecker.runtime import storage
from kronecker.training import train_step

_STATE, _IDENTITY = "state", "identity"
_OF_WEIGHTS = ("tokenizer", "model shape", "byte table")  # of an identity: what weights alone depend on


def identity(config: ml_collections.ConfigDict, arm: build.Arm, tokenizer: str, dataset: str) -> dict[str, str]:
    """Returns what a checkpoint and the run that it is restored into must agree on, by name.

    `config` has its vocabulary filled in; `tokenizer` and `dataset` are their fingerprints.
    """
    layout = {name: config.model[name] for name in ("layers", "heads", "d_model", "context", "padded_vocab", "bias")}
    layout |= {"tie_head": config.model.tie_head, "embedding": config.embedding.kind}
    return {
        "tokenizer": tokenizer,
        "dataset": dataset,
        "model shape": json.dumps(layout),
        "byte table": arm.codes.fingerprint if arm.codes else "none",
        "config": hashlib.sha256(json.dumps(rundir.fixed(config), sort_keys=True).encode()).hexdigest(),
    }


@contextlib.contextmanager
def open_manager(
    workdir: epath.Path, config: ml_collections.ConfigDict | None = None
) -> Iterator[ocp.CheckpointManager]:
    """Yields the manager of a run's checkpoints and waits for the last save when it closes.

    `config` says what is kept; None: to read only.
    """
    keep = {}
    if config is not None:
        keep = {
            "max_to_keep": config.checkpoint.keep,
            "keep_period": config.checkpoint.keep_every or None,
            "enable_async_checkpointing": True,
        }
    options = ocp.CheckpointManagerOptions(create=config is not None, read_only=config is None, **keep)
    folder = storage.absolute(workdir / rundir.CHECKPOINTS)  # orbax takes absolute paths only
    manager = ocp.CheckpointManager(folder, options=options, item_names=(_STATE, _IDENTITY))
    try:
        yield manager
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, state: train_step.TrainState, identity: dict[str, str]) -> None:
    """Starts saving `state`, after `step` finished updates; collective over hosts.

    A restore must find the same `identity`.  Raises OSError if the disk has less room than the state needs.
    """
    _check_room(manager.directory, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    args = ocp.args.Composite(
        **{_STATE: ocp.args.StandardSave(state), _IDENTITY: ocp.args.JsonSave(identity)},
    )
    with jax.transfer_guard("allow"):  # the loop forbids implicit transfers, and orbax makes them
        manager.save(step, args=args, force=True)


def restore(
    manager: ocp.CheckpointManager,
    abstract_state: train_step.TrainState,
    identity: dict[str, str],
    step: int | None = None,
) -> train_step.TrainState:
    """Returns the saved state, laid out as `abstract_state` says: ShapeDtypeStructs with shardings, or a state.

    `identity` is that of the present model and data; `step` None is the latest.  Raises ValueError if there is no such
    checkpoint, or it is of another tokenizer, dataset or model.
    """
    step = manager.latest_step() if step is None else step
    if step is None or step not in manager.all_steps():
        raise ValueError(f"{manager.directory}: no checkpoint{'' if step is None else f' of step {step}'} there")
    saved = manager.restore(step, args=ocp.args.Composite(**{_IDENTITY: ocp.args.JsonRestore()}))[_IDENTITY]
    for name, value in identity.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{manager.directory}: step {step} was saved with another {name} ({saved.get(name)}, now {value}); "
                "restore it with what it was trained with, or train into a new --workdir"
            )
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract_state)
    args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(shapes)})
    return manager.restore(step, args=args)[_STATE]


class Weights(NamedTuple):
    """A checkpoint of another run, to begin with its parameters: where its state lies, and its step."""

    state: epath.Path
    step: int


def find_weights(workdir: epath.Path, identity: dict[str, str], config: ml_collections.ConfigDict) -> Weights:
    """Returns another run's newest checkpoint; `workdir` is that run's folder, `identity` and `config` are of this run.

    Tokenizer, model, byte table, embedding.norm and embedding.rank must be the same in both; dataset and the rest of
    the config need not.  Raises ValueError if there is no checkpoint, or one of these differs.
    """
    named = f"checkpoint.init_from={workdir}"
    if not rundir.has_checkpoint(workdir):
        raise ValueError(f"{named}: no checkpoint there; give the folder of a run that has saved one")
    with open_manager(workdir) as manager:
        step = manager.latest_step()
        saved = manager.restore(step, args=ocp.args.Composite(**{_IDENTITY: ocp.args.JsonRestore()}))[_IDENTITY]
        found = Weights(manager.directory / str(step) / _STATE, step)
    for name in _OF_WEIGHTS:
        if saved.get(name) != identity[name]:
            raise ValueError(f"{named}: weights of another {name}: {saved.get(name)} there, {identity[name]} here")
    theirs = rundir.read_json(workdir / rundir.CONFIG)["embedding"]
    for key in ("norm", "rank"):  # a projection means another table under another norm
        if theirs.get(key) != config.embedding[key]:
            raise ValueError(f"{named}: embedding.{key} is {theirs.get(key)} there, {config.embedding[key]} here")
    return found


def restore_weights(found: Weights, abstract_params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a checkpoint, laid out as `abstract_params`; raises ValueError if it is gone."""
    if not found.state.exists():
        raise ValueError(
            f"{found.state}: gone since this run began with it, as its own run, still at work, keeps newer ones only; "
            "the same command takes the newest, or wait until that run is finished"
        )
    item = {"params": abstract_params}
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(found.state, args)["params"]


def _check_room(folder: epath.Path, needed: int) -> None:
    # A write that fails half-way ends in dozens of tracebacks from other threads; asking first ends in one line.
    if storage.is_remote(folder):
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: a checkpoint needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; make room and run "
            "the same command again, it goes on from the last checkpoint"
        )
