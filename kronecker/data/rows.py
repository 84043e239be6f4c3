"""Batches of a prepared dataset: batch = f(dataset fingerprint, seed, step), on any number of hosts.

A prepared split is one stream of token ids, each document followed by the end-of-text id.  Its records of
`tokens_per_record` ids do not depend on the training sequence: row i, of length T + 1, is stream[i*T : i*T + T + 1].
So adjacent rows share one token, and every token is predicted once.

Shapes: B sequences in a global batch, T tokens predicted per sequence, b = B / hosts.
"""

from collections.abc import Iterator

import grain
import numpy as np

from kronecker.data import manifests
from kronecker.data.stream import Stream

# Two threads hide reading behind the step; with local files more threads are slower, due to the interpreter lock.
READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def train_batches(
    prepared: manifests.Prepared,
    sequence: int,
    batch: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[np.ndarray]:
    """Returns an endless iterator of this host's training batches, int32 (b, T + 1), from `start_step` on.

    Every epoch visits every row once, in a new order that `seed` decides.  The batches of all hosts, concatenated, are
    the batch of a single host.  Threads read ahead, not worker processes, whose number would change the order.
    `batch` is B, over all hosts; a start at any step takes the same time.

    Raises ValueError if B is not divisible by the hosts, or the split is shorter than one sequence.
    """
    local = _local_batch(batch, process_count)
    stream = Stream(prepared, "train")
    if len(stream) <= sequence:
        raise ValueError(
            f"{prepared.folder}: the train split has {len(stream):,} tokens, but train.sequence = {sequence:,} "
            f"needs {sequence + 1:,}; lower train.sequence or prepare more text"
        )
    # Shuffling row numbers and reading a batch of rows at once is twice as fast as shuffling a source of rows.
    order = grain.MapDataset.range((len(stream) - 1) // sequence).seed(seed).shuffle().repeat()
    blocks = order.batch(local, drop_remainder=True)  # step k is blocks [k * hosts, (k + 1) * hosts)
    mine = blocks[start_step * process_count + process_index :: process_count]
    read = mine.map(lambda rows: stream.read_rows((rows * sequence).tolist(), sequence + 1))
    return iter(read.to_iter_dataset(READ_OPTIONS))


def validation_batches(
    prepared: manifests.Prepared,
    sequence: int,
    batch: int,
    sequences: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns this host's validation batches: tokens int32 (b, T + 1) and weights float32 (b, T) of the predictions.

    Every held-out token except the first of the stream is predicted once, with weight 1; padding of the last row and
    the last batch has weight 0.  All hosts yield equally many batches, of the first `sequences` rows; 0: of all rows.

    Raises ValueError if B is not divisible by the hosts, or there is no token to predict.
    """
    local = _local_batch(batch, process_count)
    stream = Stream(prepared, "validation")
    rows = -(-(len(stream) - 1) // sequence)
    rows = min(rows, sequences) if sequences else rows
    if min(rows * sequence, len(stream) - 1) < 2:  # the one to predict may be the end of the text, which has no bytes
        raise ValueError(
            f"{prepared.folder}: the validation split has {len(stream)} tokens but needs at least 3, of which "
            "2 are predicted; raise data.validation_fraction or eval.sequences, or prepare more text"
        )
    size, end = local * sequence, min(rows * sequence + 1, len(stream))  # of this host's part; of all that is read
    firsts = range(process_index * size, -(-rows // batch) * batch * sequence, batch * sequence)
    return (padded(stream.read(min(at, end), min(at + size + 1, end)), local, sequence) for at in firsts)


def padded(ids: np.ndarray, batch: int, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and weights as `validation_batches` yields them, (B, T + 1) and (B, T), of up to B T + 1 ids."""
    stream = np.zeros(batch * sequence + 1, np.int32)
    stream[: len(ids)] = ids
    weights = (np.arange(batch * sequence) < len(ids) - 1).astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(stream, sequence + 1)[::sequence], weights.reshape(batch, sequence)


def _local_batch(batch: int, process_count: int) -> int:
    if batch % process_count:
        raise ValueError(f"train.batch or eval.batch is {batch}; use multiples of {process_count}, the number of hosts")
    return batch // process_count
