"""The sharded training step as a program for a slice of TPUs: what a chip needs, sends and could reach at best.

It is the step that training compiles (`training.step.lower_train_step`), on a mesh of devices that are not there.
"""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from kronecker import build, memory, sharding, tokenizers, transformer
from kronecker import config as configs
from kronecker.cross_compile import collectives, program, targets
from kronecker.training import plan, throughput
from kronecker.training import step as steps

BASELINE = "table_untied"
LARGEST = 12  # sources of collectives that are kept for the record

# What a config for one device becomes on a slice.
MOST_OF_ACTIVATIONS = 1 / 2  # of a chip's memory: what the blocks' values may take before they are computed again
# Kept of one token in one block for the backward pass, bytes for each column of the model's width: about what the
# compiler takes at 124m on v5e and at 1558m on v6e.
BLOCK_BYTES = 100


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was compiled.

    Attributes:
      memory: of a chip.
      exchange: between the chips.
      loops: whether the program has any: the compiler counts their bodies' bytes once.
      bytes_accessed: by a chip, as the compiler counts.
      model_flops: of a chip's share of the batch, by the project's own count.
      flops: these and what is computed again under model.remat.
      tokens: of the whole batch.
      compile_seconds: on this machine.
    """

    memory: plan.Memory
    exchange: collectives.Exchange
    loops: bool
    bytes_accessed: float
    model_flops: float
    flops: float
    tokens: int
    compile_seconds: float

    def seconds(self, chip: targets.Chip) -> dict[str, float]:
        """Returns the least time of a step for each of three things alone, the links all busy at once.

        "compute" is `flops` at the chip's bfloat16 peak; "memory" the compiler's bytes at the memory's bandwidth or,
        with loops, only what every step must: read its arguments and write its results; "links" what a chip sends, at
        the bandwidth of all its links.
        """
        least = self.memory.arguments + self.memory.outputs
        return {
            "compute": self.flops / chip.peak,
            "memory": (least if self.loops else self.bytes_accessed) / chip.bandwidth,
            "links": self.exchange.sent / chip.links,
        }

    def to_json(self, chip: targets.Chip) -> dict[str, Any]:
        """Returns all of it, with the bound on `chip`, what binds, and the share of the peak (MFU) that it leaves."""
        seconds = self.seconds(chip)
        by = max(seconds, key=seconds.get)
        return {
            "fits": True,
            "memory": self.memory.to_json(),
            "collectives": self.exchange.by_kind(),
            "sent_bytes": self.exchange.sent,
            "largest": self.exchange.largest(LARGEST),
            "unknown_loops": list(self.exchange.unknown_loops),
            "loops": self.loops,
            "bytes_accessed": self.bytes_accessed,
            "model_flops": self.model_flops,
            "flops": self.flops,
            "seconds": seconds,
            "bound_seconds": seconds[by],
            "by": by,
            "mfu_bound": self.model_flops / chip.peak / seconds[by],
            "tokens_per_second_bound": self.tokens / seconds[by],
            "compile_seconds": self.compile_seconds,
        }


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A step that the compiler does not make, as it does not fit a chip.

    Attributes:
      reason: in the compiler's words.
      needed: bytes that it would take, where the compiler says so.
      remedy: what to set, for more room.
    """

    reason: str
    needed: float | None
    remedy: str

    def to_json(self, chip: targets.Chip) -> dict[str, Any]:
        """Returns all of it."""
        del chip
        return {"fits": False} | dataclasses.asdict(self)


