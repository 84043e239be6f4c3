"""A finished or half-finished run, opened again for evaluation."""

import dataclasses
from typing import Any

import ml_collections
from etils import epath
from jax.sharding import Mesh

from kronecker import tokenization
from kronecker.data import manifests, preparation, unigrams
from kronecker.model import build
from kronecker.run import finished_runs, rundir
from kronecker.runtime import device_mesh, sharding, storage
from kronecker.schema import dotted, keys
from kronecker.training import checkpoint, train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A run's config, data, tokenizer, model, and parameters at one step."""

    config: ml_collections.ConfigDict
    prepared: manifests.Prepared
    tokenizer: tokenization.Tokenizer
    arm: build.Arm
    params: dict[str, Any]
    step: int
    mesh: Mesh
    opt_state: Any = None  # the optimizer's, if it was asked for


def open_run(workdir: epath.PathLike, step: int | None = None, optimizer: bool = False) -> Restored:
    """Returns a run's parameters, and all that is needed to use them; `step` None is the latest checkpoint.

    `optimizer` keeps the optimizer's state, which needs the memory of two more models.

    Raises FileNotFoundError if there is no run; ValueError if there is no such checkpoint, it is damaged, or tokenizer,
    data or codes have changed since.
    """
    workdir = storage.open_path(workdir, "--workdir")
    config = rundir.read_config(workdir / rundir.CONFIG)
    if config is None:
        runs = sorted(filter(finished_runs.is_run, workdir.iterdir())) if workdir.is_dir() else []
        give = f"one of the runs in it, such as {runs[0]}" if runs else "a folder that train.py wrote"
        raise FileNotFoundError(f"--workdir={workdir}: not a run's folder (no {rundir.CONFIG}); give {give}")
    if fault := next(
        filter(None, (keys.fault(*one) for one in dotted.flat(config).items() if one[0] in keys.KEYS)), None
    ):
        raise ValueError(f"{workdir / rundir.CONFIG}: {fault}; restore the file from a copy")
    config.lock()
    device_mesh.use_simulated_cpu_devices(config)
    prepared, tokenizer = open_text(workdir, config)
    mesh = device_mesh.make_mesh_for(config)
    counts = unigrams.counts(prepared, tokenizer.vocab_size) if config.model.unigram_bias else None
    token_bytes = tokenizer.bytes_from(config.embedding.byte_source)
    arm = build.build(config, token_bytes, mesh, counts, tokenizer.special_ids)
    identity = checkpoint.identity(config, arm, tokenizer.fingerprint, prepared.fingerprint)
    state = checkpoint.restore(workdir, train_step.abstract_state(arm.model, arm.bag, config, mesh), identity, step)
    arm = dataclasses.replace(arm, bag=sharding.replicate(arm.bag, mesh))
    kept = state.opt_state if optimizer else None
    return Restored(config, prepared, tokenizer, arm, state.params, int(state.step), mesh, kept)


def open_text(
    workdir: epath.Path, config: ml_collections.ConfigDict
) -> tuple[manifests.Prepared, tokenization.Tokenizer]:
    """Returns a run's prepared text and its tokenizer; raises ValueError if they cannot be opened or made again."""
    recorded = finished_runs.read_json(workdir, rundir.ENV, {"data": str})["data"]
    folder = storage.open_path(recorded, f"{rundir.ENV}: data")
    if (folder / manifests.MANIFEST).exists():  # its source text may be gone
        return preparation.open_folder(folder, config.tokenizer, end_of_text=config.data.end_of_text)
    return preparation.ensure_prepared(config)
