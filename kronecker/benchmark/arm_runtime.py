"""Memory and step time of cached codes, codes computed on the fly, and summed rows: the paper's section 4.

Whole training steps of a table and of the Kronecker arm with each implementation, timed in turns.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from kronecker.benchmark import step, timing
from kronecker.run import measured_on, result
from kronecker.runtime import machine
from kronecker.schema import dotted
from kronecker.schema.arms import BASELINE, TARGETED

TABLE, KRONECKER = ARMS = (BASELINE, TARGETED)
CACHED = "cached"
WAYS = ("auto", "onthefly", CACHED)  # of embedding.implementation
ROUNDS = 10
# The paper's V and P.  Ids beyond the tokenizer's are padding, which costs as much.
SETTING = {"model.vocab_multiple": 131_072, "embedding.pos_dim": 32, "embedding.cache_limit_mb": 6000.0}
SIZE = {"train.batch": 8, "train.sequence": 128, "train.accumulate": 1}
COLUMNS = (
    *("arm", "input", "buffers, MB", "step, ms"),
    *("over table, ms", "over table, %", "% low", "% high"),
    *("over cached, %", "its low", "its high"),
)
PAPER = (
    (KRONECKER, "onthefly", 4.46, None, None, None, None, None, "0.01 to 0.24", None, None),
    (KRONECKER, "cached, bfloat16", 2150.0, *[None] * 8),
)


def measure(arms: Mapping[str, ml_collections.ConfigDict], rounds: int = ROUNDS) -> result.Result:
    """Returns buffers and step times of the table and of each implementation of the Kronecker input.

    `arms` holds the unresolved configs of ARMS; SETTING and SIZE replace vocabulary, P and batch.
    """
    own = {arm: arms[arm].copy_and_resolve_references() for arm in ARMS}
    for c in own.values():
        c.update_from_flattened_dict(SETTING | SIZE)
    timed = step.by_implementation(own, WAYS)
    return to_result(step.run(timed, rounds), timed[TABLE])


def to_result(timed: Mapping[str, Any], table_config: ml_collections.ConfigDict) -> result.Result:
    """Returns the result table of `step.run`'s numbers, in their order; the learned table is the baseline."""
    facts = machine.facts()
    device = facts["devices"][0] if facts["platform"] != "cpu" else f"{facts['cores']} cores of {facts['processor']}"
    table = next(row for row in timed["arms"] if row["name"] == TABLE)
    cached = next(row for row in timed["arms"] if row["implementation"] == CACHED)
    return result.Result(
        name="runtime",
        title="Buffers besides the parameters, and time of a training step",
        source="4",
        conditions={
            "device": device,
            "vocabulary": f"{timed['vocab']:,}",
            "P": str(table_config.embedding.pos_dim),
            "model": measured_on.model(dotted.flat(table_config)),
            "batch": f"{timed['batch']} x {timed['sequence']} tokens",
            "type": timed["dtype"],
            "text": f"{timed['source']} in {timed['tokenizer']}'s ids; the other ids are padding",
            "versions": ", ".join(f"{name} {facts['versions'][name]}" for name in ("jax", "jaxlib")),
            "rounds": str(len(table["rounds"])),
            "load average": f"{machine.load()[0]:g} at the end",
        },
        columns=COLUMNS,
        rows=[_row(row, table, cached) for row in timed["arms"]],
        paper=PAPER,
        notes=(
            "over table, over cached: by how much a step takes longer than the table's step or that with cached codes "
            "of the same round; median over rounds, low and high: quartiles. If they differ in sign, the difference is "
            "not resolved. In ms: difference of the median step times.",
            "The paper gives the time to compute codes (1 to 4 ms a micro-batch) as a share of its own step. The "
            "closest number here is over cached.",
            "In a model this small the head and its update take most of a step. The product of codes and projection "
            "has 4 % of the head's FLOPs at any width, so the input's share of a step is far larger here than in the "
            "paper's models, whose blocks take most of the FLOPs.",
        ),
        paper_conditions={"vocabulary": "131,072", "P": "32"},
    )


def _row(row: Mapping[str, Any], table: Mapping[str, Any], cached: Mapping[str, Any]) -> tuple[result.Cell, ...]:
    arm, way = (TABLE, "look-up") if row is table else (KRONECKER, row["implementation"])
    more = None if row is table else 1e3 * (row["median_seconds"] - table["median_seconds"])
    timed = (row["buffers_bytes"] / 1e6, 1e3 * row["median_seconds"], more)
    return (arm, way, *timed, *_over(row, table), *_over(row, cached))


def _over(row: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[result.Cell, ...]:
    if row is other:
        return (None, None, None)
    against = timing.ratio(*(timing.Samples(tuple(one["rounds"]), tuple(one["seconds"])) for one in (row, other)))
    return tuple(100 * (one - 1) for one in (against["median"], against["low"], against["high"]))
