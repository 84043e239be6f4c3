"""Files that may be compressed, read piece by piece in bounded memory and to their last byte."""

import bz2
import contextlib
import gzip
import io
import lzma
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from backports import zstd

SUFFIXES = (".gz", ".xz", ".bz2", ".zst")  # that a name may have in addition
BUFFER_BYTES = 1 << 20
WINDOW_BYTES = 1 << 31  # of earlier text that a decompressor may hold: what zstd --long=31 needs

# Names are not asked: a link's target may have none that tells, as in the hub's cache.  No UTF-8 text begins so.
_BEGINNINGS = {
    "gzip": rb"\x1f\x8b",
    "xz": rb"\xfd7zXZ\0",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",  # a frame, or one to be skipped
}
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, WINDOW_BYTES),
    "bzip2": bz2.BZ2Decompressor,
    "zstd": lambda: zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: WINDOW_BYTES.bit_length() - 1}
    ),
}


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[tuple[io.BufferedReader, Callable[[], float]]]:
    """Yields the content of a file, decompressed if its first bytes are those of a kind above, and the share read.

    Raises ValueError with the file's name if the content is damaged, cut short or followed by something else.
    """
    size = path.stat().st_size or 1
    with path.open("rb") as stored:
        first = stored.peek(16)
        kind = next((kind for kind, beginning in _BEGINNINGS.items() if re.match(beginning, first)), "")
        if kind == "gzip":
            content = io.BufferedReader(gzip.GzipFile(fileobj=stored), BUFFER_BYTES)
        else:
            content = io.BufferedReader(_Streams(stored, _DECOMPRESSORS[kind]), BUFFER_BYTES) if kind else stored
        try:
            if not first and path.suffix.lower() in SUFFIXES:
                raise EOFError("it is empty")
            yield content, lambda: min(stored.tell() / size, 1.0)
        except (EOFError, OSError, lzma.LZMAError, zlib.error, zstd.ZstdError) as error:
            if getattr(error, "errno", None):  # an error of the disk, not of the content
                raise
            raise ValueError(f"{path}: damaged or truncated ({error}); write or download it again") from error


class _Streams(io.RawIOBase):
    """One or more compressed streams, read as one: Python's own readers stop at what follows the first in silence."""

    def __init__(self, stored: BinaryIO, new: Callable[[], Any]):
        self._stored, self._new, self._stream = stored, new, new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            block = b""
            if self._stream.eof:
                block = self._stream.unused_data.lstrip(b"\0")  # zeros may stand between streams
                while not block:
                    if not (block := self._stored.read(BUFFER_BYTES)):
                        return 0
                    block = block.lstrip(b"\0")
                self._stream = self._new()
            elif self._stream.needs_input and not (block := self._stored.read(BUFFER_BYTES)):
                raise EOFError("it ends in the middle")
            if read := self._stream.decompress(block, len(buffer)):
                buffer[: len(read)] = read
                return len(read)
