"""Processes on one folder: a lock that one holds at a time, and claims to pieces of work.

A lock goes with the process that holds it, however that ends.  They are flock's: they work on local disks, and between
hosts on NFS from version 4 on and on other shared disks that pass flock on; object stores have none.
"""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

SWEEP_LOCK = ".lock"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: pathlib.Path) -> Iterator[None]:
    """Holds the lock `file`, made with its folder if need be, waiting for the process that has it."""
    with claimed(file, wait=True):
        yield


@contextlib.contextmanager
def claimed(file: pathlib.Path, wait: bool) -> Iterator[bool]:
    """Yields whether this process holds the lock `file`, made with its folder if need be.

    Args:
      file: the lock.
      wait: for the process that has it; otherwise False comes at once.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            _log.warning("another process holds %s; waiting for it", file)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


@contextlib.contextmanager
def only_sweep_in(out: pathlib.Path) -> Iterator[int]:
    """Holds the folder's lock and yields its file descriptor, waiting for a sweep that has it.

    A child that inherits the descriptor holds the lock too: one that outlives a killed sweep is
    waited for, not doubled.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / SWEEP_LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{out}: another sweep, or a run that one left behind, is at work here; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
