"""Compiles the sharded training step for TPUs or GPUs: a device's memory, communication and time bounds.

It is the step that training compiles (`train_step.lower_train_step`), on a mesh of the target's devices.
"""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from kronecker import tokenization
from kronecker.cross_compile import collectives, counts, program, targets
from kronecker.model import accounting, build, transformer
from kronecker.runtime import allocator, determinism, device_mesh
from kronecker.schema import arms, dotted, resolution
from kronecker.training import plan, train_step

LARGEST = 12  # sources of collectives in the record

MOST_ABOVE_TABLE = 20e6  # bytes by which temporaries of a Kronecker arm's step on one GPU may exceed the table's

# For changing a config for one device to several.
MOST_OF_ACTIVATIONS = 1 / 2  # of a device's memory: above it, model.remat recomputes the blocks' activations
# Bytes saved for the backward pass per token, block and column of the model's width: about what the compiler needs at
# 124m on v5e and at 1558m on v6e.
BLOCK_BYTES = 100


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step."""

    memory: plan.Memory  # of a device
    exchange: collectives.Exchange  # between the devices
    operations: dict[str, int]  # number of each of program.KINDS
    calls: dict[str, int]  # custom call -> its runs in a step
    bytes_accessed: float  # by a device: on a TPU by the compiler, a loop's body once; on a GPU by `counts`
    model_flops: float  # of a device's share of the batch, by accounting.flops_per_token
    # executed, by unit: on a TPU model_flops and the recomputation of model.remat; on a GPU by `counts`
    flops: dict[str, float]
    tokens: int  # of the whole batch
    compile_seconds: float

    def seconds(self, target: targets.Target) -> dict[str, float]:
        """Returns three lower bounds on the time of a step.

        "compute": `flops` at the peaks.  "memory": on a TPU without loops the compiler's bytes at the memory's
        bandwidth; otherwise only reading the arguments and writing the outputs.  "links": the bytes that a device
        sends, at the bandwidth of all its links.
        """
        least = self.memory.arguments + self.memory.outputs
        partial = target.is_gpu or self.operations["while"]
        return {
            "compute": program.compute_seconds(self.flops, target),
            "memory": (least if partial else self.bytes_accessed) / target.bandwidth,
            "links": self.exchange.sent / target.links,
        }

    def to_json(self, target: targets.Target) -> dict[str, Any]:
        """Returns all fields, and the bounds on time, MFU and tokens per second on `target`."""
        seconds = self.seconds(target)
        by = max(seconds, key=seconds.get)
        copied = ("operations", "calls", "bytes_accessed", "model_flops", "flops", "compile_seconds")
        return {name: getattr(self, name) for name in copied} | {
            "fits": True,
            "memory": self.memory.to_json(),
            "collectives": self.exchange.by_kind(),
            "sent_bytes": self.exchange.sent,
            "largest": self.exchange.largest(LARGEST),
            "unknown_loops": list(self.exchange.unknown_loops),
            "seconds": seconds,
            # on a GPU, where loops are counted: the time of bytes_accessed if the cache never helped
            "uncached_seconds": self.bytes_accessed / target.bandwidth if target.is_gpu else None,
            "bound_seconds": seconds[by],
            "by": by,
            "mfu_bound": self.model_flops / target.peak / seconds[by],
            "tokens_per_second_bound": self.tokens / seconds[by],
        }


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A step that does not fit a device: a TPU's compiler rejected it, or it needs more than a GPU's memory."""

    reason: str  # the compiler's message
    needed: float | None  # bytes, if the compiler reports them
    remedy: str  # flags that need less memory

    def to_json(self, target: targets.Target) -> dict[str, Any]:
        del target
        return {"fits": False} | dataclasses.asdict(self)


