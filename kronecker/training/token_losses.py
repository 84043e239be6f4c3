"""The loss of every held-out token of a finished run, in the file token_losses.npz beside its result.

Breakdowns by frequency, length, script or shared code then need no model.

Shapes: N held-out predictions, in the order of the text; V padded vocabulary.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from etils import epath

from kronecker.data import rows, unigrams
from kronecker.embedding import bags
from kronecker.run import rundir
from kronecker.runtime import sharding, storage
from kronecker.tokenization import writing_systems
from kronecker.training import evaluation, restore, train_step

COUNTED_TOKENS = 2**24  # a sample of this size ranks ids by frequency well enough


def write(workdir: epath.PathLike, validation_loss: float) -> dict[str, np.ndarray]:
    """Evaluates a run's last checkpoint on every held-out token; writes and returns token_losses.npz.

    Its arrays: `nats` float32 (N,), -log p of each target; `inputs` and `targets` int32 (N,), the previous id and the
    target; `text_bytes`, the number of bytes of text that the targets stand for; `step` and `data_fingerprint`;
    `validation_loss`, that of its result; and for each id, (V,): `train_count`, its occurrences in a sample of the
    training text; `bytes`, the number of its raw bytes; `special`; `after_space`, whether these start with a space;
    `script`, an index into `scripts`; `code_group`, equal for ids with the same code in this run, else -1.

    Raises FileNotFoundError if there is no run; ValueError as `restore.open_run` does.
    """
    workdir = storage.open_path(workdir, "--workdir")
    run = restore.open_run(workdir)
    losses = _losses(run)
    text_bytes = run.tokenizer.text_bytes[losses["targets"]].sum() * run.prepared.text_share("validation")
    arrays = losses | {
        "text_bytes": np.array(round(text_bytes)),
        "step": np.array(run.step),
        "data_fingerprint": np.array(run.prepared.fingerprint),
        "validation_loss": np.array(validation_loss, np.float64),
        **_vocabulary(run),
    }
    with storage.writing(workdir / rundir.TOKEN_LOSSES) as file:
        np.savez_compressed(file, **arrays)
    return arrays


def by_token(
    run: restore.Restored, batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields -log p of each prediction of a batch, its input and its target, in order, without those of weight 0.

    `batches` are as of `rows.validation_batches`, of the size `evaluation.batch_size`.
    """
    token_nats = jax.jit(
        functools.partial(train_step.token_nats, run.arm.model, chunk=run.config.train.loss_chunk),
        out_shardings=sharding.split_batch(run.mesh),
    )
    for tokens, weights in batches:
        counted = weights > 0
        found = jax.device_get(token_nats(run.params, run.arm.bag, sharding.to_devices(tokens, run.mesh)))
        yield found[counted], tokens[:, :-1][counted], tokens[:, 1:][counted]


def _losses(run: restore.Restored) -> dict[str, np.ndarray]:
    batch = evaluation.batch_size(run.config, run.mesh)
    found = by_token(run, rows.validation_batches(run.prepared, run.config.train.sequence, batch))
    nats, inputs, targets = map(np.concatenate, zip(*found, strict=True))
    return {"nats": nats.astype(np.float32), "inputs": inputs, "targets": targets}


def _vocabulary(run: restore.Restored) -> dict[str, np.ndarray]:
    padded = run.config.model.padded_vocab
    token_bytes = [token or b"" for token in run.tokenizer.token_bytes]
    token_bytes += [b""] * (padded - len(token_bytes))
    special = np.zeros(padded, bool)
    special[list(run.tokenizer.special_ids)] = True
    scripts, script = np.unique([writing_systems.script(token) for token in token_bytes], return_inverse=True)
    return {
        "train_count": unigrams.sampled(run.prepared, "train", padded, COUNTED_TOKENS),
        "bytes": np.array([len(token) for token in token_bytes], np.int32),
        "special": special,
        "after_space": np.array([token.startswith(b" ") for token in token_bytes]),
        "script": script.astype(np.int32),
        "scripts": scripts,
        "code_group": np.full(padded, -1, np.int32) if run.arm.bag is None else bags.shared_code(run.arm.bag),
    }
