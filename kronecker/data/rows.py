"""Batches of a prepared dataset: batch = f(dataset fingerprint, seed, step), on any number of hosts.

A prepared split is one stream of token ids, each document followed by the end-of-text id.  It is stored as records of
`tokens_per_record` ids that know nothing of the training sequence: row i of length T + 1 is stream[i*T : i*T + T + 1],
found by arithmetic, so neighbours share one token and every token is predicted once.

Shapes: B sequences a global batch, T tokens predicted a sequence, b = B / hosts.
"""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np

from kronecker.data import manifests
from kronecker.data.stream import Stream

# Two threads hide reads and disk behind the step; on local files each further one costs speed, by the interpreter lock.
READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


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
    prepared: manifests.Prepared,
    sequence: int,
    batch: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[np.ndarray]:
    """Returns this host's training batches, int32 (b, T + 1), without end, from `start_step` on.

    Every epoch visits every row once, in an order of its own, by `seed`.  The hosts' batches of a step, joined in the
    order of the hosts, are the batch of one host.  Reading runs ahead in threads, never in worker processes: the number
    of those would change the order.  `batch` is B, over all hosts; starting costs the same at every step.

    Raises ValueError if the hosts cannot share a batch equally, or the split is shorter than one sequence.
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
    prepared: manifests.Prepared,
    sequence: int,
    batch: int,
    sequences: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns this host's validation batches: tokens int32 (b, T + 1) and weights float32 (b, T) of the predictions.

    Every held-out token but the stream's first is predicted once, with weight 1; what pads the last row and the last
    batch has weight 0.  All hosts yield the same number of batches, of the first `sequences` rows; 0: of all.

    Raises ValueError if the hosts cannot share a batch equally, or there is no token to predict.
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
