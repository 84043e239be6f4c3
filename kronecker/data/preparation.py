"""Prepares text: writes a TFDS dataset of token ids in array_record files, with a manifest, without TensorFlow.

The documents of a split, each followed by the end-of-text id, form one stream of ids.  Work is divided into segments,
which are sequences of complete files that processes share, and segments into parts, which are sequences of documents
whose ids fill one shard.  Their ends depend only on text and tokenizer, so the number of workers and processes does not
change the files, and a restart resumes after the last complete part.

Threads tokenise, because both libraries release the interpreter lock; the main thread reads, decompresses and writes.
Memory use does not depend on the size of the source: it holds one shard and the batches of the threads.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import rich.console
import rich.progress
from etils import epath

from kronecker import tokenization
from kronecker.data import manifests, readers, remote, segments, shards, sources
from kronecker.runtime import locks, printing, storage

SHARD_TOKENS = 1 << 25  # a part ends when a split has this many
BATCH_CHARACTERS = 1 << 20  # of the documents that a thread tokenises at a time
BATCH_DOCUMENTS = 1 << 16  # read for it at most, so that empty ones are also seen in the progress
BATCHES_AHEAD = 4  # per worker, so that threads have work while a shard is written
BPE_BYTES = 64_000_000  # a bpe:SIZE tokenizer is trained on the first bytes of the training text
PREPARED = "prepared:"  # data.source=prepared:FOLDER: a dataset that was prepared before
BPE_FILE = "tokenizer.json"
SECONDS_BETWEEN_LINES = 10.0


class _Batch(NamedTuple):
    documents: list[readers.Document]
    end: tuple[int, int]  # unit and document of the next batch
    share: float  # of the source before `end`


def ensure_prepared(
    config: ml_collections.ConfigDict, shard_tokens: int = SHARD_TOKENS, segment_bytes: int = segments.SEGMENT_BYTES
) -> tuple[manifests.Prepared, tokenization.Tokenizer]:
    """Returns the prepared dataset of a resolved config and its tokenizer; prepares the dataset if it is missing.

    The name of the folder below data.folder depends on everything that decides its content, so a changed config gets
    another folder.  For a remote data.folder the dataset is made on the local disk, uploaded, and read from the local
    copy.  Processes that need the same folder, on one machine or on several with a shared disk, share the segments and
    finish those of killed ones; all return when the dataset is complete.  It is then checked as in `open_folder`.  A
    shard ends at `shard_tokens` or with its segment; a segment ends with the file that brings it to `segment_bytes`.

    Raises ValueError if source, fields or tokenizer do not fit, a split is empty, or a shard has changed its size;
    OSError if a file is missing or cannot be written, as on a full disk.
    """
    if config.data.source.startswith(PREPARED):
        found = storage.open_path(config.data.source.removeprefix(PREPARED), "data.source=prepared")
        return open_folder(found.expanduser(), config.tokenizer, end_of_text=config.data.end_of_text)
    root = storage.open_path(config.data.folder, "data.folder").expanduser()
    config = config.copy_and_resolve_references()
    if storage.is_remote(root):  # downloads and the new dataset are written to the local disk first
        config.data.folder = str(remote.cache() / "preparing")
    source = sources.open_source(config.data)
    bpe_size = tokenization.bpe_size(config.tokenizer)
    tokenizer = None if bpe_size else tokenization.load(config.tokenizer, config.data.end_of_text)
    if tokenizer:
        tokenizer.check_trainable()
    content = {
        "version": manifests.MANIFEST_VERSION,
        "source": source.identity,
        "fields": [config.data.text_field, config.data.split_field],
        "validation_fraction": config.data.validation_fraction,
        "tokenizer": tokenizer.fingerprint if tokenizer else [bpe_size, BPE_BYTES],
        "shard_tokens": shard_tokens,
    }
    label = tokenizer.name if tokenizer else f"bpe{bpe_size}"
    pieces = segments.cut(source.units, segment_bytes)
    if len(pieces) > 1:
        content["segment_bytes"] = segment_bytes
    name = f"{_slug(source.name)}-{_slug(label)}-{manifests.sha256(content)[:8]}"
    folder = storage.at_home(config.data.folder) / name
    if not (root / name / manifests.MANIFEST).exists():
        with display(f"reading {source.name}") as show:
            source.fetch(lambda done, total: show(done / total, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"))
        if source.left_out:
            printing.say(f"{source.name}: {source.left_out:,} further names of its files, by links, are left out")
        if not any(document.text for unit in source.units for document in unit.read(0)):  # before anything is written
            raise ValueError(
                f"data.source={config.data.source} contains no text; set another data.source or data.text_field"
            )
        own = folder.with_name(f".{name}.lock")
        while not ((folder / manifests.MANIFEST).exists() or (root / name / manifests.MANIFEST).exists()):
            with locks.locked(own):
                folder.mkdir(exist_ok=True)
                if bpe_size:
                    _train_bpe(bpe_size, source, folder / BPE_FILE, config.data)
                    tokenizer = _load_bpe(folder, label, config.data.end_of_text)
            job = shards.Job(source, tokenizer, folder, config)
            _prepare(job, pieces, shard_tokens, own.with_suffix(".locks"))
            with locks.locked(own):
                _finish(job, len(pieces))
        if storage.is_remote(root):
            with locks.locked(own), display(f"uploading {name}") as show:
                if not (root / name / manifests.MANIFEST).exists():
                    remote.publish(folder, root / name, show)
    found = open_folder(root / name, config.tokenizer, None if bpe_size else tokenizer, config.data.end_of_text)
    if (theirs := found[0].manifest["name"]) != name:
        raise ValueError(f"{root / name}: holds {theirs}, of another text, tokenizer or field; give it back its name")
    return found


def open_folder(
    folder: epath.Path, spec: str, tokenizer: tokenization.Tokenizer | None = None, end_of_text: str = ""
) -> tuple[manifests.Prepared, tokenization.Tokenizer]:
    """Returns a dataset that was prepared before, on any machine, and its tokenizer; the text is not needed.

    A remote folder is opened as a local copy, which is made if missing.  `spec` names the tokenizer of the dataset,
    `end_of_text` its token between documents if it is not found by name; `tokenizer` is the same, if already loaded.

    Raises FileNotFoundError if the manifest or a shard is missing; ValueError if a shard is damaged, or the tokenizer
    is not the dataset's.
    """
    if storage.is_remote(folder):
        with display(f"downloading {folder.name}") as show:
            prepared = manifests.open_prepared(remote.fetch(folder, show))
        prepared = dataclasses.replace(prepared, location=folder)
    else:
        prepared = manifests.open_prepared(folder)
    stored, bpe_size = prepared.manifest["tokenizer"], tokenization.bpe_size(spec)
    if tokenizer is None:
        if bpe_size:
            tokenizer = _load_bpe(prepared.folder, f"bpe{bpe_size}", end_of_text)
        else:
            tokenizer = tokenization.load(spec, end_of_text)
    # What bpe:SIZE names is the file beside the shards, whatever the size.
    if tokenizer.fingerprint != stored["fingerprint"] or bpe_size not in (0, tokenization.bpe_size(stored["spec"])):
        raise ValueError(
            f"{folder} was prepared with another tokenizer ({stored['spec']}) than the one given ({spec}); "
            f"set --config.tokenizer={stored['spec']} and data.end_of_text as then, or delete the folder if the "
            "tokenizer's file was changed"
        )
    return prepared, tokenizer


def _train_bpe(size: int, source: sources.Source, file: pathlib.Path, data: ml_collections.ConfigDict) -> None:
    if not file.exists():
        printing.say(f"training a BPE of {size:,} ids on {source.name}")
        with shards.writing(file) as unfinished:
            texts = sources.training_texts(source, data.validation_fraction, BPE_BYTES)
            tokenization.train_bpe(texts, size, unfinished)
            _check_unchanged(source, data, file.parent)


def _load_bpe(folder: epath.PathLike, label: str, end_of_text: str) -> tokenization.Tokenizer:
    loaded = tokenization.load(f"tokenizers:{pathlib.Path(folder) / BPE_FILE}", end_of_text)
    return dataclasses.replace(loaded, name=label)


def _prepare(job: shards.Job, pieces: Sequence[range], shard_tokens: int, claims: pathlib.Path) -> None:
    """Prepares the segments that no other process prepares; returns when all are finished."""
    config = job.config.data
    workers = config.workers or os.cpu_count() or 1
    dtype = job.features["tokens"].np_dtype
    encode = functools.partial(_encode, tokenizer=job.tokenizer, fraction=config.validation_fraction, dtype=dtype)
    pool = concurrent.futures.ThreadPoolExecutor(workers, "tokenise")
    try:
        with display(f"tokenising {job.source.name}") as show:
            for number in segments.claims(claims, len(pieces)):
                if shards.is_finished(job.folder, number) or (job.folder / manifests.MANIFEST).exists():
                    continue
                parts = shards.finished_parts(job.folder, number)
                start = tuple(parts[-1]["end"]) if parts else (pieces[number].start, 0)
                to_encode = batches(job.source.units, start, pieces[number].stop)
                encoded = _in_order(pool, encode, to_encode, workers * BATCHES_AHEAD)
                count = len(parts)
                for part in _parts(encoded, shard_tokens, show):
                    _check_unchanged(job.source, config, job.folder)
                    shards.write_part(job, (number, count), *part)
                    count += 1
                shards.finish_segment(job.folder, number, count)
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(job: shards.Job, count: int) -> None:
    """Makes a dataset of the finished segments, unless another process has made it, or has deleted them as invalid."""
    if (job.folder / manifests.MANIFEST).exists() or not all(shards.is_finished(job.folder, n) for n in range(count)):
        return
    parts = shards.all_parts(job.folder, count)
    _check_splits(parts.values(), job.folder, job.config.data)
    shards.finish(job, parts)


def _check_unchanged(source: sources.Source, data: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    sources.check_unchanged(source, data, f", and delete {folder}, the unfinished dataset of the text before")


def batches(units: Sequence[sources.Unit], start: tuple[int, int], stop: int) -> Iterator[_Batch]:
    """Yields the documents from `start` = (unit, document) to the end of the unit before `stop`."""
    first, skip = start
    total = sum(unit.size for unit in units) or 1
    before = sum(unit.size for unit in units[:first])
    documents, characters, read, end, share = [], 0, 0, start, 0.0
    for index, unit in enumerate(units[first:stop], first):
        for number, document in enumerate(unit.read(skip), skip + 1):
            if document.text:
                documents.append(document)
            characters += len(document.text)
            read += 1
            end, share = (index, number), (before + document.share * unit.size) / total
            if characters >= BATCH_CHARACTERS or read == BATCH_DOCUMENTS:
                yield _Batch(documents, end, share)
                documents, characters, read = [], 0, 0
        skip = 0
        before += unit.size
    if read:
        yield _Batch(documents, end, share)


def _encode(
    batch: _Batch, tokenizer: tokenization.Tokenizer, fraction: float, dtype: np.dtype
) -> tuple[_Batch, dict[str, shards.Stream]]:
    chosen: dict[str, list[tuple[readers.Document, bytes]]] = {split: [] for split in manifests.SPLITS}
    for document in batch.documents:
        content = document.text.encode()
        split = document.split or manifests.SPLITS[sources.held_out(content, fraction)]
        chosen[split].append((document, content))
    streams = {split: encode_split(documents, tokenizer, dtype) for split, documents in chosen.items()}
    return batch._replace(documents=[]), streams


def encode_split(
    documents: list[tuple[readers.Document, bytes]], tokenizer: tokenization.Tokenizer, dtype: np.dtype
) -> shards.Stream:
    """Returns the ids of documents, each followed by end-of-text; raises ValueError if they do not keep the text."""
    if not documents:
        return shards.Stream(np.zeros(0, dtype), 0, 0, 0, 0)
    try:
        of_documents = tokenizer.encode_batch([document.text for document, _ in documents], 1)
    except ValueError:
        of_documents = [_named(document, tokenizer.encode_batch, [document.text], 1)[0] for document, _ in documents]
    sizes = np.fromiter((len(content) for _, content in documents), np.int64)
    counts = np.fromiter(map(len, of_documents), np.int64)
    ends, ids = np.cumsum(counts), np.concatenate(of_documents)
    encoded, changed = int(sizes.sum()), 0
    # All at once, which is quick; only where that fails, one by one.
    kept = counts.all() and np.array_equal(np.add.reduceat(tokenizer.text_bytes.take(ids), ends - counts), sizes)
    if not kept or tokenizer.decode(ids) != b"".join(content for _, content in documents):
        encoded = 0
        for (document, content), its_ids in zip(documents, of_documents, strict=True):
            encoded += _named(document, tokenizer.check_kept, document.text, its_ids)
            changed += _changed_bytes(content, tokenizer.decode(its_ids))
    ids = np.insert(ids.astype(dtype), ends, tokenizer.eot_id)
    return shards.Stream(ids, len(documents), int(sizes.sum()), encoded, changed)


def _named(document: readers.Document, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{document.where}: {error}") from error


def _changed_bytes(text: bytes, encoded: bytes) -> int:
    """Returns how many bytes of the text are missing in what is encoded, or are added there, whichever is more."""
    counts = [np.bincount(np.frombuffer(part, np.uint8), minlength=256) for part in (text, encoded)]
    difference = counts[0] - counts[1]
    return int(max(difference.clip(0).sum(), (-difference).clip(0).sum()))


def _in_order(
    pool: concurrent.futures.Executor, function: Callable[[_Batch], Any], batches: Iterable[_Batch], ahead: int
) -> Iterator[Any]:
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    for batch in batches:
        pending.append(pool.submit(function, batch))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _parts(
    encoded: Iterable[tuple[_Batch, dict[str, shards.Stream]]], shard_tokens: int, show: remote.Show
) -> Iterator[tuple[tuple[int, int], dict[str, shards.Stream]]]:
    pieces: dict[str, list[shards.Stream]] = {split: [] for split in manifests.SPLITS}
    tokens, started, done, end = collections.Counter(), time.monotonic(), 0, None
    for batch, streams in encoded:
        end = batch.end
        for split, stream in streams.items():
            pieces[split].append(stream)
            tokens[split] += stream.ids.size
            done += stream.ids.size
        show(batch.share, f"{done / 1e6:,.1f}M tokens, {done / 1e6 / (time.monotonic() - started):.2f}M tokens/s")
        if max(tokens.values()) >= shard_tokens:
            yield end, {split: _joined(found) for split, found in pieces.items()}
            pieces, end = {split: [] for split in manifests.SPLITS}, None
            tokens.clear()
    if end is not None:
        yield end, {split: _joined(found) for split, found in pieces.items()}


def _joined(pieces: list[shards.Stream]) -> shards.Stream:
    ids, *counts = zip(*pieces, strict=True)
    return shards.Stream(np.concatenate(ids), *map(sum, counts))


def _check_splits(parts: Iterable[dict[str, Any]], folder: pathlib.Path, data: ml_collections.ConfigDict) -> None:
    found = [part["splits"] for part in parts]
    count = {split: sum(part[split]["documents"] for part in found) for split in manifests.SPLITS}
    more = "cut the text into more files: each is one document" if data.source.startswith("text:") else "add documents"
    if not count["train"]:
        lacking, change = "train", "lower"
        fault = f"has no training text, all of its {count['validation']} documents are held out"
    elif not count["validation"] and (data.split_field or data.validation_fraction):
        lacking, change = "validation", "raise"
        fault = f"has no validation text among {count['train']} documents"
    else:
        return
    shutil.rmtree(folder)
    remedy = f"{change} data.validation_fraction (now {data.validation_fraction}) or {more}"
    if data.split_field:
        remedy = f'set the field {data.split_field!r} of some to "{lacking}"'
    raise ValueError(f"data.source={data.source} {fault}; {remedy}")


@contextlib.contextmanager
def display(title: str) -> Iterator[remote.Show]:
    """Yields a function that shows progress: a live line on a terminal, otherwise a line every few seconds."""
    if sys.stderr.isatty():
        columns = (*rich.progress.Progress.get_default_columns(), rich.progress.TextColumn("{task.fields[words]}"))
        with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
            task = bar.add_task(title, total=1.0, words="")
            yield lambda share, words: bar.update(task, completed=share, words=words)
        return
    shown = time.monotonic()

    def show(share: float, words: str) -> None:
        nonlocal shown
        if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            printing.say(f"{title}: {share:.0%}, {words}")

    yield show


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")[:60]
