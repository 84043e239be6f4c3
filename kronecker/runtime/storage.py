"""Paths on a disk or in Google Cloud Storage (gs://), and how to write there.

An object store creates a file complete, under its final name, or not at all.  It cannot rename (that is a copy), lock
or append: an append replaces the file.  So only this module appends or renames where a path may be remote, and such
paths never go to `pathlib` or `open`.
"""

import collections
import contextlib
import errno
import importlib.util
import io
import json
import os
import pathlib  # noqa: TID251  for folders that are always local
import re
import shutil  # noqa: TID251  of local folders
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO, TypeVar

import fsspec
from etils import epath

CLIENTS = {"gs": "gcsfs"}  # scheme -> the package that etils.epath needs for it
SECONDS_BETWEEN_UPLOADS = 30.0
MOST_BYTES = 2**26  # of a JSON file
_NETWORK = {"aiohttp", "gcsfs"}  # packages whose exceptions are faults of the network, or of rights in a bucket
_OF_NETWORK = (ConnectionError, TimeoutError)
_ACCESS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# in tensorstore's errors
_STATUS = re.compile("ABORTED|CANCELLED|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE")
_WITHOUT_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a write, which names no file

Local = TypeVar("Local")  # an epath.Path or a pathlib.Path


def is_remote(path: epath.PathLike) -> bool:
    return "://" in str(path)


def open_path(path: epath.PathLike, name: str = "path") -> epath.Path:
    """Returns a local or gs:// path; raises ValueError with `name`, its flag or key, if it cannot be opened."""
    scheme, separator, rest = str(path).partition("://")
    if separator and (scheme not in CLIENTS or not rest):
        raise ValueError(f"{name}={path}: unknown kind of path; allowed: a local path, or gs://BUCKET/FOLDER")
    if separator and not importlib.util.find_spec(CLIENTS[scheme]):
        raise ValueError(
            f'{name}={path}: {scheme}:// needs the package {CLIENTS[scheme]}; pip install --editable ".[gcs]"'
        )
    if separator:  # other processes write there too, so listings are not cached
        fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(path)


def at_home(path: str) -> pathlib.Path:
    """Returns a local path with ~ as the home folder; raises ValueError if that is unknown, as without HOME."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home folder; set HOME, or write the whole path") from None


def absolute(path: epath.Path) -> epath.Path:
    """Returns the absolute path; a remote one is absolute already, and resolving it would make it local."""
    return path if is_remote(path) else path.resolve()


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[BinaryIO]:
    """Yields a file to write to; it is renamed to `path` once it is complete and nothing failed."""
    if is_remote(path):
        content = io.BytesIO()  # closing a writer after a failure would create an incomplete object
        yield content
        path.write_bytes(content.getvalue())
        return
    with renamed(path) as temporary, temporary.open("wb") as file:
        yield file


def of_this_process() -> str:
    """Returns what is part of temporary names, and differs between processes of this host and of others."""
    return f"{socket.gethostname()}-{os.getpid()}"


@contextlib.contextmanager
def renamed(path: Local, locked: bool = False) -> Iterator[Local]:
    """Yields a temporary name beside a local path, which is renamed to the path if nothing failed.

    The name is that of this process, so that of several writers the last one to finish wins.  Who holds a lock on the
    path says `locked`: its name is always the same, so that a killed process leaves no second file behind.  A power cut
    leaves the old file or the whole new one.  An OSError names `path`, also if it is of the temporary file, or of a
    disk without space.
    """
    temporary = path.with_name(f"{path.name}{'' if locked else f'.{of_this_process()}'}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _WITHOUT_SPACE):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk, of a file that was never made
            temporary.unlink(missing_ok=True)


def local_file(path: str, flag: str) -> pathlib.Path:
    """Returns the path of a file to be written, and makes its folder; for callers before long work.

    Raises ValueError if it is remote, or a folder.  `flag` is where it was given.
    """
    if is_remote(path):
        raise ValueError(f"{path}: it is written to a local disk; name a local file with {flag}")
    if pathlib.Path(path).is_dir():
        raise ValueError(f"{flag}={path} is a folder; name a file")
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    return pathlib.Path(path)


def write_text(file: Local, text: str, locked: bool = False) -> None:
    """Writes a local file in UTF-8, `renamed` as above."""
    with renamed(file, locked) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def check_ends(path: Local) -> None:
    """Raises ValueError if a local path, or one in the folder, leads to a pipe or a device: reading may have no end."""
    if is_remote(path):
        return
    for inner in path.iterdir() if path.is_dir() else ():
        check_ends(inner)
    if path.exists() and not stat.S_ISDIR(mode := os.stat(path).st_mode) and not stat.S_ISREG(mode):  # noqa: PTH116
        raise ValueError(f"{path} is a pipe or a device; put a file there")


def check_leads(path: epath.Path) -> None:
    """Raises OSError for a link that leads nowhere, which `exists` takes for nothing at all."""
    if os.path.islink(path) and not path.exists():  # noqa: PTH114  of a remote path false
        raise OSError(f"{path}: a link that leads nowhere; mount the disk that it leads to, or delete the link")


def read_whole(path: Local, most: int = MOST_BYTES, remedy: str = "put the right one there") -> bytes:
    """Returns a file's content; raises ValueError if it has more than `most` bytes, or is a pipe or a device."""
    if not path.is_dir():  # opening one says so
        check_ends(path)
    with path.open("rb") as file:
        if (size := file.seek(0, os.SEEK_END)) > most:
            raise ValueError(f"{path} has {size:,} bytes, and such a file at most {most:,}; {remedy}")
        file.seek(0)
        return file.read(size)


