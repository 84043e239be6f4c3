"""Checkpoints through orbax: saved asynchronously, old ones deleted but every nth, never restored in another run."""

import contextlib
import json
import shutil  # noqa: TID251  reads a local disk's free space
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
_OF_WEIGHTS = ("tokenizer", "model shape", "byte table")  # the part of an identity that weights depend on


def identity(config: ml_collections.ConfigDict, arm: build.Arm, tokenizer: str, dataset: str) -> dict[str, str]:
    """Returns what must be equal in a checkpoint and a run that restores it; `config` has its vocabulary."""
    layout = {name: config.model[name] for name in ("layers", "heads", "d_model", "context", "padded_vocab", "bias")}
    layout |= {"tie_head": config.model.tie_head, "embedding": config.embedding.kind}
    return {
        "tokenizer": tokenizer,
        "dataset": dataset,
        "model shape": json.dumps(layout),
        "byte table": arm.codes.fingerprint if arm.codes else "none",
        "config": rundir.config_sha256(config),
    }


@contextlib.contextmanager
def open_manager(
    workdir: epath.Path, config: ml_collections.ConfigDict | None = None
) -> Iterator[ocp.CheckpointManager]:
    """Yields the manager of a run's checkpoints, read-only without `config`; waits for the last save at the end."""
    keep = {}
    if config is not None:
        keep = {
            "max_to_keep": config.checkpoint.keep,
            "keep_period": config.checkpoint.keep_every or None,
            "enable_async_checkpointing": True,
        }
    options = ocp.CheckpointManagerOptions(create=config is not None, read_only=config is None, **keep)
    folder = storage.absolute(workdir / rundir.CHECKPOINTS)  # orbax takes absolute paths only
    manager = _Manager(folder, options=options, item_names=(_STATE, _IDENTITY))
    try:
        yield manager
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, state: train_step.TrainState, identity: dict[str, str]) -> None:
    """Starts to save `state` after `step` updates; all hosts must call it; raises OSError if the disk is full."""
    _check_free_space(manager.directory, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    args = ocp.args.Composite(**{_STATE: ocp.args.StandardSave(state), _IDENTITY: ocp.args.JsonSave(identity)})
    with jax.transfer_guard("allow"):  # the loop forbids implicit transfers, and orbax makes them
        manager.save(step, args=args, force=True)


def restore(
    manager: ocp.CheckpointManager,
    abstract_state: train_step.TrainState,
    identity: dict[str, str],
    step: int | None = None,
) -> train_step.TrainState:
    """Returns the saved state, with the layout of `abstract_state`: ShapeDtypeStructs with shardings, or a state.

    `identity` is that of the current model and data; `step` None: the latest.  Raises ValueError if none has both.
    """
    step = manager.latest_step() if step is None else step
    if step is None or step not in manager.all_steps():
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        there = ", ".join(map(str, manager.all_steps())) or "none; train the run first"
        raise ValueError(f"{manager.directory}: {wanted} here; saved steps: {there}")
    saved = manager.restore(step, args=ocp.args.Composite(**{_IDENTITY: ocp.args.JsonRestore()}))[_IDENTITY]
    for name, value in identity.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{manager.directory}: step {step} was saved with another {name} ({saved.get(name)}, now {value}); "
                "restore it with the same one, or train in a new --workdir"
            )
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract_state)
    args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(shapes)})
    return manager.restore(step, args=args)[_STATE]


class Weights(NamedTuple):
    """A checkpoint of another run, whose parameters a run starts from."""

    state: epath.Path  # its folder
    step: int


def find_weights(workdir: epath.Path, identity: dict[str, str], config: ml_collections.ConfigDict) -> Weights:
    """Returns the newest checkpoint in another run's `workdir`; `identity` and `config` are those of this run.

    Raises ValueError if there is none, or tokenizer, model, byte table, embedding.norm or embedding.rank differ.
    """
    named = f"checkpoint.init_from={workdir}"
    if not rundir.has_checkpoint(workdir):
        raise ValueError(f"{named}: no checkpoint in this folder; set it to the folder of a run that has saved one")
    with open_manager(workdir) as manager:
        step = manager.latest_step()
        saved = manager.restore(step, args=ocp.args.Composite(**{_IDENTITY: ocp.args.JsonRestore()}))[_IDENTITY]
        found = Weights(manager.directory / str(step) / _STATE, step)
    for name in _OF_WEIGHTS:
        if saved.get(name) != identity[name]:
            raise ValueError(
                f"{named}: its weights have another {name}: {saved.get(name)}, here {identity[name]}; make both equal"
            )
    theirs = (rundir.read_json(workdir / rundir.CONFIG, {"embedding": dict}) or {"embedding": {}})["embedding"]
    for key in ("norm", "rank"):  # with another norm, a projection induces another table
        if theirs.get(key) != config.embedding[key]:
            raise ValueError(
                f"{named}: its embedding.{key} is {theirs.get(key)}, here {config.embedding[key]}; make both equal"
            )
    return found


def restore_weights(found: Weights, abstract_params: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's parameters, laid out as `abstract_params`; raises ValueError if it was deleted."""
    if not found.state.exists():
        raise ValueError(
            f"{found.state}: the checkpoint was deleted by its own run, which keeps recent ones only; run the same "
            "command again to use the newest, or wait until that run is finished"
        )
    item = {"params": abstract_params}
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(found.state, args)["params"]


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
