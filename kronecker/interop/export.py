"""Writes a run as a folder that opens as GPT-2: config, weights, tokenizer, and a card with the run's numbers.

The input embedding of every arm becomes a table, so the model costs at inference what any GPT-2 of its size costs.
"""

import json
import os
import pathlib  # noqa: TID251  for the lock, which is always local
from collections.abc import Mapping
from typing import Any

import httpx2
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from kronecker.interop import gpt2_folder, hf_tokenizer, model_card
from kronecker.model import accounting, build
from kronecker.run import rundir
from kronecker.runtime import locks, sharding, storage
from kronecker.training import evaluation, restore

GENERATION = "generation_config.json"
FILES = (
    *(gpt2_folder.CONFIG, gpt2_folder.WEIGHTS, GENERATION),
    *(hf_tokenizer.JSON, hf_tokenizer.CONFIG, model_card.FILE),
)


def write(run: restore.Restored, workdir: epath.PathLike, out: epath.PathLike, dtype: str | None = None) -> list[str]:
    """Writes the folder, whole or not at all, and returns a line about each thing that it lacks.

    `workdir` is the run's folder, with its records.  `dtype` of the weights is one of choices.EXPORT_DTYPES; None:
    model.param_dtype.  An earlier export in `out` is replaced.

    Raises ValueError if `out` holds anything else, a weight is not finite or too large for the dtype, or the run's
    records are damaged.
    """
    out = check_target(out)
    dtype = dtype or run.config.model.param_dtype
    weights, scale = _weights(run, dtype)
    notices, lacks = [], ""
    files: dict[str, str | bytes] = {}
    try:
        held_out = next(evaluation.held_out(run.prepared, run.config, run.mesh))[0]
        texts = [run.tokenizer.decode(ids).decode(errors="ignore") for ids in held_out]
        files |= hf_tokenizer.files(run.tokenizer, run.config.model.context, texts)
    except ValueError as error:
        lacks = str(error)
        notices.append(f"{out}: gets no tokenizer files: {lacks}")
    eot_id = run.tokenizer.eot_id
    shown = {"scale": scale, "tokenizer_files": not lacks, "no_tokenizer": lacks}
    files |= {
        gpt2_folder.CONFIG: _json(gpt2_folder.config(run.arm.model.shape, eot_id, dtype)),
        GENERATION: _json({"bos_token_id": eot_id, "eos_token_id": eot_id}),
        model_card.FILE: model_card.render(run, storage.open_path(workdir, "--workdir"), shown),
    }
    about = {
        "arm": run.config.embedding.arm,
        "step": run.step,
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "data_fingerprint": run.prepared.fingerprint,
        "config_sha256": rundir.config_sha256(run.config),
    }
    files[gpt2_folder.WEIGHTS] = safetensors.numpy.save(weights, {"format": "pt", gpt2_folder.ABOUT: json.dumps(about)})
    _replace(out, files)
    return notices


def _replace(out: epath.Path, files: Mapping[str, str | bytes]) -> None:
    """Writes a folder of `files` and puts it in the place of `out`, which is absent, empty or an earlier export."""
    out = epath.Path(os.path.realpath(out))  # a link stays a link
    # Names that nobody else gives: what lies there is of a process that was killed.
    unfinished, old = (out.with_name(f".{out.name}.kronecker-{part}") for part in ("unfinished", "old"))

    def tidy() -> None:
        if old.exists() and not out.exists():
            old.rename(out)
        for left in (unfinished, old):
            if left.exists():
                left.rmtree()

    lock = pathlib.Path(out.with_name(f".{out.name}.kronecker-lock"))  # out is on this machine
    with locks.locked(lock):  # another export waits here, and then replaces this one
        try:
            tidy()
            unfinished.mkdir(parents=True)
            for name, content in files.items():
                (unfinished / name).write_bytes(content.encode() if isinstance(content, str) else content)
            storage.sync(unfinished)
            if out.exists():
                out.rename(old)
            unfinished.rename(out)
            storage.flush(out.parent)
        except OSError as error:
            error.filename = error.filename or str(out)  # a disk without space names no file
            raise
        finally:
            tidy()
            lock.unlink(missing_ok=True)


