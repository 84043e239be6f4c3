"""Batches of a prepared dataset: batch = f(dataset fingerprint, seed, step), on any number of hosts.

A prepared split is one stream of token ids, each document followed by the end-of-text id.  It is stored as records of
`tokens_per_record` ids that know nothing of the training sequence: row i of length T + 1 is stream[i*T : i*T + T + 1],
found by arithmetic, so neighbours share one token and every token is predicted once.

Shapes: B sequences a global batch, T tokens predicted a sequence, b = B / hosts.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grain
import numpy as np
from array_record.python import array_record_data_source
from etils import epath

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
    """

    folder: epath.Path
    manifest: dict[str, Any] = dataclasses.field(repr=False)
    fingerprint: str

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
      folder: a folder that data preparation finished.

    Raises:
      FileNotFoundError: if there is no manifest or a shard is missing.
      ValueError: if the manifest cannot be read or was edited, or a shard does not have its size.
    """
    folder = epath.Path(folder)
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
    prepared = Prepared(folder, manifest, fingerprint)
    _for_each_shard(prepared, _check_size)
    return prepared


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
    shards = itertools.chain.from_iterable(split["shards"] for split in prepared.manifest["splits"].values())
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


class Stream:
    """A split's token stream: its shards' tokens, one after another, with random access."""

    def __init__(self, prepared: Prepared, split: str):
        manifest = prepared.manifest
        shards = [shard for shard in manifest["splits"][split]["shards"] if shard["tokens"]]
        self._dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self._per_record = manifest["tokens_per_record"]
        self._header = _example_header(self._per_record * self._dtype.itemsize)
        self._folder = prepared.folder
        self._shard_ends = list(itertools.accumulate(shard["tokens"] for shard in shards))
        self._shard_starts = [0, *self._shard_ends]
        self._first_records = [0, *itertools.accumulate(shard["records"] for shard in shards)]
        # The suffix saves opening every shard to count its records.
        self._files = [shard["file"] for shard in shards]
        paths = [f"{prepared.folder / shard['file']}[0:{shard['records']}]" for shard in shards]
        self._records = array_record_data_source.ArrayRecordDataSource(paths) if paths else []

    def __len__(self) -> int:
        return self._shard_starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns stream[start:stop] as int32; `stop` may not exceed the stream's length.

        Raises:
          ValueError: if a record was damaged, or is of another size than the manifest says.
        """
        pieces = []
        while start < stop:
            shard = bisect.bisect_right(self._shard_ends, start)
            record, offset = divmod(start - self._shard_starts[shard], self._per_record)
            count = min(stop - start, self._per_record - offset, self._shard_ends[shard] - start)
            pieces.append(self._record(shard, record)[offset : offset + count])
            start += count
        return np.concatenate(pieces, dtype=np.int32)

    def _record(self, shard: int, record: int) -> np.ndarray:
        try:
            example = self._records[self._first_records[shard] + record]
        except RuntimeError as error:  # array_record's, a hash that does not fit included
            raise ValueError(
                f"{self._folder / self._files[shard]}: record {record} cannot be read ({error}); the file was damaged "
                "after training began or keeps its size: scripts/prepare_data.py --verify says which files are; "
                "delete the folder and prepare the data again"
            ) from error
        if not example.startswith(self._header):
            raise ValueError(
                f"{self._folder / self._files[shard]}: record {record} does not hold {self._per_record} ids; "
                "prepare the data again"
            )
        return np.frombuffer(example, self._dtype, self._per_record, len(self._header))


def _example_header(payload: int) -> bytes:
    """Returns what precedes the payload in a tf.train.Example of one bytes feature, `tokens`.

    Every record's payload has one size, so the bytes around it never vary and comparing them parses the message:
    Example.features(1) > Features.feature(1) > key(1), value(2) > Feature.bytes_list(1) > BytesList.value(1).
    """

    def field(number: int, inner: bytes) -> bytes:
        tag_of_length_delimited = number << 3 | 2
        return bytes([tag_of_length_delimited]) + _varint(len(inner) + payload) + inner

    key = b"\x0a\x06tokens"
    return field(1, field(1, key + field(2, field(1, field(1, b"")))))


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


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
        return np.stack([self[row] for row in rows.tolist()])


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
