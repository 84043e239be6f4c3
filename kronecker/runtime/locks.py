"""Processes on one folder: a lock that one of them holds at a time.

A lock goes with the process that holds it, however that ends.  They are flock's: they work on local disks, and between
hosts on NFS from version 4 on and on other shared disks that pass flock on; object stores have none.
"""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

LOCK = ".lock"  # of a folder that one process works on: a run, a sweep
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: pathlib.Path, wait: bool = True) -> Iterator[int | None]:
    """Holds the lock `file`, made with its folder if need be, and yields its file descriptor.

    A child that inherits the descriptor holds the lock too: a run that outlives a killed sweep is waited for.  Without
    `wait`, None comes at once if another process has the lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield None
                return
            _log.warning("%s: another process, or a run that one left behind, is at work here; waiting for it", file)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
