"""A split of a prepared dataset as one stream of token ids, with random access to array_record shards on a disk."""

import bisect
import collections
import itertools
import threading
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from array_record.python import array_record_module

from kronecker.data import manifests

# array_record would start threads for each small read, and its default buffers are for sequential reading.
READER_OPTIONS, READER_BUFFER = "readahead_buffer_size:0,max_parallelism:1", 1 << 15


class Stream:
    """A split's token stream: its shards' tokens, one after another, with random access; threads may share it."""

    def __init__(self, prepared: manifests.Prepared, split: str):
        manifest = prepared.manifest
        shards = manifest["splits"][split]["shards"]
        self._dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self._per_record = manifest["tokens_per_record"]
        self._shard_ends = list(itertools.accumulate(shard["tokens"] for shard in shards))
        self._shard_starts = [0, *self._shard_ends]
        ends = itertools.accumulate((shard["records"] for shard in shards), initial=0)
        self._sums = np.split(manifests.record_sums(prepared, split), list(ends)[1:-1])  # of each shard's records
        self._files = [prepared.folder / shard["file"] for shard in shards]
        self._readers: list[array_record_module.ArrayRecordReader | None] = [None] * len(shards)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._shard_starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns stream[start:stop] as int32; `stop` may not exceed the stream's length.

        Raises ValueError if a record is not the one that was written.
        """
        return self.read_rows([start], stop - start)[0]

    def read_rows(self, starts: Sequence[int], length: int) -> np.ndarray:
        """Returns stream[start : start + length] of each start, int32 (starts, length).

        Reads the records of all rows shard by shard: one call for many takes a third of the time of single calls.

        Raises ValueError as `read` does.
        """
        pieces = [(row, *piece) for row, start in enumerate(starts) for piece in self._pieces(start, length)]
        wanted: dict[int, dict[int, np.ndarray | None]] = collections.defaultdict(dict)
        for _, _, shard, record, _, _ in pieces:
            wanted[shard][record] = None
        for shard, records in wanted.items():
            records.update(zip(records, self._read_records(shard, list(records)), strict=True))
        read = np.empty((len(starts), length), np.int32)
        for row, column, shard, record, offset, count in pieces:
            read[row, column : column + count] = wanted[shard][record][offset : offset + count]
        return read

    def _pieces(self, start: int, length: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Yields (column in the row, shard, record, offset in the record, count) for each piece of a row."""
        column = 0
        while column < length:
            shard = bisect.bisect_right(self._shard_ends, start + column)
            record, offset = divmod(start + column - self._shard_starts[shard], self._per_record)
            count = min(length - column, self._per_record - offset, self._shard_ends[shard] - start - column)
            yield column, shard, record, offset, count
            column += count

    def _read_records(self, shard: int, records: list[int]) -> list[np.ndarray]:
        try:
            examples = self._reader(shard).read(records)
        except (RuntimeError, IndexError) as error:  # from array_record, also if a record's hash differs
            raise ValueError(
                f"{self._files[shard]}: a record cannot be read ({error}): the file is damaged; delete the folder and "
                "prepare the data again; scripts/prepare_data.py --verify checks all files"
            ) from error
        sums = self._sums[shard][records].tolist()
        if sums != [zlib.crc32(example) for example in examples]:
            raise ValueError(
                f"{self._files[shard]}: a record is not the one that was written: the file is damaged or of another "
                "dataset; delete the folder and prepare the data again"
            )
        # A record is a tf.train.Example with one bytes feature, whose bytes come last.
        size = self._per_record * self._dtype.itemsize
        return [np.frombuffer(example, self._dtype, offset=len(example) - size) for example in examples]

    def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
        with self._lock:
            if self._readers[shard] is None:
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    str(self._files[shard]), options=READER_OPTIONS, file_reader_buffer_size=READER_BUFFER
                )
            return self._readers[shard]
