"""How often each id occurs in a prepared text; of a whole training text counted once and kept beside it.

Shapes: V vocabulary.
"""

import contextlib
import zlib

import numpy as np

from kronecker.data import manifests
from kronecker.data.stream import Stream
from kronecker.runtime import storage

BLOCK = 1 << 16  # ids read at a time


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
    counts_V = sampled(prepared, "train", vocab, len(stream))
    content = counts_V.astype("<i8").tobytes()
    with contextlib.suppress(OSError), storage.writing(file) as unfinished:  # the disk may be read-only
        unfinished.write(content + _crc(content))
    return counts_V


def sampled(prepared: manifests.Prepared, split: str, vocab: int, most: int) -> np.ndarray:
    """Returns the count of each id in a split, int64 (V,); of more than `most` ids in blocks spread evenly over it.

    Raises ValueError if there are ids of `vocab` or more.
    """
    stream, counts_V = Stream(prepared, split), np.zeros(vocab, np.int64)
    blocks = -(-len(stream) // BLOCK)
    chosen = np.unique(np.linspace(0, blocks - 1, min(blocks, -(-most // BLOCK))).round().astype(int))
    for block in chosen.tolist():
        ids = stream.read(block * BLOCK, min((block + 1) * BLOCK, len(stream)))
        if (highest := ids.max()) >= vocab:
            raise ValueError(
                f"{prepared.folder}: the {split} text has the id {highest:,}, but the model has {vocab:,} ids; prepare "
                "the text with the model's tokenizer"
            )
        counts_V += np.bincount(ids, minlength=vocab)
    return counts_V


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
