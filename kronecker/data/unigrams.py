"""How often each id occurs in a prepared training text, counted once and kept beside it.

Shapes: V vocabulary.
"""

import contextlib
import zlib

import numpy as np

from kronecker.data import manifests
from kronecker.data.stream import Stream
from kronecker.runtime import storage

AT_ONCE = 1 << 22  # ids read at a time


def counts(prepared: manifests.Prepared, vocab: int) -> np.ndarray:
    """Returns the count of each id in the whole training text, int64 (V,).

    They are kept in the dataset's folder, under its fingerprint.  A file that is damaged, or cannot be written, costs a
    new count.
    """
    file = prepared.folder / f"unigrams-{prepared.fingerprint[:16]}.int64"
    stream = Stream(prepared, "train")
    with contextlib.suppress(OSError, ValueError):
        saved = storage.read_whole(file, 8 * vocab + 4)
        content, crc = saved[:-4], saved[-4:]
        if crc == _crc(content) and len(content) == 8 * vocab:
            counts_V = np.frombuffer(content, "<i8").astype(np.int64)
            if counts_V.sum() == len(stream):
                return counts_V
    counts_V = np.zeros(vocab, np.int64)
    for start in range(0, len(stream), AT_ONCE):
        counts_V += np.bincount(stream.read(start, min(start + AT_ONCE, len(stream))), minlength=vocab)
    content = counts_V.astype("<i8").tobytes()
    with contextlib.suppress(OSError), storage.writing(file) as unfinished:  # the disk may be read-only
        unfinished.write(content + _crc(content))
    return counts_V


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