def check_target(out: epath.PathLike) -> epath.Path:
    """Returns the folder to write; raises ValueError if it is remote, or holds anything but an earlier export."""
    out = storage.open_path(out, "--out")
    if storage.is_remote(out):
        raise ValueError(f"--out={out}: exports are written to a local disk; name a local folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out}: is a file; choose another folder")
    there = {file.name for file in out.iterdir()} if out.exists() else set()
    if there and not (there <= set(FILES) and gpt2_folder.is_own(out)):
        foreign = min(there - set(FILES), default=gpt2_folder.WEIGHTS)
        raise ValueError(f"--out={out}: holds {foreign}, which is of no earlier export; choose another folder")
    return out


def _weights(run: restore.Restored, dtype: str) -> tuple[dict[str, np.ndarray], float]:
    """Returns GPT-2's arrays, and the scale of a tied head's logits that is part of them."""
    arm, scale = run.arm, 1.0
    if arm.model.head_bias is not None:
        raise ValueError("model.unigram_bias is True: GPT-2's head has no bias, so this run cannot be exported")
    if arm.model.shape.tie_head and arm.model.input_scale != 1:
        raise ValueError(
            f"embedding.scale is {arm.model.input_scale} and the head is tied: GPT-2 has one table for both, so this "
            "run cannot be exported"
        )
    if arm.model.shape.tie_head:
        own = {"params": run.params[accounting.INPUT]}
        scale = float(jax.jit(lambda own, bag: arm.model.embed.apply(own, bag, method="output")[1])(own, arm.bag))
    params = jax.tree.map(sharding.gathered, run.params)
    exact = gpt2_folder.arrays(params, build.input_table(arm, run.params), arm.model.shape, scale)
    found = {name: np.ascontiguousarray(array.astype(jnp.dtype(dtype))) for name, array in exact.items()}
    for name, array in found.items():
        if not np.isfinite(exact[name]).all():
            raise ValueError(f"{name} has values that are not finite at step {run.step:,}; give an earlier --step")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values beyond the range of {dtype}; write --dtype=bfloat16 or float32")
    return found, scale


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def push(out: epath.PathLike, repository: str) -> str:
    """Uploads a folder to OWNER/NAME, a model repository on the hub, and returns its address.

    A new repository is private.  Raises ValueError if the hub refuses it or answers as none, ConnectionError if the
    upload fails.
    """
    import huggingface_hub  # only who uploads waits for it

    api, where, kept = huggingface_hub.HfApi(), f"--push_to_hub={repository}", f"{out} is complete"
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=out, allow_patterns=list(FILES))
    except huggingface_hub.errors.HFValidationError as error:
        raise ValueError(f"{where}: {error}; write OWNER/NAME; {kept}") from error
    except (OSError, RuntimeError, httpx2.TransportError) as error:
        # What goes wrong with one large file comes wrapped.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        status = cause.response.status_code if isinstance(cause, huggingface_hub.errors.HfHubHTTPError) else None
        if status in (401, 403, 404):
            raise ValueError(
                f"{where}: HTTP {status}; give OWNER/NAME of a repository that you may write, and run "
                f"`hf auth login` or set HF_TOKEN; {kept}"
            ) from error
        reason = f"HTTP {status}" if status else " ".join(str(cause).split()) or type(cause).__name__
        raise ConnectionError(f"{where}: {reason}; {kept}; later run `hf upload {repository} {out}`") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"no answer of a model hub ({type(error).__name__}: {error}); check HF_ENDPOINT"
        raise ValueError(f"{where}: {why}; {kept}") from error
    return str(address)
