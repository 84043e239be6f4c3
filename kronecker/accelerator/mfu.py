"""Part `mfu`: the share of the device's peak FLOP/s that training reaches, by setting, and the costliest kernels.

Out of memory is a valid result.
"""

import dataclasses
import gc
import math
from pathlib import Path
from typing import Any

import jax
import ml_collections

from kronecker.accelerator.extents import Extent, Take, Task, arm_config, mfu_name
from kronecker.benchmark import step, texts, timing
from kronecker.model import transformer
from kronecker.runtime import allocator, device_mesh, hardware, profiling, progress, sharding
from kronecker.schema import resolution
from kronecker.schema.arms import TARGETED

KERNELS = 10
RECORDED = 2  # calls that are profiled, each of as many steps as are timed together


def session(task: Task) -> Take:
    extent, text = task.extent, task.text
    settings = {mfu_name(one): one for one in extent.mfu}
    mesh = device_mesh.make_mesh()
    read = texts.read(text.tokenizer, arm_config(TARGETED, text, {}).data)

    def measure(name: str) -> dict[str, Any]:
        c = resolution.resolve(arm_config(TARGETED, text, {**extent.whole, **settings[name]}), mesh.size)
        c = resolution.with_vocabulary(c, read.tokenizer.vocab_size)
        described = {"arm": TARGETED, "size": extent.whole["size"], "dtype": c.model.dtype, "settings": settings[name]}
        try:
            return described | _measure(c, read, mesh, extent, name, task.folder / name)
        except jax.errors.JaxRuntimeError as error:
            if allocator.OUT_OF_MEMORY not in str(error):
                raise
            return described | {"out_of_memory": str(error).splitlines()[0]}
        finally:
            gc.collect()  # frees arrays that an error's traceback holds

    return measure


def _measure(
    c: ml_collections.ConfigDict, read: texts.Text, mesh: jax.sharding.Mesh, extent: Extent, name: str, folder: Path
) -> dict[str, Any]:
    ids = read.batches(step.BATCHES, c.train.batch, c.train.sequence + 1)
    batches = [sharding.to_devices(batch, mesh) for batch in ids]
    arm = step.Arm(c, read.tokenizer.token_bytes, mesh, batches, extent.turns)
    with progress.ProgressLine(f"mfu {name}", extent.rounds, 0) as line:
        taken = timing.interleave({name: arm.step}, extent.rounds, math.inf, line.show)[name].of_one(extent.turns)
    if not math.isfinite(arm.loss):
        raise FloatingPointError(f"the loss is {arm.loss}; test the device with --parts=check")
    kernels, fault = [], None
    try:
        with profiling.recording(folder):
            for number in range(RECORDED):
                with profiling.step(number):
                    arm.step(number)
        kernels = [dataclasses.asdict(kernel) for kernel in profiling.costliest(folder, KERNELS)]
    except (OSError, ValueError, RuntimeError) as error:  # keep the timing above
        fault = f"{type(error).__name__}: {error}"
    return {
        "batch": c.train.batch,
        "sequence": c.train.sequence,
        "attention": transformer.Shape.of(c.model).attention,
        "product": arm.facts["implementation"],
        "memory": arm.facts["memory"],
        **step.speed(c, taken.median, mesh.size),
        "peak_flops": hardware.peak_flops(jax.devices()[0].device_kind),
        **taken.summary(),
        "recorded_steps": RECORDED * extent.turns,
        "kernels": kernels,
        "profile_error": fault,
    }
