"""The encoder's benchmark: time and memory of a model's input side, for every implementation."""

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from kronecker.benchmark import contenders, texts, timing
from kronecker.benchmark.settings import REFERENCE, TABLE, Setting
from kronecker.embedding import codec, implementations
from kronecker.runtime import printing, progress
from kronecker.schema import resolution

BATCHES = 4  # of ids, used in turn; all contenders get the same batch in a round
SEQUENCE = 256  # consecutive ids of the text
TRIAD = "memory bandwidth"
# Largest allowed difference between two contenders, relative to the largest value.
AGREE = {"float32": 1e-4, "bfloat16": 3e-2}


def run(
    settings: Sequence[Setting],
    base: ml_collections.ConfigDict,
    dtype: str,
    cache_limit_mb: float,
    rounds: int,
    seconds: float,
    report: Callable[[dict[str, Any]], None] = lambda setting: None,
) -> dict[str, Any]:
    """Returns the numbers of all settings, ready for JSON; the contenders of a setting are timed in turns.

    `base` has the group `data`, a tokenizer and the optimizer that is timed; `dtype` is of the operands of matrix
    products, `cache_limit_mb` the limit for the codes of "cached"; `rounds` and `seconds` are those of
    `timing.interleave`.  `report` is called with the numbers of each finished setting.

    Raises ValueError if the text is too short, or the tokenizer has more ids than a setting; FloatingPointError if two
    contenders differ by more than AGREE.
    """
    resolved = resolution.resolve(base)
    read: dict[str, texts.Text] = {}
    done = []
    for i, setting in enumerate(settings, 1):
        spec = setting.tokenizer or base.tokenizer
        if spec not in read:
            printing.say(f"reading text and encoding it with {spec}")
            read[spec] = texts.read(spec, base.data)
        given = problem(setting, read[spec], resolved, dtype, cache_limit_mb)
        done.append(measure(setting, given, read[spec], rounds, seconds, f"setting {i}/{len(settings)}"))
        report(done[-1])
    result = {"benchmark": "encoder", "dtype": dtype, "settings": done}
    return result | {"verdicts": verdicts(done)}


def verdicts(settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a verdict for each target; they are set for two cores, GPT-2's ids, 8,192 tokens and d = 768."""
    judged = []
    for setting in settings:
        if (setting["tokens"], setting["d"], setting["tokenizer"]) != (8192, 768, "gpt2"):
            continue
        where = f"P = {setting['P']}"
        ratios, auto = setting["ratios"], setting["auto"]
        target = {16: 50, 32: 25}.get(setting["P"])
        if target and "reference_over_auto_gradient" in ratios:
            found = ratios["reference_over_auto_gradient"]
            what = f"{where}, time of forward + gradient: reference / {auto}"
            judged.append({"what": what, "at_least": target, **found, "reached": found["of_medians"] >= target})
        if "auto_over_table_update" in ratios:
            found = ratios["auto_over_table_update"]
            what = f"{where}, time of forward + gradient + update: {auto} / flax.linen.Embed"
            judged.append({"what": what, "at_most": 1.0, **found, "reached": found["of_medians"] <= 1.0})
    here = jax.default_backend() == "cpu" and os.cpu_count() == 2
    return [{**verdict, "set_for": "two CPU cores", "as_specified": here} for verdict in judged]


def disagreements(entrants: Sequence[contenders.Contender], dtype: str) -> dict[str, float]:
    """Returns each contender's largest difference from the first one, in value or gradient, over the largest value.

    Learned tables are skipped, because they compute something else.  Raises FloatingPointError if one exceeds AGREE.
    """
    products = [entrant for entrant in entrants if entrant.name != TABLE]
    first, found = None, {}
    for entrant in products:
        result = entrant.result()
        first = first or result
        error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(result, first, strict=True))
        if not error <= AGREE[dtype]:
            raise FloatingPointError(
                f"{entrant.name} and {products[0].name} differ by {error:.1e} of the largest entry; at most "
                f"{AGREE[dtype]:.0e} is allowed: one of them is wrong; report this and use neither"
            )
        found[entrant.name] = error
    return found