def parsed_json(content: bytes) -> Any:
    """Returns the value of JSON in UTF-8; raises ValueError if it is damaged, nested too deeply, or has a key twice."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return found


def check_reachable(path: Local) -> None:
    """Raises what the disk or the bucket raises if a file that is there, or one in the folder, cannot be opened."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for inner in path.iterdir() if path.is_dir() else ():
            check_reachable(inner)
        if not path.is_dir():
            check_ends(path)
            path.open("rb").close()


def is_of_access(error: BaseException) -> bool:
    """Returns whether rights, the network or a limit of this process made a read fail: the content may be whole."""
    of_client = {kind.__module__.partition(".")[0] for kind in type(error).__mro__} & _NETWORK
    of_system = isinstance(error, OSError) and (error.errno in _ACCESS or isinstance(error, _OF_NETWORK))
    return bool(of_client or of_system or _STATUS.search(str(error)))


def move(path: Local, target: Local) -> None:
    """Moves a file or a folder to where nothing is yet; in a bucket, one object after another."""
    if is_remote(path):
        for inner in path.iterdir() if path.is_dir() else ():
            move(inner, target / inner.name)
        if path.exists():
            path.copy(target)
            path.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with renamed(target) as copy:  # to another disk
            shutil.move(path, copy)
    for folder in (target.parent, path.parent):
        flush(folder)


def sync(path: Local) -> None:
    """Returns once a local file, or a folder with all that is in it, would survive a power cut."""
    for inner in path.iterdir() if path.is_dir() else ():
        sync(inner)
    flush(path)


def flush(path: Local) -> None:
    """Returns once a local file, or a folder with the names in it, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network disks cannot do it for folders
            raise
    finally:
        os.close(descriptor)


class Lines:
    """A text file that grows by lines.

    On a disk each line reaches the operating system at once, and the disk itself by `sync` and `close`.  To an object
    store the whole file is uploaded again, at most every SECONDS_BETWEEN_UPLOADS, and by `sync` and `close`: a killed
    process loses later lines.
    """

    def __init__(self, path: epath.Path, lines: Iterable[str]) -> None:
        """Replaces the file's content with `lines`."""
        self._path = path
        self._file: TextIO | None = None
        self._content = "".join(f"{line}\n" for line in lines)
        if is_remote(path):
            self._upload()
            return
        with writing(path) as file:
            file.write(self._content.encode())
        self._file = path.open("a", encoding="utf-8")

    def append(self, line: str) -> None:
        if self._file:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        self._content += f"{line}\n"
        if time.monotonic() - self._uploaded_at > SECONDS_BETWEEN_UPLOADS:
            self._upload()

    def sync(self) -> None:
        """Returns once all lines would survive the end of this process, and a power cut."""
        if self._file:
            os.fsync(self._file.fileno())
        elif self._uploaded != self._content:
            self._upload()

    def close(self) -> None:
        self.sync()
        if self._file:
            self._file.close()

    def _upload(self) -> None:
        self._path.write_text(self._content, encoding="utf-8")
        self._uploaded, self._uploaded_at = self._content, time.monotonic()
