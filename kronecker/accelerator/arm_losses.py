r"""Losses of an arm's first training steps, on the devices here and in a process that uses the CPU only.

  JAX_PLATFORMS=cpu python -m kronecker.accelerator.arm_losses JOB

JOB is a JSON file: {"rehearsal": ..., "text": {...}, "arms": [...], "folder": ...}; writes FOLDER/ARM.json.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from kronecker.accelerator import extents
from kronecker.benchmark import step
from kronecker.run import rundir
from kronecker.runtime import device_mesh, sharding

REPEATED = 3  # steps that are run twice and compared bit by bit
DETERMINISTIC = "deterministic"
POLL_SECONDS = 0.2


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
    found = []
    for number in range(steps):
        arm.step(number)
        found.append(arm.loss)
    return found


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
    extent: extents.Extent, text: extents.Text, names: Sequence[str], folder: Path
) -> Iterator[Callable[[str, float], list[float]]]:
    """Starts the process that uses the CPU only; yields a function that waits for an arm's losses in float32.

    `names` are arms in the order of the later calls; `folder` holds the job and the losses.
    """
    job, environment = folder / "cpu.json", os.environ | {"JAX_PLATFORMS": "cpu"}
    content = {"rehearsal": extent.rehearsal, "text": vars(text), "arms": list(names), "folder": str(folder)}
    job.write_text(json.dumps(content))
    module = f"{__package__}.{Path(__file__).stem}"
    process = subprocess.Popen([sys.executable, "-m", module, str(job)], env=environment)

    def wait(name: str, seconds: float) -> list[float]:
        deadline = time.monotonic() + seconds
        while (found := rundir.read_json(epath.Path(folder / f"{name}.json"))) is None:
            if process.poll() is not None and not (folder / f"{name}.json").exists():
                raise ChildProcessError(f"the CPU loss process exited with {process.returncode}; its error is above")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the CPU has not finished the losses of {name}")
            time.sleep(POLL_SECONDS)
        return found["losses"]

    try:
        yield wait
    finally:
        process.terminate()
        process.wait()


def main(job: Mapping[str, Any]) -> None:
    extent = extents.REHEARSAL if job["rehearsal"] else extents.FULL
    trial = Trial(extent, extents.Text(**job["text"]), job["arms"])
    for name in job["arms"]:
        found = losses(trial.start(name, "float32"), extent.trained["train.steps"])
        if not all(map(math.isfinite, found)):
            raise FloatingPointError(f"{name}: a loss on the CPU is not finite; report this: {found}")
        rundir.write_json(epath.Path(job["folder"]) / f"{name}.json", {"losses": found})


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
