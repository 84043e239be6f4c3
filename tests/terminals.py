"""A terminal of a given width, for what programs print on one."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def run(command: Sequence[str], columns: int, cwd: os.PathLike[str]) -> str:
    """Returns what a command prints on a terminal of so many columns; it must end with code 0."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=own)
    os.close(theirs)
    out = b""
    while part := _read(ours):
        out += part
    os.close(ours)
    assert process.wait() == 0, out.decode()
    return out.decode()


def start(command: Sequence[str], cwd: os.PathLike[str]) -> tuple[subprocess.Popen, int]:
    """Starts a command on a terminal of its own; returns our end too: `read` it, and close it to close the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd)
    os.close(theirs)
    os.set_blocking(ours, False)
    return process, ours


def read(terminal: int) -> bytes:
    """Returns what was printed since the last call."""
    return b"".join(iter(lambda: _read(terminal), b""))


def rows(out: str) -> list[str]:
    """Returns every row of text that the terminal was ever given, without control characters."""
    return [row for row in re.split(r"\n", CONTROLS.sub("\n", out)) if row.strip()]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # nothing there, or Linux's way to say that nobody has the other end open
        return b""
