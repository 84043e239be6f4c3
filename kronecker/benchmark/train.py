"""The benchmark of the trainer: tokens per second and MFU by size, and how that compares with PyTorch.

Against PyTorch each contender lives in a process of its own, as a user's run would, and takes its turn there: neither
one's threads or memory meet the other's.  Before they are timed, their first losses must agree.
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
from kronecker.runtime import allocator, device_mesh, progress, sharding
from kronecker.schema.arms import BASELINE
from kronecker.training import train_step

RIVAL, TUNED, COMPILED = "torch", "torch_tuned", "torch_compiled"
RIVALS = {
    RIVAL: "PyTorch as it comes",
    TUNED: "the same with AdamW's fused kernel and freed memory kept, as train.py keeps it",
    COMPILED: "the tuned one, its model and loss under torch.compile",
}
SAME_MODEL = BASELINE  # the arm that PyTorch's model is
TARGETS = {"micro": 1.5, "124m": 1.2}  # times the tokens per second of RIVAL, on two cores
CHECKED = 3  # steps whose losses must agree
TOLERANCE = 1e-4  # nats per token


def run(arms: Mapping[str, ml_collections.ConfigDict], rivals: Sequence[str], rounds: int, size: str) -> dict[str, Any]:
    """Returns the numbers of one size, ready for JSON; with no rivals, the arms are timed in this process.

    `arms` are configs by name, not resolved, that share data, tokenizer, batch and sequence.

    Raises ValueError if a config cannot work, the text is too short, a rival lacks what it needs, or PyTorch is to run
    beside an accelerator; FloatingPointError if a loss is not finite, or PyTorch's is another.
    """
    if rivals and SAME_MODEL not in arms:
        raise ValueError(f"the arms are {', '.join(arms)}; {SAME_MODEL}, which PyTorch's model is, is missing")
    if rivals and jax.default_backend() != "cpu":
        raise ValueError(f"--against is for CPU, and this is {jax.default_backend()}; set JAX_PLATFORMS=cpu")
    if rivals and not importlib.util.find_spec("torch"):
        raise ValueError(f"--against={','.join(rivals)}: PyTorch is not installed; `make reference` installs it")
    if COMPILED in rivals and not shutil.which(_compiler()):
        raise ValueError(
            f"--against={COMPILED}: torch.compile needs a C++ compiler and {_compiler()} is not there; install it, or "
            "name another in the environment variable CXX"
        )
    mesh = device_mesh.make_mesh()
    made, read, ids = step.problem(arms, mesh)
    shared = next(iter(made.values()))
    t = shared.train
    jobs = {name: Job(name, c, read.tokenizer.token_bytes, ids) for name, c in made.items()}
    jobs |= {name: Job(name, made[SAME_MODEL], read.tokenizer.token_bytes, ids) for name in rivals}
    with contextlib.ExitStack() as stack:
        entrants = {}
        for name, job in jobs.items():
            print(f"{size}: starting {name}", file=sys.stderr)
            entrants[name] = stack.enter_context(_elsewhere(job)) if rivals else start(job)
        first = {name: [entrant(number) for number in range(CHECKED)] for name, entrant in entrants.items()}
        _check(first, rivals)
        with progress.ProgressLine(f"{size} steps", rounds, 0) as line:
            samples = timing.interleave(entrants, rounds, math.inf, line.show)
        last = {name: entrant(0) for name, entrant in entrants.items()}
    for name, loss in last.items():
        if not math.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss}, and the time of such a step means nothing")
    rows = [_row(name, jobs[name].config, samples, first[name], rivals) for name in jobs]
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
    """Returns what became of the size's target: reached means that the median of the rounds' ratios is."""
    rows = {row["name"]: row for row in result["contenders"]}
    if RIVAL not in rows or result["size"] not in TARGETS:
        return []
    speedup, target = rows[SAME_MODEL]["speedup"][RIVAL], TARGETS[result["size"]]
    return [
        {
            "what": f"{result['size']}: tokens per second over PyTorch's",
            "at_least": target,
            **speedup,
            "reached": speedup["median"] >= target,
            "set_for": "GPT-2's vocabulary and two threads",
            "as_specified": result["tokenizer"] == "gpt2" and timing.threads() == 2,
        }
    ]


@dataclasses.dataclass(frozen=True)
class Job:
    """A contender before it is made."""

    name: str  # an arm's, or one of RIVALS
    config: ml_collections.ConfigDict  # resolved, with its vocabulary
    token_bytes: Sequence[bytes | None]  # of each id
    ids: np.ndarray  # int32 (N, B, T + 1), batches that are taken in turn


def start(job: Job) -> Callable[[int], float]:
    """Returns a contender in training: a call with a round's number takes one step and returns its loss in nats.

    A rival's first CHECKED steps mask padded vocabulary, so that their losses are comparable; later ones do without.
    """
    mesh = device_mesh.make_mesh()
    if job.name not in RIVALS:
        arm = step.Arm(job.config, job.token_bytes, mesh, [sharding.to_devices(batch, mesh) for batch in job.ids])

        def take(number: int) -> float:
            arm.step(number)
            return arm.loss

        return take
    built = build.build(job.config, job.token_bytes)
    state = jax.jit(lambda: train_step.init_state(built.model, None, job.config))()
    options = {} if job.name == RIVAL else {"fused": True}
    params = jax.device_get(state.params)
    trainer = torch_gpt2.Trainer(params, job.config, timing.threads(), compiled=job.name == COMPILED, **options)
    ids, taken = job.ids.astype(np.int64), 0

    def take_rival(number: int) -> float:
        nonlocal taken
        taken += 1
        return trainer.step(ids[number % len(ids)], mask_padding=taken <= CHECKED)

    return take_rival


def _compiler() -> str:
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


@contextlib.contextmanager
def _elsewhere(job: Job) -> Iterator[Callable[[int], float]]:
    """Starts a contender in a process of its own, which ends with the `with` block."""
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
            raise ChildProcessError(f"the process of {job.name} ended; is there enough memory?") from None

    try:
        yield take
    finally:
        here.close()
        child.join(timeout=5)
        if child.is_alive():
            child.terminate()


def _serve(pipe: connection.Connection, name: str) -> None:
    if name != RIVAL:
        allocator.keep_freed()
    take = start(pipe.recv())
    with contextlib.suppress(EOFError):  # the parent is done
        while True:
            pipe.send(take(pipe.recv()))


def _check(losses: Mapping[str, list[float]], rivals: Sequence[str]) -> None:
    for name in rivals:
        worst = np.abs(np.subtract(losses[name], losses[SAME_MODEL])).max()
        if not worst <= TOLERANCE:
            raise FloatingPointError(
                f"{name}'s first losses are {losses[name]} and {SAME_MODEL}'s {losses[SAME_MODEL]}: not the same model"
            )


def _row(
    name: str,
    c: ml_collections.ConfigDict,
    samples: Mapping[str, timing.Samples],
    losses: list[float],
    rivals: Sequence[str],
) -> dict[str, Any]:
    return {
        "name": name,
        "what": RIVALS.get(name, "ours"),
        **step.speed(c, samples[name].median, jax.device_count()),
        "flops_per_token": accounting.flops_per_token(transformer.Shape.of(c.model), c.train.sequence),
        "first_losses": losses,
        "speedup": {rival: timing.ratio(samples[rival], samples[name]) for rival in rivals},
        **samples[name].summary(),
    }
