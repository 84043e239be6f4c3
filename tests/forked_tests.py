"""Runs pytest once for each line of its input, in a fork: the libraries, most of a run's start, are imported once.

  python tests/forked_tests.py

A line is JSON: [arguments of pytest, seconds of a core that they may take].  The answer is [exit code, seconds taken];
the code is negative if a signal ended them.
"""

import compileall
import contextlib
import json
import os
import resource
import signal
import sys
import warnings

import flax.linen  # noqa: F401
import grain  # noqa: F401
import hypothesis  # noqa: F401
import jax
import jax.numpy
import optax  # noqa: F401
import pytest
import scipy.special  # noqa: F401
import tensorflow_datasets  # noqa: F401

# A mutant of the same second and size as the one before would be taken for it; what `main` compiles is older than any.
sys.dont_write_bytecode = True
IMPORTED_BEFORE = "-W", "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis, which is a plugin


def main() -> None:
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    assert not jax._src.xla_bridge.backends_are_initialized(), "the threads of a backend would not be in the forks"
    for folder in ("configs", "kronecker"):
        compileall.compile_dir(folder, quiet=1)
    for line in sys.stdin:
        arguments, seconds = json.loads(line)
        child = os.fork()
        if not child:
            _run(arguments, seconds)
        _, status, used = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what its tests started and left
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)


def _run(arguments: list[str], seconds: int) -> None:
    code = 3
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # however busy the machine is
        signal.alarm(30 + 10 * seconds)  # for those that wait for ever; it ends the process wherever it is
        code = int(pytest.main([*arguments, *IMPORTED_BEFORE]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
