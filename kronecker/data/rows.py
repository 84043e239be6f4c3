"""Batches of a prepared dataset: batch = f(dataset fingerprint, seed, step), on any number of hosts.

A prepared split is one stream of token ids, each document followed by the end-of-text id.  It is stored as records of
`tokens_per_record` ids that know nothing of the training sequence: row i of length T + 1 is stream[i*T : i*T + T + 1],
found by arithmetic, so neighbours share one token and every token is predicted once.

Shapes: B sequences a global batch, T tokens predicted a sequence, b = B / hosts.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grain
import numpy as np
from etils import epath

from kronecker.data.stream import Stream

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

# Two threads hide reads and disk behind the step; on local files each further one costs speed, by the interpreter lock.
READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset on disk.

    Attributes:
      folder: holds manifest.json, TFDS' metadata and the array_record shards.
      manifest: what data preparation wrote.
      fingerprint: sha256 over all that decides the ids and their order.
      location: where another process finds the dataset: `folder` from the root, or what `folder` is a copy of.
    """

    folder: epath.Path
    manifest: dict[str, Any] = dataclasses.field(repr=False)
    fingerprint: str
    location: epath.Path

    def tokens(self, split: str) -> int:
        """Returns the number of ids in a split's stream."""
        return self.manifest["splits"][split]["tokens"]


def open_prepared(folder: epath.PathLike) -> Prepared:
    """Returns the dataset in `folder`, in a time that does not depend on the number of its tokens.

    The manifest is read and held to its own fingerprint, and each shard's size, which is asked for but not read, to the
    manifest's: a shard that is missing, cut off, or of another size is found here.  Bytes changed within a shard of the
    right size are found when the record they lie in is read, by array_record's own hash of each record; a shard
    replaced by a whole one of the same size is found by `verify` alone.  A dataset prepared before sizes were noted is
    verified in full.

    Args:
      folder: a folder of this machine's that data preparation finished; `prepare.open_folder` also takes a remote one.

    Raises:
      FileNotFoundError: if there is no manifest or a shard is missing.
      ValueError: if the manifest cannot be read or was edited, or a shard does not have its size.
    """
    folder = epath.Path(folder)
    manifest = read_manifest(folder)
    prepared = Prepared(folder, manifest, manifest["fingerprint"], folder.resolve())
    _for_each_shard(prepared, _check_size)
    return prepared


def read_manifest(folder: epath.Path) -> dict[str, Any]:
    """Returns the manifest in `folder`, which may be remote.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it cannot be read, was edited, or is of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; prepare the data with scripts/prepare_data.py")
    try:
        manifest = json.loads(path.read_text())
        version, fingerprint = manifest["version"], manifest["fingerprint"]
        intact = version != MANIFEST_VERSION or fingerprint == content_fingerprint(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest ({error!r}); delete {folder} and prepare the data again") from error
    if version != MANIFEST_VERSION:
        raise ValueError(f"{path} has version {version}, this code reads {MANIFEST_VERSION}; prepare the data again")
    if not intact:
        raise ValueError(f"{path} was changed after it was written; delete {folder} and prepare the data again")
    return manifest


def shards_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what a manifest says of each shard of all splits."""
    return list(itertools.chain.from_iterable(split["shards"] for split in manifest["splits"].values()))


def verify(prepared: Prepared) -> int:
    """Reads every shard once, compares its sha256 with the manifest's, and returns the number of bytes read.

    Raises:
      FileNotFoundError: if a shard is missing.
      ValueError: if a shard's sha256 is off.
    """
    return sum(_for_each_shard(prepared, _check_sha256))


def content_fingerprint(manifest: dict[str, Any]) -> str:
    """Returns the sha256 over what decides the ids and their order; paths, names and counts of text do not."""
    content = {
        "tokenizer": manifest["tokenizer"]["fingerprint"],
        "dtype": manifest["dtype"],
        "tokens_per_record": manifest["tokens_per_record"],
        "splits": {
            name: {"tokens": split["tokens"], "shards": [shard["sha256"] for shard in split["shards"]]}
            for name, split in manifest["splits"].items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _for_each_shard(prepared: Prepared, check: Callable[[epath.Path, dict[str, Any]], int]) -> list[int]:
    shards = shards_of(prepared.manifest)
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda shard: check(prepared.folder / shard["file"], shard), shards))


def _check_size(path: epath.Path, shard: dict[str, Any]) -> int:
    if "size" not in shard:
        return _check_sha256(path, shard)
    try:
        size = path.stat().length
    except FileNotFoundError as error:
        raise FileNotFoundError(_missing(path)) from error
    if size != shard["size"]:
        raise ValueError(
            f"{path} is damaged: it has {size:,} bytes, the manifest says {shard['size']:,}; "
            f"delete {path.parent} and prepare the data again"
        )
    return size


