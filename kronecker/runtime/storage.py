"""Paths that may be on a disk or in Google Cloud Storage (gs://), and the ways to write there.

In an object store a file appears whole, under its final name, or not at all.  There is no rename (that is a copy), no
lock and no append: a client asked to append replaces what is there.  So nothing outside this module appends or renames
where a path may be remote, and no such path is given to `pathlib` or `open`, which take local ones.
"""

import contextlib
import importlib.util
import io
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

import fsspec
from etils import epath

CLIENTS = {"gs": "gcsfs"}  # scheme -> the package that etils.epath needs for it
SECONDS_BETWEEN_UPLOADS = 30.0

Local = TypeVar("Local")  # an epath.Path or a pathlib.Path


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path has a scheme, as gs://bucket/runs has."""
    return "://" in str(path)


def open_path(path: epath.PathLike, name: str = "path") -> epath.Path:
    """Returns a path that can be read and written: local, or gs://BUCKET/...

    `name` is that of the flag or key it is from, for messages.  Raises ValueError if its scheme is not known, or the
    package for it is missing.
    """
    scheme, separator, rest = str(path).partition("://")
    if separator and (scheme not in CLIENTS or not rest):
        raise ValueError(f"{name}={path}: this cannot be opened; allowed: a local path, or gs://BUCKET/FOLDER")
    if separator and not importlib.util.find_spec(CLIENTS[scheme]):
        raise ValueError(f'{name}={path}: {scheme}:// needs {CLIENTS[scheme]}; pip install --editable ".[gcs]"')
    if separator:  # other processes write there too, so a listing is not kept
        fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(path)


def absolute(path: epath.Path) -> epath.Path:
    """Returns the path from the root; a remote one is that already, and resolving it would make it a local one."""
    return path if is_remote(path) else path.resolve()


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[BinaryIO]:
    """Yields a file to write to; what was written takes the name `path`, whole, if nothing failed."""
    if is_remote(path):
        content = io.BytesIO()  # an object whose writer fails half-way would be finished as it is
        yield content
        path.write_bytes(content.getvalue())
        return
    with renamed(path) as temporary, temporary.open("wb") as file:
        yield file


@contextlib.contextmanager
def renamed(path: Local, writer: str = "") -> Iterator[Local]:
    """Yields a temporary name beside a local file; what is written there takes the name `path` if nothing failed.

    The name is the same each time, so that nothing is left of a process that was killed here; where no lock keeps
    others away, `writer` sets theirs apart, and the last one to finish wins, whole.
    """
    temporary = path.with_name(f"{path.name}{writer}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Lines:
    """A text file that grows by lines.

    On a disk each line reaches the operating system at once.  In an object store the file is written again as a whole,
    every SECONDS_BETWEEN_UPLOADS at most, and by `sync` and `close`: a process that is killed loses the lines since.
    """

    def __init__(self, path: epath.Path, lines: Iterable[str]) -> None:
        """Begins with `lines`, in the place of what the file held."""
        self._path, self._remote = path, is_remote(path)
        self._content = "".join(f"{line}\n" for line in lines)
        self._uploaded: str | None = None
        self._upload() if self._remote else self._begin()

    def write(self, line: str) -> None:
        """Adds a line, given without its end."""
        if not self._remote:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        self._content += f"{line}\n"
        if time.monotonic() - self._uploaded_at > SECONDS_BETWEEN_UPLOADS:
            self._upload()

    def sync(self) -> None:
        """Returns when every line is where it will be found after this process is gone."""
        if self._remote and self._uploaded != self._content:
            self._upload()

    def close(self) -> None:
        self.sync()
        if not self._remote:
            self._file.close()

    def _begin(self) -> None:
        with writing(self._path) as file:
            file.write(self._content.encode())
        self._file = self._path.open("a")

    def _upload(self) -> None:
        self._path.write_text(self._content)
        self._uploaded, self._uploaded_at = self._content, time.monotonic()
