"""What Ctrl-C does while modules are imported and while a script ends, where Python's own exception does harm.

It prints a traceback there, is lost where a library calls back, or breaks an extension that is half initialised.
Scripts import this module first, so it imports next to nothing.  It opens closed standard streams: the next file would
get the number of one, and with it what a library prints.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

INTERRUPTED = 128 + signal.SIGINT  # exit code
WORDS = "interrupted: what is complete on disk stays; run the same command again"

for _number, _name in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, _name) is None:
        _opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one, unless a file has got it before
        os.set_inheritable(_opened, True)
        setattr(sys, _name, open(_opened, "w" if _number else "r", encoding="utf-8"))  # noqa: SIM115, PTH123
        setattr(sys, f"__{_name}__", getattr(sys, _name))


def end_silently() -> None:
    """Makes Ctrl-C end this process without a word, unless it is ignored, as of a job in the background."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _raise):
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_exception() -> None:
    """Makes Ctrl-C a KeyboardInterrupt again, but still the end of this process within an import."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, _raise)


def outlive_output(terminals_only: bool = False) -> None:
    """Lets output be lost that cannot be written: `tee` gets the same Ctrl-C, and SIGHUP says that a terminal ends.

    A write to a terminal may fail before its SIGHUP is heard, so what saves on SIGHUP calls this for terminals first.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        for name in ("write", "flush"):
            found = getattr(stream, name)
            is_lossy = hasattr(found, "__wrapped__")  # by an earlier call
            if not is_lossy and (stream.isatty() or not terminals_only):
                setattr(stream, name, lossy(stream.fileno())(found))


@contextlib.contextmanager
def lossy(number: int) -> Iterator[None]:
    """Writes to the stream with this number, which goes to /dev/null from the first failure on."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _raise(_, frame) -> None:
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{WORDS}\n".encode())
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
