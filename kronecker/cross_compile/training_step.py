"""The sharded training step as a program for a slice of TPUs or for GPUs: what a device needs, sends and could reach.

It is the step that training compiles (`train_step.lower_train_step`), on a mesh of devices that are not there.
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

LARGEST = 12  # sources of collectives that are kept for the record

MOST_ABOVE_TABLE = 20e6  # bytes of temporaries of a Kronecker arm's step on one GPU, above the table's

# What a config for one device becomes on several.
MOST_OF_ACTIVATIONS = 1 / 2  # of a device's memory: what the blocks' values may take before they are computed again
# Kept of one token in one block for the backward pass, bytes for each column of the model's width: about what the
# compiler takes at 124m on v5e and at 1558m on v6e.
BLOCK_BYTES = 100


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was compiled."""

    memory: plan.Memory  # of a device
    exchange: collectives.Exchange  # between the devices
    operations: dict[str, int]  # how many of each of program.KINDS
    calls: dict[str, int]  # how often each custom call runs in a step, by what it calls
    bytes_accessed: float  # by a device: of a TPU as the compiler counts, a loop's body once, of a GPU as `counts`
    model_flops: float  # of a device's share of the batch, by the project's own count
    # by unit; of a TPU these and what is computed again under model.remat, of a GPU as `counts`
    flops: dict[str, float]
    tokens: int  # of the whole batch
    compile_seconds: float

    def seconds(self, target: targets.Target) -> dict[str, float]:
        """Returns the least time of a step for each of three things alone, the links all busy at once.

        "compute" is `flops` at the peaks; "memory" the bytes at the memory's bandwidth as a TPU's compiler counts them
        or, on a GPU and where there are loops, only what every step must: read its arguments and write its results;
        "links" what a device sends, at the bandwidth of all its links.
        """
        least = self.memory.arguments + self.memory.outputs
        partial = target.is_gpu or self.operations["while"]
        return {
            "compute": program.compute_seconds(self.flops, target),
            "memory": (least if partial else self.bytes_accessed) / target.bandwidth,
            "links": self.exchange.sent / target.links,
        }

    def to_json(self, target: targets.Target) -> dict[str, Any]:
        """Returns all of it, with the bound on `target`, what binds, and the share of the peak (MFU) that it leaves."""
        seconds = self.seconds(target)
        by = max(seconds, key=seconds.get)
        return {
            "fits": True,
            "memory": self.memory.to_json(),
            "collectives": self.exchange.by_kind(),
            "sent_bytes": self.exchange.sent,
            "largest": self.exchange.largest(LARGEST),
            "unknown_loops": list(self.exchange.unknown_loops),
            "operations": self.operations,
            "calls": self.calls,
            "bytes_accessed": self.bytes_accessed,
            "model_flops": self.model_flops,
            "flops": self.flops,
            "seconds": seconds,
            # of a GPU, where bytes_accessed is whole: if no kernel found in the cache what one before it has left
            "uncached_seconds": self.bytes_accessed / target.bandwidth if target.is_gpu else None,
            "bound_seconds": seconds[by],
            "by": by,
            "mfu_bound": self.model_flops / target.peak / seconds[by],
            "tokens_per_second_bound": self.tokens / seconds[by],
            "compile_seconds": self.compile_seconds,
        }


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A step that does not fit a device: a TPU's compiler does not make it, a GPU's makes it too large."""

    reason: str  # in the compiler's words
    needed: float | None  # bytes that it would take, where the compiler says so
    remedy: str  # what to set, for more room

    def to_json(self, target: targets.Target) -> dict[str, Any]:
        del target
        return {"fits": False} | dataclasses.asdict(self)


def for_devices(
    config: ml_collections.ConfigDict, own: Mapping[str, Any], target: targets.Target, vocab: int, sequences: int
) -> dict[str, Any]:
    """Returns the keys that make a config for one device one for several, with their values; none if it is already.

    It is if its batch can be split over the devices.  Else a device gets `sequences` sequences and computes in
    bfloat16, layers are a loop, `mesh.fsdp` is the fewest devices that leave room beside parameters and optimizer, and
    `model.remat` is on where the blocks' values would fill the memory.  The dotted keys of `own`, which somebody has
    set, stay as they are.

    The config is not resolved.  Raises ValueError if config.mesh does not make up the number of devices.
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
    """Returns what the compiler makes of a config's training step on all devices, or why it makes none, by form.

    The config is as train.py takes it, not resolved.  Raises ValueError if it does not suit the devices, or the
    compiler refuses it for another reason than memory.
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
    """Returns whether each arm's step fits, and whether Kronecker's take no more than the table's.

    No Kronecker arm's devices may send more than the table's; on one GPU its temporaries may be MOST_ABOVE_TABLE above.
    Each is what, number and limit in bytes (None where not known), met, and the remedy of one that does not fit.
    `compiled` holds the steps by form, by the arms' labels.
    """
    found = []
    for form in target.forms:
        steps_of_form = {name: forms[form] for name, forms in compiled.items()}
        suffix = f", {form}" if form else ""
        found += [_fits(f"{name} fits{suffix}", one) for name, one in steps_of_form.items()]
        table = steps_of_form.get(arms.BASELINE)
        for name, one in steps_of_form.items():
            if name.startswith(arms.TARGETED) and isinstance(one, Step) and isinstance(table, Step):
                found += _against_table(f"{name} {{}} {arms.BASELINE}{{}}{suffix}", target, one, table)
    return found


def _fits(what: str, one: Step | Refusal) -> dict[str, Any]:
    met = isinstance(one, Step)
    return _verdict(what, None, None, met) | {"remedy": None if met else one.remedy}


def _against_table(words: str, target: targets.Target, one: Step, table: Step) -> list[dict[str, Any]]:
    sent, most = one.exchange.sent, table.exchange.sent
    whole = not (one.exchange.unknown_loops or table.exchange.unknown_loops)
    found = [_verdict(words.format("sends no more than", ""), sent, most, whole and sent <= most)]
    if target.is_gpu and len(target.devices) == 1:
        kept, most = one.memory.temporaries, table.memory.temporaries + MOST_ABOVE_TABLE
        what = words.format("has temporaries of at most those of", f" and {MOST_ABOVE_TABLE / 1e6:.0f} MB")
        found.append(_verdict(what, kept, most, kept <= most))
    return found


def _verdict(what: str, number: float | None, limit: float | None, met: bool) -> dict[str, Any]:
    return {"what": what, "number": number, "limit": limit, "met": met, "remedy": None}


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
            raise ValueError(f"the compiler for {target.name} refuses it: {str(error).splitlines()[0]}") from None
        return _refusal(str(error), plan.remedy(c, count, target.memory))
    seconds, text, taken = time.perf_counter() - start, compiled.as_text(), plan.Memory.of(compiled)
    if taken.total > target.memory:
        reason = f"it takes {taken.total / 1e6:,.0f} MB of a device's {target.memory / 1e6:,.0f} MB ({taken})"
        return Refusal(reason, taken.total, plan.remedy(c, count, target.memory))
    counted = counts.of(text, target.cache)
    tokens = c.train.batch * c.train.sequence
    model_flops = accounting.flops_per_token(shape, c.train.sequence) * tokens / count
    again = _recomputed(shape, c.train.sequence) * tokens / count
    return Step(
        memory=taken,
        exchange=collectives.of(text, count),
        operations=program.count_operations(text),
        calls=counted.calls,
        bytes_accessed=counted.bytes_accessed if target.is_gpu else compiled.cost_analysis()["bytes accessed"],
        model_flops=model_flops,
        flops=counted.flops if target.is_gpu else {targets.BFLOAT16: model_flops + again},
        tokens=tokens,
        compile_seconds=seconds,
    )


def _refusal(error: str, remedy: str) -> Refusal:
    told = re.search(r"(?:Used |\()([\d.]+)([KMGT])", error)
    needed = float(told[1]) * 2 ** (10 * (1 + "KMGT".index(told[2]))) if told else None
    words = next(line for line in error.splitlines() if allocator.OUT_OF_MEMORY in line)
    return Refusal(words[words.index(allocator.OUT_OF_MEMORY) :].strip(), needed, remedy)


def _recomputed(shape: transformer.Shape, sequence: int) -> float:
    """Returns the FLOPs for one token of a second forward pass through the blocks."""
    if not shape.remat:
        return 0.0
    return shape.layers * (24.0 * shape.d_model**2 + 4.0 * sequence * shape.d_model)
