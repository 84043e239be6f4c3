"""The benchmark of the trainer: tokens per second and MFU by size, and a comparison with PyTorch.

With PyTorch each contender has its own process, as in a user's run, so that they share neither threads nor memory.
Their first losses must agree before they are timed.
"""

import contextlib
import dataclasses
import importlib.util
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any

import jax
import ml_collections
import numpy as np

from kronecker.benchmark import step, timing, torch_gpt2
from kronecker.model import accounting, build, transformer
from kronecker.runtime import allocator, device_mesh, printing, progress, sharding
from kronecker.schema.arms import BASELINE
from kronecker.training import train_step

TORCH, TUNED, COMPILED = "torch", "torch_tuned", "torch_compiled"
PYTORCH = {
    TORCH: "PyTorch with its defaults",
    TUNED: "torch with AdamW's fused kernel and train.py's allocator settings",
    COMPILED: "torch_tuned with torch.compile for model and loss",
}
SAME_MODEL = BASELINE  # the arm with the model that is written in PyTorch
TARGETS = {"micro": 1.5, "124m": 1.2}  # size -> our tokens per second over those of TORCH, on two cores
CHECKED = 3  # steps whose losses must agree
TOLERANCE = 1e-4  # nats per token


def run(
    arms: Mapping[str, ml_collections.ConfigDict], against: Sequence[str], rounds: int, size: str
) -> dict[str, Any]:
    """Returns the numbers of one size, ready for JSON; `against` are names of PYTORCH.

    `arms` are unresolved configs by name that share data, tokenizer, batch and sequence.  Without PyTorch they are
    timed in this process.

    Raises ValueError if a config is invalid, the text is too short, PyTorch or its compiler is not installed, or it
    would be compared on an accelerator; FloatingPointError if a loss is not finite, or PyTorch's differs.
    """
    if against and SAME_MODEL not in arms:
        raise ValueError(
            f"--arms={','.join(arms)}: {SAME_MODEL} is missing; add it, --against compares PyTorch's model with it"
        )
    if against and jax.default_backend() != "cpu":
        raise ValueError(f"--against runs on CPU only, but JAX uses {jax.default_backend()}; set JAX_PLATFORMS=cpu")
    if against and not importlib.util.find_spec("torch"):
        raise ValueError(f"--against={','.join(against)}: PyTorch is not installed; `make reference` installs it")
    if COMPILED in against and not shutil.which(_compiler()):
        raise ValueError(
            f"--against={COMPILED}: torch.compile needs a C++ compiler, but {_compiler()} is not installed; install it "
            "or set the environment variable CXX to another"
        )
    mesh = device_mesh.make_mesh()
    made, read, ids = step.problem(arms, mesh)
    shared = next(iter(made.values()))
    t = shared.train
    jobs = {name: Job(name, c, read.tokenizer.token_bytes, ids) for name, c in made.items()}
    jobs |= {name: Job(name, made[SAME_MODEL], read.tokenizer.token_bytes, ids) for name in against}
    with contextlib.ExitStack() as stack:
        entrants = {}
        for name, job in jobs.items():
            printing.say(f"{size}: starting {name}")
            entrants[name] = stack.enter_context(_elsewhere(job)) if against else start(job)
        first = {name: [entrant(number) for number in range(CHECKED)] for name, entrant in entrants.items()}
        _check(first, against)
        with progress.ProgressLine(f"{size} steps", rounds, 0) as line:
            samples = timing.interleave(entrants, rounds, math.inf, line.show)
        last = {name: entrant(0) for name, entrant in entrants.items()}
    for name, loss in last.items():
        if not math.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss}; test the device with scripts/accelerator.py")
    rows = [
        {
            "name": name,
            "what": PYTORCH.get(name, "ours"),
            **step.speed(job.config, samples[name].median, jax.device_count()),
            "flops_per_token": accounting.flops_per_token(transformer.Shape.of(job.config.model), t.sequence),
            "first_losses": first[name],
            "speedup": {other: timing.ratio(samples[other], samples[name]) for other in against},
            **samples[name].summary(),
        }
        for name, job in jobs.items()
    ]
    result = {
        "size": size,
        "batch": t.batch,
        "sequence": t.sequence,
        "dtype": shared.model.dtype,
        "vocab": shared.model.padded_vocab,
        "tokenizer": read.tokenizer.spec,
        "source": read.source,
        "devices": mesh.size,
        "contenders": rows,
    }
    return result | {"verdicts": verdicts(result)}


