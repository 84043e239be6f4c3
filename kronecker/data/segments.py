"""How processes share the preparation of one folder: the source's files in segments, each prepared by one process.

A segment is a run of whole files, cut by their sizes alone, so all processes see the same ones and the shards are the
same whoever made them.  One file is never divided: a corpus in a single file is prepared by a single process.
"""

import pathlib
from collections.abc import Iterator, Sequence

from kronecker.data import sources
from kronecker.runtime import locks

SEGMENT_BYTES = 1 << 28  # of the source's files: some minutes of work, and a few shards


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
    """Yields the number of each segment while this process holds it; some may be finished by then.

    The first pass takes what no other process holds; the second waits for the others, and so comes to hold what a
    killed one left.  After the last number every segment was held once, by whoever finished it. The locks in `folder`
    stay behind: a lock that is removed is none.
    """
    for wait in (False, True):
        for number in range(count):
            with locks.locked(folder / f"{number:05d}", wait) as mine:
                if mine is not None:
                    yield number
