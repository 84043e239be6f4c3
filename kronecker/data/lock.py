"""One process at a time in a folder; the lock goes with the process that holds it, however that ends."""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: pathlib.Path) -> Iterator[None]:
    """Holds the lock `file`, made with its folder if need be, waiting for the process that has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process holds %s; waiting for it", file)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