def verdicts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the verdict on the size's target; the median ratio of the rounds must reach it."""
    rows = {row["name"]: row for row in result["contenders"]}
    if TORCH not in rows or result["size"] not in TARGETS:
        return []
    speedup, target = rows[SAME_MODEL]["speedup"][TORCH], TARGETS[result["size"]]
    return [
        {
            "what": f"{result['size']}, tokens per second: {SAME_MODEL} / {TORCH}",
            "at_least": target,
            **speedup,
            "reached": speedup["median"] >= target,
            "set_for": "GPT-2's vocabulary and two threads",
            "as_specified": result["tokenizer"] == "gpt2" and timing.threads() == 2,
        }
    ]


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process needs to start a contender."""

    name: str  # an arm's, or one of PYTORCH
    config: ml_collections.ConfigDict  # resolved, with its vocabulary
    token_bytes: Sequence[bytes | None]  # of each id
    ids: np.ndarray  # int32 (N, B, T + 1), batches that are used in turn


def start(job: Job) -> Callable[[int], float]:
    """Returns a contender in training: a call with a round's number takes one step and returns its loss in nats.

    PyTorch masks padded vocabulary in its first CHECKED steps only, so that their losses are comparable to ours.
    """
    mesh = device_mesh.make_mesh()
    if job.name not in PYTORCH:
        batches = [sharding.to_devices(batch, mesh) for batch in job.ids]
        return step.Arm(job.config, job.token_bytes, mesh, batches).step
    built = build.build(job.config, job.token_bytes)
    state = jax.jit(lambda: train_step.init_state(built.model, None, job.config))()
    options = {} if job.name == TORCH else {"fused": True}
    params = jax.device_get(state.params)
    trainer = torch_gpt2.Trainer(params, job.config, timing.threads(), compiled=job.name == COMPILED, **options)
    ids, taken = job.ids.astype(np.int64), 0

    def step_pytorch(number: int) -> float:
        nonlocal taken
        taken += 1
        return trainer.step(ids[number % len(ids)], mask_padding=taken <= CHECKED)

    return step_pytorch


def _compiler() -> str:
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


@contextlib.contextmanager
def _elsewhere(job: Job) -> Iterator[Callable[[int], float]]:
    """Starts a contender in its own process, which ends with the `with` block."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=_serve, args=(there, job.name), daemon=True)
    child.start()
    there.close()
    here.send(job)  # after the allocator is set: reading it allocates

    def take(number: int) -> float:
        here.send(number)
        try:
            return here.recv()
        except EOFError:
            raise ChildProcessError(f"the process of {job.name} ended; try a smaller --batch, or free memory") from None

    try:
        yield take
    finally:
        here.close()
        child.join(timeout=5)
        if child.is_alive():
            child.terminate()


def _serve(pipe: connection.Connection, name: str) -> None:
    if name != TORCH:
        allocator.keep_freed()
    take = start(pipe.recv())
    with contextlib.suppress(EOFError):  # the parent is done
        while True:
            pipe.send(take(pipe.recv()))


def _check(losses: Mapping[str, list[float]], against: Sequence[str]) -> None:
    for name in against:
        worst = np.abs(np.subtract(losses[name], losses[SAME_MODEL])).max()
        if not worst <= TOLERANCE:
            raise FloatingPointError(
                f"the first losses of {name} are {losses[name]}, those of {SAME_MODEL} {losses[SAME_MODEL]}; they "
                f"differ by more than {TOLERANCE:g}; leave {name} out of --against and report this"
            )
