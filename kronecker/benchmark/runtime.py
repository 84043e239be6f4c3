"""What it costs to write codes on the fly, to keep them all, or to sum rows instead: the paper's section 4.

Whole training steps, in turns, of a table and of the Kronecker arm in each of these ways.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from kronecker import config
from kronecker.benchmark import machine, step
from kronecker.probes import conditions, result

TABLE, KRONECKER = ARMS = (step.BASELINE, step.TARGETED)
AUTO = "auto"
WAYS = (AUTO, "onthefly", "cached")  # of embedding.implementation
ROUNDS = 10
# The paper's V and P.  The tokenizer's own ids are those of real text; the others are padding, which costs as much.
SETTING = {"model.vocab_multiple": 131_072, "embedding.pos_dim": 32, "embedding.cache_limit_mb": 6000.0}
SIZE = {"train.batch": 8, "train.sequence": 128, "train.accumulate": 1}
PAPER = (
    ("kronecker", "onthefly", 4.46, None, None, "0.01 to 0.24", None, None),
    ("kronecker", "cached, bfloat16", 2150.0, None, None, None, None, None),
)


def measure(arms: Mapping[str, ml_collections.ConfigDict], rounds: int = ROUNDS) -> result.Result:
    """Returns buffers and step times of the table and of each way to compute the Kronecker input.

    Args:
      arms: the configs of ARMS, not resolved; vocabulary, P and batch are replaced by SETTING and SIZE.
      rounds: times that all is run, at least 5.

    Raises:
      ValueError: if a config cannot work.
    """
    timed = {TABLE: _config(arms[TABLE])}
    timed |= {_name(way): _config(arms[KRONECKER], **{"embedding.implementation": way}) for way in WAYS}
    return to_result(step.run(timed, rounds), timed[TABLE])


def to_result(timed: Mapping[str, Any], table_config: ml_collections.ConfigDict) -> result.Result:
    """Returns the table of what `step.run` gave, in its order.

    Args:
      timed: its numbers; the table is the baseline.
      table_config: the table's config, for the conditions.
    """
    facts = machine.facts()
    device = facts["devices"][0] if facts["platform"] != "cpu" else f"{facts['cores']} cores of {facts['processor']}"
    table = next(row for row in timed["arms"] if row["name"] == TABLE)["median_seconds"]
    return result.Result(
        name="runtime",
        title="Memory kept beside the parameters, and time of a training step",
        source="4",
        conditions={
            "device": device,
            "vocabulary": f"{timed['vocab']:,}",
            "P": str(table_config.embedding.pos_dim),
            "model": conditions.model(config.flat(table_config)),
            "batch": f"{timed['batch']} x {timed['sequence']} tokens",
            "type": timed["dtype"],
            "text": f"{timed['source']} in {timed['tokenizer']}'s ids, the rest of the vocabulary is padding",
            "versions": ", ".join(f"{name} {facts['versions'][name]}" for name in ("jax", "jaxlib")),
            "load average": f"{machine.load()[0]:g} at the end",
        },
        columns=("arm", "input", "buffers, MB", "step, ms", "more than the table, ms", "%", "% low", "high"),
        rows=[_row(row, table) for row in timed["arms"]],
        paper=PAPER,
        notes=(
            "%: of the table's step, by medians; low and high: quartiles round by round. With so many ids the head and "
            "its update are most of so small a model's step, and what the input takes is a small part of it.",
            "The paper's percentage is of its own step, 1 to 4 ms a micro-batch, and not against a table.",
        ),
        paper_conditions={"vocabulary": "131,072", "P": "32"},
    )


def _row(row: Mapping[str, Any], table: float) -> tuple[result.Cell, ...]:
    seconds = row["median_seconds"]
    timed = (row["buffers_bytes"] / 1e6, 1e3 * seconds)
    if row["name"] == TABLE:
        return (TABLE, "look-up", *timed, None, None, None, None)
    ratios = (seconds / table, row["ratio"]["low"], row["ratio"]["high"])
    return (KRONECKER, row["implementation"], *timed, 1e3 * (seconds - table), *(100 * (one - 1) for one in ratios))


def _config(base: ml_collections.ConfigDict, **own: Any) -> ml_collections.ConfigDict:
    made = base.copy_and_resolve_references()
    made.update_from_flattened_dict(SETTING | SIZE | own)
    return made


def _name(way: str) -> str:
    return KRONECKER if way == AUTO else f"{KRONECKER} {way}"