def _check_sha256(path: epath.Path, shard: dict[str, Any]) -> int:
    if not path.exists():
        raise FileNotFoundError(_missing(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard["sha256"]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {digest[:12]}, the manifest's {shard['sha256'][:12]}; "
            f"delete {path.parent} and prepare the data again"
        )
    return path.stat().length


def _missing(path: epath.Path) -> str:
    return f"{path} does not exist; delete {path.parent} and prepare the data again"


@dataclasses.dataclass(frozen=True)
class Rows:
    """The whole rows of a stream, T + 1 ids each: a random-access source; what is left of a last row is not in it."""

    stream: Stream
    sequence: int

    def __len__(self) -> int:
        return max(len(self.stream) - 1, 0) // self.sequence

    def __getitem__(self, row: int) -> np.ndarray:
        return self.stream.read(row * self.sequence, (row + 1) * self.sequence + 1)

    def __getitems__(self, rows: np.ndarray) -> np.ndarray:
        return self.stream.read_rows([row * self.sequence for row in rows.tolist()], self.sequence + 1)


def train_batches(
    prepared: Prepared,
    sequence: int,
    batch: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[np.ndarray]:
    """Returns this host's training batches, int32 (b, T + 1), without end, from `start_step` on.

    Every epoch visits every row once, in an order of its own.  The hosts' batches of a step, joined in the order of the
    hosts, are the batch of one host.  Reading runs ahead in threads, never in worker processes: the number of those
    would change the order.

    Args:
      prepared: the dataset.
      sequence: T.
      batch: B, over all hosts.
      seed: of the order.
      start_step: the first step to yield; starting costs the same at every step.
      process_index: this host.
      process_count: hosts.

    Raises:
      ValueError: if the hosts cannot share a batch equally, or the split is shorter than one sequence.
    """
    local = _local_batch(batch, process_count)
    rows = Rows(Stream(prepared, "train"), sequence)
    if not len(rows):
        raise ValueError(
            f"{prepared.folder}: the train split has {len(rows.stream):,} tokens; train.sequence = {sequence:,} needs "
            f"{sequence + 1:,}; lower train.sequence or prepare more text"
        )
    # Shuffling row numbers and reading a batch of rows at a time doubles the speed of shuffling a source of rows.
    order = grain.MapDataset.range(len(rows)).seed(seed).shuffle().repeat()
    blocks = order.batch(local, drop_remainder=True)  # step k is blocks [k * hosts, (k + 1) * hosts)
    mine = blocks[start_step * process_count + process_index :: process_count]
    return iter(mine.map(rows.__getitems__).to_iter_dataset(READ_OPTIONS))


def validation_batches(
    prepared: Prepared,
    sequence: int,
    batch: int,
    sequences: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns this host's validation batches: tokens int32 (b, T + 1) and weights float32 (b, T) of the predictions.

    Every held-out token but the stream's first is predicted once, with weight 1; what pads the last row and the last
    batch has weight 0.  All hosts yield the same number of batches.

    Args:
      prepared: the dataset.
      sequence: T.
      batch: B, over all hosts.
      sequences: only the first so many rows; 0: all.
      process_index: this host.
      process_count: hosts.

    Raises:
      ValueError: if the hosts cannot share a batch equally, or there is no token to predict.
    """
    local = _local_batch(batch, process_count)
    stream = Stream(prepared, "validation")
    if len(stream) < 2:
        raise ValueError(
            f"{prepared.folder}: the validation split has {len(stream)} tokens, 2 are needed; "
            "raise data.validation_fraction or prepare more text"
        )
    rows = -(-(len(stream) - 1) // sequence)
    rows = min(rows, sequences) if sequences else rows
    firsts = range(process_index * local, -(-rows // batch) * batch, batch)
    return (_validation_batch(stream, range(first, first + local), rows, sequence) for first in firsts)


def _validation_batch(stream: Stream, block: range, rows: int, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(block), sequence + 1), np.int32)
    weights = np.zeros((len(block), sequence), np.float32)
    for i, row in enumerate(block):
        if row < rows:
            ids = stream.read(row * sequence, min((row + 1) * sequence + 1, len(stream)))
            tokens[i, : len(ids)] = ids
            weights[i, : len(ids) - 1] = 1
    return tokens, weights


def _local_batch(batch: int, process_count: int) -> int:
    if batch % process_count:
        raise ValueError(f"a batch of {batch} sequences does not divide by {process_count} hosts; use a multiple")
    return batch // process_count
