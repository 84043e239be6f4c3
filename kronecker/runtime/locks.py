"""Locks on folders, which one process holds at a time.

They are flock's: a lock ends with its process, however that ends.  They work on local disks, and between hosts on NFS 4
or later and other shared disks that support flock; object stores have none.  The file names its last holder, for those
who wait.
"""

import contextlib
import datetime
import fcntl
import io
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Self

LOCK = ".lock"  # in the folder of a run or a sweep
POLL_SECONDS = 0.5  # between two tries of a process that does more than wait
_LONGEST_RECORD = 2**20  # bytes
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: pathlib.Path, wait: bool = True) -> Iterator[int | None]:
    """Holds the lock `file`, created with its folder if missing, and yields its file descriptor.

    A child that inherits the descriptor holds the lock too, so a new sweep waits for the runs of a killed sweep.
    Without `wait`, yields None at once if another process holds the lock.
    """
    with Lock(file) as lock:
        if not lock.take():
            if not wait:
                yield None
                return
            _log.warning("%s: used by %s, or by a process that it started; waiting for it", file, lock.holder_words())
            lock.take(wait=True)
        yield lock.fileno()


class Lock:
    """A lock that is asked for, perhaps several times; a context that releases it."""

    def __init__(self, file: pathlib.Path) -> None:
        """Creates `file` with its folder if missing; raises OSError with the file's name if it cannot be written."""
        self._path, self._file = file, _open(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def take(self, wait: bool = False, facts: Mapping[str, Any] | None = None) -> bool:
        """Returns whether this process holds the lock now, and records it with more `facts` as the holder."""
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            except OSError as error:
                raise OSError(f"{self._path}: this disk gives no lock ({error.strerror}); use another one") from None
            if self._is_at_its_path():
                break
            self._file.close()  # its last holder deleted it
            self._file = _open(self._path)
        started = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
        record = {"pid": os.getpid(), "host": socket.gethostname(), "started": started, **(facts or {})}
        with contextlib.suppress(OSError):  # on a full disk the holder has no name
            self._file.truncate(0)
            self._file.write(json.dumps(record).encode())
        return True

    def holder(self) -> dict[str, Any]:
        """Returns what the last holder recorded; {} if nothing can be read."""
        self._file.seek(0)
        try:
            record = json.loads(self._file.read(_LONGEST_RECORD))
        except (ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) and {"pid", "host", "started"} <= record.keys() else {}

    def holder_words(self) -> str:
        record = self.holder()
        return "process {pid} on {host} since {started}".format(**record) if record else "another process"

    def _is_at_its_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


def _open(file: pathlib.Path) -> io.FileIO:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("ab+", buffering=0)
