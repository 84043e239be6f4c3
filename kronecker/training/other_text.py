"""A run's loss on a text that it was not trained for, as a whole and by document, in a file of its folder.

The text becomes one stream of ids, as in preparation: its documents in order, each followed by end-of-text.  As in
validation, the stream is cut into rows of train.sequence predictions without overlap.  So the first token of a row has
one token of context, the last one has train.sequence of them, and a document begins in the context of the one before
it.  The first token of all is not predicted.

Shapes: N predictions, D documents.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from kronecker.data import preparation, readers, rows, sources
from kronecker.run import finished_runs, rundir
from kronecker.runtime import storage
from kronecker.training import checksums, evaluation, restore, token_losses

MOST_DOCUMENTS = 1_000_000  # the file has three numbers for each
LONGEST_NAME = 150  # bytes of a file's name; a disk takes 255, and temporary names are longer
FLAGS = {"data.source": "--data", "data.text_field": "--text_field", "data.split_field": "--split_field"}


def require_finished(workdir: epath.PathLike) -> None:
    """Raises ValueError for a run that has not finished, whose folder gets no losses on other text."""
    folder = storage.open_path(workdir, "--workdir")
    if finished_runs.is_run(folder):  # else `restore.open_run` says what it is
        finished_runs.require_finished(folder)


def data_of(
    config: ml_collections.ConfigDict, source: str, text_field: str, split_field: str
) -> ml_collections.ConfigDict:
    """Returns the data keys of a run, of another source and its fields."""
    data = ml_collections.ConfigDict(config.data.to_dict())
    data.update(source=source, text_field=text_field, split_field=split_field)
    return data


def write(
    workdir: epath.PathLike, run: restore.Restored, data: ml_collections.ConfigDict, name: str = "", out: str = ""
) -> tuple[dict[str, Any], str]:
    """Evaluates a run on a text; writes the losses to `out`, or into its folder by the text's name; returns both.

    `data` is as of `data_of`; with a split_field, its validation documents alone are the text.  The file has `loss` in
    nats per token, `bits_per_byte`, `predicted_tokens`, `text_bytes`, `documents`, `by_document` with `nats`, `tokens`
    and `bytes`, (D,) each, and whose they are.  The name is made from the source by default.

    Raises ValueError, which names the flags of eval.py, and OSError if there is no such text, it cannot be read, or the
    folder has the losses on another text by that name.
    """
    folder = storage.open_path(workdir, "--workdir")
    with _flags_named():
        source = sources.open_source(data)
    of_text = {"name": name or source.name, **{key: data[key] for key in ("source", "text_field", "split_field")}}
    path = storage.open_path(out, "--out") if out else folder / rundir.TEXTS / f"{of_text['name']}.json"
    sources.check_apart(source, path)
    if len(path.name.encode()) > LONGEST_NAME:
        raise ValueError(f"{path.name}: more than {LONGEST_NAME} bytes; give the text a shorter name with --name")
    before = {} if out else rundir.read_json(path) or {}
    if any(before.get(key, value) != value for key, value in of_text.items()):
        raise ValueError(
            f"{path}: holds losses on {before.get('source')}; give this text another name with --name, or "
            "delete the file"
        )
    evaluated = _evaluated(run, source, data)
    result = rundir.read_json(folder / rundir.RESULT, finished_runs.LOSSES | {"step": int}) or {}
    of_result = result.get("step") == run.step  # so that a run trained anew in this folder is recognised
    found = of_text | {"validation_loss": result["validation_loss"] if of_result else None} | evaluated
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, found)
    return found, str(path)


def _evaluated(run: restore.Restored, source: sources.Source, data: ml_collections.ConfigDict) -> dict[str, Any]:
    with preparation.display(f"evaluating {source.name}") as show:
        text = _Text(run, source, data, show)
        nats = _by_document(run, text)
    if not nats.size:
        kind = " of validation" if data.split_field else ""
        raise ValueError(
            f"--data={data.source}: it holds no text{kind} to predict; set --text_field to the field with the text"
            + (", or leave --split_field out for the whole text" if kind else "")
        )
    total, size = float(nats.sum()), float(sum(text.bytes))
    return {
        "sequence": run.config.train.sequence,
        "text_sha256": text.digest.hexdigest(),
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "checkpoint_sha256": hashlib.sha256(json.dumps(checksums.of(run.params), sort_keys=True).encode()).hexdigest(),
        "step": run.step,
        "loss": total / sum(text.tokens),
        "bits_per_byte": total / math.log(2) / size if size else None,
        "predicted_tokens": sum(text.tokens),
        "text_bytes": round(size),
        "documents": len(text.tokens),
        "by_document": {"nats": nats.round(6).tolist(), "tokens": text.tokens, "bytes": text.bytes},
    }


class _Text:
    """A text as batches of rows; counts its documents while these are read."""

    def __init__(
        self, run: restore.Restored, source: sources.Source, data: ml_collections.ConfigDict, show: Any
    ) -> None:
        self.tokens: list[int] = []  # (D,) predicted in each document
        self.bytes: list[int] = []  # (D,) that these stand for
        self.digest = hashlib.sha256()
        self._run, self._source, self._data, self._show = run, source, data, show

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields tokens and weights as `rows.validation_batches` does."""
        sequence = self._run.config.train.sequence
        batch = evaluation.batch_size(self._run.config, self._run.mesh)
        left = np.zeros(0, np.int32)
        for piece in self._pieces():
            left = np.concatenate([left, piece])
            while len(left) > batch * sequence:
                yield rows.padded(left[: batch * sequence + 1], batch, sequence)
                left = left[batch * sequence :]
        if len(left) > 1:
            yield rows.padded(left, batch, sequence)

    def _pieces(self) -> Iterator[np.ndarray]:
        tokenizer = self._run.tokenizer
        for documents in self._documents():
            stream = preparation.encode_split(documents, tokenizer, np.int32)
            ends = np.flatnonzero(stream.ids == tokenizer.eot_id) + 1
            self.tokens += np.diff(ends, prepend=0).tolist()
            if len(self.bytes) == len(documents):  # the first piece: its first token is not predicted
                self.tokens[0] -= 1
                self.bytes[0] -= int(tokenizer.text_bytes[stream.ids[0]])
            yield stream.ids

    def _documents(self) -> Iterator[list[tuple[readers.Document, bytes]]]:
        """Yields lists of documents that are tokenised together, each with its bytes."""
        self._source.fetch(lambda done, total: self._show(done / total, "downloading"))
        units, wanted = self._source.units, "validation" if self._data.split_field else ""
        with _flags_named():
            for batch in preparation.batches(units, (0, 0), len(units)):
                found = [(one, one.text.encode()) for one in batch.documents if wanted in ("", one.split)]
                if len(self.bytes) + len(found) > MOST_DOCUMENTS:
                    raise ValueError(
                        f"--data={self._data.source}: more than {MOST_DOCUMENTS:,} documents; give a part of them"
                    )
                for _, content in found:
                    self.bytes.append(len(content))
                    self.digest.update(len(content).to_bytes(8, "little") + content)
                self._show(batch.share, f"{len(self.bytes):,} documents")
                if found:
                    yield found


def _by_document(run: restore.Restored, text: _Text) -> np.ndarray:
    """Returns the sum of -log p of each document's tokens, float64 (D,)."""
    sums: list[float] = []
    document = 0
    for nats, inputs, _ in token_losses.by_token(run, text.batches()):
        documents_N = document + np.cumsum(inputs == run.tokenizer.eot_id)
        first, document = document, int(documents_N[-1])
        sums += [0.0] * (document + 1 - len(sums))
        for offset, value in enumerate(np.bincount(documents_N - first, nats.astype(np.float64)).tolist()):
            sums[first + offset] += value
    return np.array(sums)


@contextlib.contextmanager
def _flags_named() -> Iterator[None]:
    """Names the flags of eval.py in errors in place of config keys."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        for key, flag in FLAGS.items():
            text = text.replace(key, flag)
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(text) from error
