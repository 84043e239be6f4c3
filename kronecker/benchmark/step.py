"""The benchmark of whole training steps: how much an arm's input embedding costs there."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from kronecker.benchmark import texts, timing
from kronecker.model import accounting, build, transformer
from kronecker.runtime import determinism, device_mesh, printing, progress, sharding
from kronecker.schema import choices, resolution
from kronecker.schema.arms import BASELINE, KINDS, TARGETED
from kronecker.training import plan, train_step

BATCHES = 4  # of ids, used in turn; all arms get the same batch in a round


def by_implementation(
    arms: Mapping[str, ml_collections.ConfigDict], ways: Sequence[str]
) -> dict[str, ml_collections.ConfigDict]:
    """Returns the arms, those with a bag once for each implementation: "kronecker onthefly", ...

    Tables are returned unchanged; an arm keeps its name under "auto", the default of training.
    """
    made = {}
    for name, c in arms.items():
        if not KINDS[c.embedding.kind].bag:
            made[name] = c
            continue
        for way in ways:
            label = name if way == choices.AUTO else f"{name} {way}"
            made[label] = c.copy_and_resolve_references()
            made[label].embedding.implementation = way
    return made


def run(
    arms: Mapping[str, ml_collections.ConfigDict],
    rounds: int,
    baseline: str = BASELINE,
    turns: int = 1,
    enough: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Returns the numbers of all arms' training steps, ready for JSON.

    Each arm has its own training state, donated from step to step as in training, on all devices.  `arms` are
    unresolved configs by name, which share data, tokenizer, P, batch and sequence.  `turns` steps are timed together,
    dispatched back to back as in training.  `enough` is called before each arm but the first two is compiled; True
    skips this arm and those after it.

    Raises ValueError if a config is invalid, or the text is too short; FloatingPointError if a loss is not finite.
    """
    if baseline not in arms:
        raise ValueError(f"--arms={','.join(arms)}: {baseline} is missing; add it, the others are compared with it")
    mesh = device_mesh.make_mesh()
    resolved, read, ids = problem(arms, mesh)
    first = resolved[baseline]
    t = first.train
    batches = [sharding.to_devices(batch, mesh) for batch in ids]
    entrants: dict[str, Arm] = {}
    for name, c in resolved.items():
        if len(entrants) > 1 and enough():
            break
        printing.say(f"compiling {name}")
        entrants[name] = Arm(c, read.tokenizer.token_bytes, mesh, batches, turns)
    with progress.ProgressLine("steps", rounds, 0) as line:
        timed = timing.interleave({name: arm.step for name, arm in entrants.items()}, rounds, math.inf, line.show)
    samples = {name: taken.of_one(turns) for name, taken in timed.items()}
    rows = []
    for name, arm in entrants.items():
        if not math.isfinite(arm.loss):
            raise FloatingPointError(f"{name}: the loss is {arm.loss}; test the device with scripts/accelerator.py")
        against = timing.ratio(samples[name], samples[baseline])
        speed = t.batch * t.sequence / samples[name].median
        rows.append(
            {"name": name, **arm.facts, "tokens_per_second": speed, "ratio": against, **samples[name].summary()}
        )
    result = {
        "benchmark": "step",
        "baseline": baseline,
        "batch": t.batch,
        "sequence": t.sequence,
        "dtype": first.model.dtype,
        "tokenizer": read.tokenizer.spec,
        "source": read.source,
        "vocab": rows[0]["vocab"],
        "ids": read.tokenizer.vocab_size,
        "P": first.embedding.pos_dim,
        "arms": rows,
        "left_out": [name for name in arms if name not in entrants],
    }
    return result | {"verdicts": verdicts(result)}


def problem(
    arms: Mapping[str, ml_collections.ConfigDict], mesh: jax.sharding.Mesh
) -> tuple[dict[str, ml_collections.ConfigDict], texts.Text, np.ndarray]:
    """Returns the arms' resolved configs, with their vocabulary, the text, and its batches of ids.

    The configs in `arms` are unresolved; they share data, tokenizer, batch and sequence. Raises ValueError if one is
    invalid, or the text is too short.
    """
    resolved = {name: resolution.resolve(c, mesh.size) for name, c in arms.items()}
    first = next(iter(resolved.values()))
    read = texts.read(first.tokenizer, first.data)
    ids = read.batches(BATCHES, first.train.batch, first.train.sequence + 1)
    return {name: resolution.with_vocabulary(c, read.tokenizer.vocab_size) for name, c in resolved.items()}, read, ids


def verdicts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the verdict on the target: a step of the paper's arm takes no longer than the untied table's.

    It is reached if the lower quartile of the rounds' ratios is at most 1.
    """
    return [
        {
            "what": f"time of a step: {row['name']} / {result['baseline']}",
            "at_most": 1.0,
            **row["ratio"],
            "reached": row["ratio"]["low"] <= 1.0,
            "set_for": "GPT-2's vocabulary",
            "as_specified": result["tokenizer"] == "gpt2",
        }
        for row in result["arms"]
        if row["name"] == TARGETED
    ]


def speed(c: ml_collections.ConfigDict, seconds: float, devices: int) -> dict[str, float | None]:
    """Returns tokens and FLOPs per second of a step that takes `seconds`, and its MFU (None: peak unknown)."""
    shape, tokens_per_second = transformer.Shape.of(c.model), c.train.batch * c.train.sequence / seconds
    kind = jax.devices()[0].device_kind
    return {
        "tokens_per_second": tokens_per_second,
        "flops_per_second": accounting.flops_per_token(shape, c.train.sequence) * tokens_per_second,
        "mfu": accounting.mfu(shape, c.train.sequence, tokens_per_second, kind, devices),
    }


class Arm:
    """An arm in training: its `state`, and the `loss` of its last step in nats per token.

    The config is resolved, with its vocabulary.  Batches of ids (B, T + 1) on `mesh` are used in turn, `turns` a call.
    """

    def __init__(
        self,
        c: ml_collections.ConfigDict,
        token_bytes: Sequence[bytes | None],
        mesh: jax.sharding.Mesh,
        batches: Sequence[jax.Array],
        turns: int = 1,
    ) -> None:
        built = build.build(c, token_bytes, mesh)
        self._batches, self._turns = batches, turns
        self._bag = sharding.replicate(built.bag, mesh)
        like = train_step.abstract_state(built.model, self._bag, c, mesh)
        self.state = train_step.init_on_mesh(built.model, self._bag, c, like)
        lowered = train_step.lower_train_step(built.model, self._bag, c, mesh, like)
        self._update = lowered.compile(compiler_options=determinism.compiler_options(c, mesh))
        self._weights = train_step.full_weights(c, mesh)
        self.loss = math.nan
        self.facts = {
            "implementation": built.bag.implementation if built.bag else None,
            "params": accounting.count(self.state.params),
            "buffers_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(self._bag)),
            "memory": plan.Memory.of(self._update).to_json(),
            "vocab": c.model.padded_vocab,
        }

    def step(self, number: int) -> float:
        """Dispatches the steps of one call back to back, waits for all of them, and returns the last one's loss."""
        for turn in range(number * self._turns, (number + 1) * self._turns):
            tokens = self._batches[turn % len(self._batches)]
            self.state, metrics = self._update(self.state, self._bag, tokens, self._weights)
        jax.block_until_ready((self.state, metrics))
        self.loss = float(metrics.loss)
        return self.loss
