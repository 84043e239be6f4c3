"""A sweep's folder: one sweep at a time in it."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def only_sweep_in(out: Path) -> Iterator[int]:
    """Holds the folder's lock and yields its file descriptor, waiting for a sweep that has it.

    A child that inherits the descriptor holds the lock too: one that outlives a killed sweep is
    waited for, not doubled.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{out}: another sweep, or a run that one left behind, is at work here; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