def for_devices(
    config: ml_collections.ConfigDict, own: Mapping[str, Any], target: targets.Target, vocab: int, sequences: int
) -> dict[str, Any]:
    """Returns the keys, with values, that adapt a config for one device to several.

    Empty if the batch can be split over the devices.  Otherwise a device gets `sequences` sequences and computes in
    bfloat16, layers are a loop, `mesh.fsdp` is the smallest with which parameters and optimizer fit, and `model.remat`
    is on if the blocks' activations would fill the memory.  The dotted keys of `own`, set by the user, stay.

    The config is unresolved.  Raises ValueError if config.mesh does not match the number of devices.
    """
    count, c = len(target.devices), config.copy_and_resolve_references()
    data, fsdp, tensor = resolution.mesh_sizes(c.mesh, count)
    micro = c.train.batch // c.train.accumulate
    if micro and micro % (data * fsdp) == 0:
        return {}
    changes = {"model.dtype": "bfloat16", "model.scan_layers": True}
    if not {"mesh.fsdp", "mesh.data"} & set(own):
        fsdp = changes["mesh.fsdp"] = plan.fewest_fsdp(c.model, vocab, target.memory, count // tensor)
    tokens = sequences * c.train.sequence
    kept = c.model.layers * tokens * c.model.d_model * BLOCK_BYTES
    changes["model.remat"] = kept > MOST_OF_ACTIVATIONS * target.memory
    changes |= {"train.batch": sequences * (count // tensor), "train.accumulate": 1, "eval.batch": 0}
    flat = dotted.flat(c)
    return {key: value for key, value in changes.items() if key not in own and flat[key] != value}


def compile_step(
    target: targets.Target, config: ml_collections.ConfigDict, tokenizer: tokenization.Tokenizer
) -> dict[str, Step | Refusal]:
    """Returns a config's training step compiled for all devices, or why it does not fit, by form.

    The config is as for train.py, unresolved.  Raises ValueError if it does not suit the devices, or the compiler
    rejects it for another reason than memory.
    """
    count = len(target.devices)
    c = resolution.with_vocabulary(resolution.resolve(config, count), tokenizer.vocab_size)
    mesh = device_mesh.make_mesh(c, target.devices)
    options = determinism.compiler_options(c, mesh)
    arm = build.build(c, tokenizer.bytes_from(c.embedding.byte_source), mesh)
    like = train_step.abstract_state(arm.model, arm.bag, c, mesh)
    lowered = train_step.lower_train_step(arm.model, arm.bag, c, mesh, like)
    shape = arm.model.shape
    return {form: _compile(target, lowered, options | own, c, shape) for form, own in target.forms.items()}


def verdicts(target: targets.Target, compiled: Mapping[str, Mapping[str, Step | Refusal]]) -> list[dict[str, Any]]:
    """Returns the verdicts: each arm's step fits, and a Kronecker arm needs no more than the table.

    Its devices may send no more than the table's; on one GPU its temporaries may exceed the table's by
    MOST_ABOVE_TABLE.  Each verdict has what, number and limit in bytes (None if unknown), met, and the remedy if the
    step does not fit.  `compiled` holds the steps by arm, then by form.
    """
    found = []

    def add(what: str, met: bool, number: float | None = None, limit: float | None = None, remedy: str | None = None):
        found.append({"what": what, "number": number, "limit": limit, "met": met, "remedy": remedy})

    for form in target.forms:
        steps = {name: forms[form] for name, forms in compiled.items()}
        suffix = f", {form}" if form else ""
        for name, one in steps.items():
            add(f"{name} fits{suffix}", isinstance(one, Step), remedy=one.remedy if isinstance(one, Refusal) else None)
        table = steps.get(arms.BASELINE)
        for name, one in steps.items():
            if not (name.startswith(arms.TARGETED) and isinstance(one, Step) and isinstance(table, Step)):
                continue
            sent, most = one.exchange.sent, table.exchange.sent
            whole = not (one.exchange.unknown_loops or table.exchange.unknown_loops)
            add(f"{name} sends no more than {arms.BASELINE}{suffix}", whole and sent <= most, sent, most)
            if target.is_gpu and len(target.devices) == 1:
                kept, most = one.memory.temporaries, table.memory.temporaries + MOST_ABOVE_TABLE
                above = f"{MOST_ABOVE_TABLE / 1e6:.0f} MB"
                what = f"temporaries of {name} exceed {arms.BASELINE}'s by at most {above}{suffix}"
                add(what, kept <= most, kept, most)
    return found


def _compile(
    target: targets.Target,
    lowered: jax.stages.Lowered,
    options: Mapping[str, bool],
    c: ml_collections.ConfigDict,
    shape: transformer.Shape,
) -> Step | Refusal:
    count, start = len(target.devices), time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if allocator.OUT_OF_MEMORY not in str(error):
            raise ValueError(f"--target={target.name}: the compiler failed: {str(error).splitlines()[0]}") from None
        return _refusal(str(error), plan.remedy(c, count, target.memory))
    seconds, text, taken = time.perf_counter() - start, compiled.as_text(), plan.Memory.of(compiled)
    if taken.total > target.memory:
        reason = f"needs {taken.total / 1e6:,.0f} MB, a device has {target.memory / 1e6:,.0f} MB ({taken})"
        return Refusal(reason, taken.total, plan.remedy(c, count, target.memory))
    counted = counts.of(text, target.cache)
    tokens = c.train.batch * c.train.sequence
    model_flops = accounting.flops_per_token(shape, c.train.sequence) * tokens / count
    # FLOPs per token of a second forward pass through the blocks
    again = shape.layers * (24.0 * shape.d_model**2 + 4.0 * c.train.sequence * shape.d_model) if shape.remat else 0.0
    return Step(
        memory=taken,
        exchange=collectives.of(text, count),
        operations=program.count_operations(text),
        calls=counted.calls,
        bytes_accessed=counted.bytes_accessed if target.is_gpu else compiled.cost_analysis()["bytes accessed"],
        model_flops=model_flops,
        flops=counted.flops if target.is_gpu else {targets.BFLOAT16: model_flops + again * tokens / count},
        tokens=tokens,
        compile_seconds=seconds,
    )


def _refusal(error: str, remedy: str) -> Refusal:
    found = re.search(r"(?:Used |\()([\d.]+)([KMGT])", error)
    needed = float(found[1]) * 2 ** (10 * (1 + "KMGT".index(found[2]))) if found else None
    line = next(line for line in error.splitlines() if allocator.OUT_OF_MEMORY in line)
    return Refusal(line[line.index(allocator.OUT_OF_MEMORY) :].strip(), needed, remedy)
