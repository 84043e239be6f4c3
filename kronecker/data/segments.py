"""How processes share the preparation of one folder: they divide the source's files into segments.

One process prepares a segment, a sequence of complete files.  Its end depends only on file sizes, so all processes
compute the same segments and shards.  A file is never divided: a single process prepares a corpus in a single file.
"""

import pathlib
from collections.abc import Iterator, Sequence

from kronecker.data import sources
from kronecker.runtime import locks

SEGMENT_BYTES = 1 << 28  # of the source's files: a few minutes of work, and a few shards


def cut(units: Sequence[sources.Unit], least: int) -> list[range]:
    """Returns the segments as ranges of unit numbers: a segment ends with the file that brings it to `least` bytes."""
    made, first, size = [], 0, 0
    for number, unit in enumerate(units, 1):
        size += unit.size
        if size >= least or number == len(units):
            made.append(range(first, number))
            first, size = number, 0
    return made


def claims(folder: pathlib.Path, count: int) -> Iterator[int]:
    """Yields the number of each segment while this process holds its lock; the segment may be finished already.

    The first pass locks segments that no other process holds; the second waits for the other processes, and then gets
    the segments of killed ones.  The lock files in `folder` are never deleted: deleting one would let two processes
    hold it.
    """
    for wait in (False, True):
        for number in range(count):
            with locks.locked(folder / f"{number:05d}", wait) as mine:
                if mine is not None:
                    yield number