def for_slice(
    config: ml_collections.ConfigDict, own: Mapping[str, Any], chip: targets.Chip, vocab: int, sequences: int
) -> dict[str, Any]:
    """Returns the keys that make a config for one device one for a slice, with their values; none if it is one already.

    It is one if its batch can be split over the chips.  Else a chip gets `sequences` sequences and computes in
    bfloat16, layers are a loop, `mesh.fsdp` is the fewest chips that leave room beside parameters and optimizer, and
    `model.remat` is on where the blocks' values would fill the memory.

    Args:
      config: not resolved.
      own: dotted keys that somebody has set, which stay as they are.
      chip: with the slice's devices.
      vocab: V.
      sequences: of a chip.

    Raises:
      ValueError: if config.mesh does not make up the number of devices.
    """
    count, c = len(chip.devices), config.copy_and_resolve_references()
    data, fsdp, tensor = configs.mesh_sizes(c.mesh, count)
    micro = c.train.batch // c.train.accumulate
    if micro and micro % (data * fsdp) == 0:
        return {}
    changes = {"model.dtype": "bfloat16", "model.scan_layers": True}
    if not {"mesh.fsdp", "mesh.data"} & set(own):
        fsdp = changes["mesh.fsdp"] = plan.fewest_fsdp(c.model, vocab, chip.memory, count // tensor)
    tokens = sequences * c.train.sequence
    kept = c.model.layers * tokens * c.model.d_model * BLOCK_BYTES
    changes["model.remat"] = kept > MOST_OF_ACTIVATIONS * chip.memory
    changes |= {"train.batch": sequences * (count // tensor), "train.accumulate": 1, "eval.batch": 0}
    flat = configs.flat(c)
    return {key: value for key, value in changes.items() if key not in own and flat[key] != value}


def compile_step(
    chip: targets.Chip, config: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer
) -> Step | Refusal:
    """Returns what the compiler makes of a config's training step on all devices of `chip`, or why it makes none.

    Args:
      chip: with the slice's devices.
      config: as train.py takes it, not resolved.
      tokenizer: the config's.

    Raises:
      ValueError: if the config does not suit the devices, or the compiler refuses it for another reason than memory.
    """
    count = len(chip.devices)
    c = configs.with_vocabulary(configs.resolve(config, count), tokenizer.vocab_size)
    mesh = sharding.make_mesh(c, chip.devices)
    arm = build.build(c, tokenizer.bytes_from(c.embedding.byte_source), mesh)
    start = time.perf_counter()
    like = steps.abstract_state(arm.model, arm.bag, c, mesh)
    try:
        compiled = steps.lower_train_step(arm.model, arm.bag, c, mesh, like).compile()
    except jax.errors.JaxRuntimeError as error:
        if memory.OUT_OF_MEMORY not in str(error):
            raise ValueError(f"the compiler for {chip.name} refuses it: {str(error).splitlines()[0]}") from None
        return _refusal(str(error), plan.remedy(c, count, chip.memory))
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    tokens, shape = c.train.batch * c.train.sequence, arm.model.shape
    model_flops = throughput.flops_per_token(shape, c.train.sequence) * tokens / count
    return Step(
        memory=plan.Memory.of(compiled),
        exchange=collectives.of(text, count),
        loops=program.count_operations(text)["while"] > 0,
        bytes_accessed=compiled.cost_analysis()["bytes accessed"],
        model_flops=model_flops,
        flops=model_flops + _recomputed(shape, c.train.sequence) * tokens / count,
        tokens=tokens,
        compile_seconds=seconds,
    )


def verdicts(compiled: Mapping[str, Step | Refusal]) -> list[dict[str, Any]]:
    """Returns whether each arm's step fits, and whether no Kronecker arm's chips send more than the table's.

    Each is what, number and limit in bytes (None where not known), met, and the remedy of one that does not fit.

    Args:
      compiled: the steps by the arms' labels.
    """
    found = [
        {
            "what": f"{name} fits",
            "number": None,
            "limit": None,
            "met": isinstance(one, Step),
            "remedy": None if isinstance(one, Step) else one.remedy,
        }
        for name, one in compiled.items()
    ]
    table = compiled.get(BASELINE)
    for name, one in compiled.items():
        if not name.startswith("kronecker") or not (isinstance(one, Step) and isinstance(table, Step)):
            continue
        sent, limit = one.exchange.sent, table.exchange.sent
        whole = not (one.exchange.unknown_loops or table.exchange.unknown_loops)
        what = f"{name} sends no more than {BASELINE}"
        met = whole and sent <= limit
        found.append({"what": what, "number": sent, "limit": limit, "met": met, "remedy": None})
    return found


def _refusal(error: str, remedy: str) -> Refusal:
    told = re.search(r"(?:Used |\()([\d.]+)([KMGT])", error)
    needed = float(told[1]) * 2 ** (10 * (1 + "KMGT".index(told[2]))) if told else None
    words = next(line for line in error.splitlines() if memory.OUT_OF_MEMORY in line)
    return Refusal(words[words.index(memory.OUT_OF_MEMORY) :].strip(), needed, remedy)


def _recomputed(shape: transformer.Shape, sequence: int) -> float:
    """Returns the FLOPs for one token of a second forward pass through the blocks."""
    if not shape.remat:
        return 0.0
    return shape.layers * (24.0 * shape.d_model**2 + 4.0 * sequence * shape.d_model)