def problem(
    setting: Setting,
    read: texts.Text,
    base: ml_collections.ConfigDict,
    dtype: str,
    cache_limit_mb: float,
    turns: int = 1,
) -> contenders.Problem:
    """Returns the inputs of a setting's contenders; `base` is resolved, the other arguments are as in `run`.

    Raises ValueError if the text is too short, or the tokenizer has more ids than the setting.
    """
    base = base.copy_and_resolve_references()
    base.model.vocab_multiple = setting.V or base.model.vocab_multiple
    filled = resolution.with_vocabulary(base, read.tokenizer.vocab_size)
    table = codec.byte_table(read.tokenizer.token_bytes, setting.P, filled.model.padded_vocab)
    length = min(SEQUENCE, setting.tokens)
    ids = read.batches(BATCHES, -(-setting.tokens // length), length).reshape(BATCHES, -1)[:, : setting.tokens]
    return contenders.Problem(table, np.ascontiguousarray(ids), setting.d, dtype, filled, cache_limit_mb, turns)


def measure(
    setting: Setting, given: contenders.Problem, read: texts.Text, rounds: int, seconds: float, label: str
) -> dict[str, Any]:
    """Returns the numbers of one setting; `label` begins its progress line, the other arguments are as in `run`.

    Raises FloatingPointError if two contenders differ by more than AGREE.
    """
    gc.collect()  # frees the arrays of an earlier setting
    entrants, refused = [], {}
    with progress.ProgressLine(label, rounds, 0) as line:
        for name in setting.names:
            line.show(0, f"compiling {name}")
            made = contenders.make(name, given)
            if isinstance(made, str):
                refused[name] = made
            else:
                entrants.append(made)
        errors = disagreements(entrants, given.dtype)
        cases = {(entrant.name, measure): call for entrant in entrants for measure, call in entrant.calls.items()}
        triad, triad_bytes = timing.triad(given.turns)
        samples = timing.interleave({**cases, TRIAD: triad}, rounds, seconds, line.show)
    turns = {case: 1 if REFERENCE in case else given.turns for case in samples}
    samples = {case: taken.of_one(turns[case]) for case, taken in samples.items()}
    bandwidth = triad_bytes / samples[TRIAD].median
    auto = implementations.choose(jax.default_backend())
    rows = []
    for entrant in entrants:
        measured = {}
        for measure, least in entrant.least_bytes.items():
            own = samples[entrant.name, measure]
            share = least / own.median / bandwidth
            measured[measure] = {**own.summary(), "least_bytes": least, "bandwidth_share": share}
        row = {"name": entrant.name, "device": entrant.device, "difference": errors.get(entrant.name)}
        rows.append(row | {"measures": measured, "memory": dict(entrant.memory)})
    return {
        "tokens": setting.tokens,
        "d": setting.d,
        "P": setting.P,
        "vocab": len(given.table.lengths),
        "tokenizer": read.tokenizer.spec,
        "source": read.source,
        "distinct_ids": round(float(np.mean([len(np.unique(ids)) for ids in given.ids]))),
        "mean_length": float(given.table.lengths[given.ids].mean()),
        "auto": auto,
        "bandwidth": {"bytes": triad_bytes, "bytes_per_second": bandwidth, **samples[TRIAD].summary()},
        "contenders": rows,
        "refused": refused,
        "ratios": _ratios(samples, auto),
    }


def _ratios(samples: dict[Any, timing.Samples], auto: str) -> dict[str, dict[str, float]]:
    """Returns the time ratios behind the verdicts, where both contenders were timed."""
    pairs = {}
    for measure in contenders.MEASURES:
        pairs[f"auto_over_table_{measure}"] = (auto, measure), (TABLE, measure)
        pairs[f"reference_over_auto_{measure}"] = (REFERENCE, measure), (auto, measure)
        pairs[f"induced_over_bag_{measure}"] = ("induced", measure), ("bag", measure)
    timed = {name: pair for name, pair in pairs.items() if all(side in samples for side in pair)}
    return {name: timing.ratio(samples[a], samples[b]) for name, (a, b) in timed.items()}
