"""Losses of an arm's first training steps, on the devices here and in a process that uses the CPU only."""

import contextlib
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

import jax
import numpy as np

from kronecker.accelerator import extents
from kronecker.benchmark import step
from kronecker.runtime import device_mesh, sharding

REPEATED = 3  # steps that are run twice and compared bit by bit
DETERMINISTIC = "deterministic"


class Trial:
    """Arms in training on equal batches; their losses do not depend on the number of arms."""

    def __init__(self, extent: extents.Extent, text: extents.Text, names: Sequence[str]) -> None:
        self._mesh = device_mesh.make_mesh()
        configs = {name: extents.arm_config(name, text, extent.trained) for name in names}
        self._configs, self._read, ids = step.problem(configs, self._mesh)
        self._batches = [sharding.to_devices(batch, self._mesh) for batch in ids]

    def start(self, name: str, dtype: str) -> step.Arm:
        """Returns an arm before its first step; float32 products use float32, not TF32, even where that is the default.

        `dtype` is model.dtype, or DETERMINISTIC: bfloat16 with train.deterministic.
        """
        c = self._configs[name].copy_and_resolve_references()
        c.train.deterministic = dtype == DETERMINISTIC
        c.model.dtype = "bfloat16" if c.train.deterministic else dtype
        with jax.default_matmul_precision("highest") if dtype == "float32" else contextlib.nullcontext():
            return step.Arm(c, self._read.tokenizer.token_bytes, self._mesh, self._batches)


def losses(arm: step.Arm, steps: int) -> list[float]:
    return [arm.step(number) for number in range(steps)]


def repeats(arm: step.Arm, initial: Any) -> bool:
    """Returns whether two runs of the first steps from state `initial` (on the host) give the same bits."""
    layout, ended = jax.tree.map(lambda x: x.sharding, arm.state), []
    for _ in range(2):
        arm.state = jax.device_put(initial, layout)
        losses(arm, REPEATED)
        ended.append(jax.device_get(arm.state))
    one, other = (jax.tree.leaves(state) for state in ended)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@contextlib.contextmanager
def on_cpu(
    extent: extents.Extent, text: extents.Text, names: Sequence[str]
) -> Iterator[Callable[[str, float], list[float]]]:
    """Starts the process that uses the CPU only; yields a function that waits for an arm's losses in float32.

    `names` are arms in the order of the later calls.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_send, args=(there, extent, text, names), daemon=True)
    process.start()
    there.close()
    found: dict[str, list[float]] = {}

    def wait(name: str, seconds: float) -> list[float]:
        deadline = time.monotonic() + seconds
        while name not in found:
            if not here.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"the CPU has not finished the losses of {name}")
            try:
                found.update([here.recv()])
            except EOFError:
                process.join()
                code = process.exitcode
                raise ChildProcessError(f"the CPU loss process exited with {code}; its error is above") from None
        return found[name]

    try:
        yield wait
    finally:
        process.terminate()
        process.join()


def _send(pipe: connection.Connection, extent: extents.Extent, text: extents.Text, names: Sequence[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # before anything initializes its devices
    trial = Trial(extent, text, names)
    for name in names:
        found = losses(trial.start(name, "float32"), extent.trained["train.steps"])
        if not all(map(math.isfinite, found)):
            raise FloatingPointError(f"{name}: a loss on the CPU is not finite; report this: {found}")
        pipe.send((name, found))
