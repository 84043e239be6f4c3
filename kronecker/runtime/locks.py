"""Locks on folders, which one process holds at a time.

They are flock's: a lock ends with its process, however that ends.  They work on local disks, and between hosts on NFS 4
or later and other shared disks that support flock; object stores have none.
"""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

LOCK = ".lock"  # in the folder of a run or a sweep
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: pathlib.Path, wait: bool = True) -> Iterator[int | None]:
    """Holds the lock `file`, created with its folder if missing, and yields its file descriptor.

    A child that inherits the descriptor holds the lock too, so a new sweep waits for the runs of a killed sweep.
    Without `wait`, yields None at once if another process holds the lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield None
                return
            _log.warning("%s: another process, or a run that it started, is using this folder; waiting for it", file)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
