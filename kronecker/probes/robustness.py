"""How much one typo changes a model's prediction: the paper's section 6.11, for one run or two.

Shapes: N pairs of prompts, B prompts of a batch, T time, V vocabulary (padded), d model width.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kronecker.model import build
from kronecker.probes import paired, prompts, shifts
from kronecker.run import measured_on
from kronecker.run.result import Result
from kronecker.schema import dotted
from kronecker.training import restore

SOURCE = "6.11"
FINAL_NORM = "final_norm"  # the module of the transformer whose output is the last hidden states
LOGITS = 2**26  # of a batch: 256 MB
LABELS = {
    "stable": "top-1 stable, share",
    "kl": "KL(clean || typo), nats",
    "cosine": "cosine of hidden states",
    "drop": "drop of log p(top-1), nats",
}
PAPER = (("table, tied", 110, 0.473, 0.859, 0.857, 1.199), ("Kronecker", 110, 0.555, 0.794, 0.879, 1.058))
PAPER_CONDITIONS = measured_on.PAPER | {
    "arms": "table, tied, against Kronecker",
    "prompts": "110 pairs in 11 categories",
    "seeds": "1",
}
# Kronecker minus table: `paired.compare`, seed 0, of the outputs in the author's repository.  The paper has no tests.
PAPER_STATISTICS = {
    "stable": (0.082, -0.018, 0.182, "McNemar", 0.175),
    "kl": (-0.065, -0.182, 0.085, "Wilcoxon", 0.005),
    "cosine": (0.022, 0.014, 0.031, "Wilcoxon", 3.8e-6),
    "drop": (-0.141, -0.456, 0.146, "Wilcoxon", 0.722),
}
PAPER_PAIRED = tuple(
    (LABELS[metric], a, b, *PAPER_STATISTICS[metric])
    for metric, a, b in zip(shifts.METRICS, PAPER[0][2:], PAPER[1][2:], strict=True)
)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What typos do to one run."""

    name: str  # arm and seed, for tables
    conditions: dict[str, str]  # what it was measured on
    pairs: tuple[prompts.Pair, ...]  # the prompts, (N,)
    shifts: tuple[shifts.Shift, ...]  # of each pair, (N,)
    clean_tokens: np.ndarray  # int (N,), tokens of the clean prompts
    typo_tokens: np.ndarray  # int (N,), tokens of the misspelled ones

    def values(self, metric: str) -> np.ndarray:
        """Returns one of shifts.METRICS of every pair, (N,): bool for `stable`, else float64."""
        return np.array([getattr(one, metric) for one in self.shifts])


def measure(run: restore.Restored, pairs: Sequence[prompts.Pair]) -> Measured:
    """Returns what each pair's typo does to a run's predictions.

    A prompt begins with the end-of-text id, as a document does in training.

    Raises ValueError if there are no pairs, or a prompt is longer than the model's context.
    """
    if not pairs:
        raise ValueError("there are no prompt pairs; give at least one")
    tokens = run.tokenizer.encode_batch([text for pair in pairs for text in (pair.clean, pair.typo)])
    found = last_positions(run.arm, run.params, [[run.tokenizer.eot_id, *ids.tolist()] for ids in tokens])
    measured = []
    for (clean_V, clean_d), (typo_V, typo_d) in zip(found, found, strict=True):  # one iterator, two at a time
        measured.append(shifts.shift(clean_V, typo_V, clean_d, typo_d))
    counts = np.array([len(ids) for ids in tokens])
    conditions = {
        "prompts": f"{len(pairs):,} pairs in {len(prompts.groups(pairs, 'category')):,} categories",
        "tokenizer": run.tokenizer.name,
    }
    conditions = measured_on.of_run(dotted.flat(run.config), run.step) | conditions
    name = f"{run.config.embedding.arm}-seed{run.config.seed}"
    return Measured(name, conditions, tuple(pairs), tuple(measured), counts[::2], counts[1::2])


def last_positions(
    arm: build.Arm, params: dict[str, Any], texts: Sequence[Sequence[int]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields logits (V,) and the final hidden state (d,), float32, at the last position of each text of token ids.

    Texts are padded on the right to one length; padding does not change earlier positions of a causal model.  Raises
    ValueError if a text has no ids or more than the model's context.
    """
    arm, params = build.with_table(arm, params)
    shape = arm.model.shape
    last_N = np.array([len(text) - 1 for text in texts], np.int32)
    for wrong in np.flatnonzero((last_N < 0) | (last_N >= shape.context)).tolist():
        raise ValueError(f"prompt {wrong} has {last_N[wrong] + 1:,} tokens; give 1 to {shape.context:,} (the context)")
    ids_NT = np.zeros((len(texts), last_N.max() + 1), np.int32)
    for row, text in enumerate(texts):
        ids_NT[row, : len(text)] = text
    batch = int(np.clip(LOGITS // (ids_NT.shape[1] * shape.padded_vocab), 1, len(texts)))
    forward = jax.jit(functools.partial(_forward, arm.model))
    for start in range(0, len(texts), batch):
        rows = np.arange(start, start + batch) % len(texts)  # the last batch is filled up, so it needs no new program
        logits_BV, hidden_Bd = jax.device_get(forward(params, arm.bag, ids_NT[rows], last_N[rows]))
        yield from zip(logits_BV[: len(texts) - start], hidden_Bd, strict=False)


def _forward(model, params, bag, ids_BT, last_B):
    logits_BTV, found = model.apply(
        {"params": params},
        ids_BT,
        bag,
        capture_intermediates=lambda module, _: module.name == FINAL_NORM,
        mutable=["intermediates"],
    )
    (hidden_BTd,) = found["intermediates"][FINAL_NORM]["__call__"]
    rows_B = jnp.arange(len(last_B))
    return logits_BTV[rows_B, last_B], hidden_BTd[rows_B, last_B].astype(jnp.float32)


def describe(*runs: Measured) -> list[Result]:
    """Returns the metrics of each run, and how typos change the number of tokens.

    Raises ValueError if the runs have different prompts or tokenizers.
    """
    first = _alike(runs)
    rows = [
        (run.name, len(run.pairs), *(float(run.values(metric).mean()) for metric in shifts.METRICS)) for run in runs
    ]
    means = Result(
        *("robustness", "What a typo changes at the last position: means over prompts", SOURCE, _conditions(runs)),
        *(("arm", "pairs", *LABELS.values()), rows, PAPER),
        (
            "A typo changes little in a model that uses its context little: read these beside the losses of the runs.",
            "The paper's 110 pairs are in its author's repository (robustness_results.json, which --pairs of "
            "scripts/probe.py reads). Ours are other pairs, so the numbers are not comparable with the paper's.",
        ),
        PAPER_CONDITIONS,
    )
    groups = {"all": list(range(len(first.pairs)))} | prompts.groups(first.pairs, "operator")
    counted = []
    for name, places in groups.items():
        clean, typo = first.clean_tokens[places], first.typo_tokens[places]
        counted.append((name, len(places), int(clean.sum()), int(typo.sum()), float((typo / clean).mean())))
    tokens = Result(
        *("robustness_tokens", "Tokens of the misspelled prompts over tokens of the clean ones", ""),
        {key: first.conditions[key] for key in ("prompts", "tokenizer")},
        ("operator", "pairs", "clean tokens", "typo tokens", "inflation: mean over pairs"),
        counted,
        notes=("These counts depend on the tokenizer alone, so all arms have the same.",),
    )
    return [means, tokens]


def compare(a: Measured, b: Measured, seed: int = 0) -> list[Result]:
    """Returns paired statistics of B against A, the baseline: of all prompts, by category, by operator.

    `seed` is that of the bootstrap.  Raises ValueError if they have different prompts or tokenizers, or a metric is not
    finite.
    """
    _alike((a, b))
    results = []
    heads = (a.name, b.name, "difference", "95 % low", "high", "test", "p")
    note = f"{b.name} minus {a.name}, prompt by prompt. The interval is over prompts; other seeds may differ by more."
    several = "By chance alone one test in twenty gives p < 0.05: read p with the number of rows in mind."
    published = (
        "The paper compares its tied table with its Kronecker arm and gives only means; intervals and p in its rows "
        "were computed here from its published outputs: the cosine differs by 0.022 ± 0.0087 (95 % t interval); for "
        "KL Wilcoxon's test gives p = 0.005, but the interval of the mean difference includes zero."
    )
    everything = {"": list(range(len(a.pairs)))}
    splits = (
        ("robustness_paired", "", everything, PAPER_PAIRED, (note, published)),
        ("robustness_categories", "category", prompts.groups(a.pairs, "category"), (), (note, several)),
        ("robustness_operators", "operator", prompts.groups(a.pairs, "operator"), (), (note, several)),
    )
    for name, field, groups, paper, notes in splits:
        rows = []
        for metric in shifts.METRICS:
            of_a, of_b = a.values(metric), b.values(metric)
            for group, places in groups.items():
                found = paired.compare(of_a[places], of_b[places], seed)
                labels = (LABELS[metric], group, len(places)) if field else (LABELS[metric],)
                rows.append((*labels, *dataclasses.astuple(found)))
        if rows:
            title = f"What a typo changes in {b.name} against {a.name}" + (f", by {field}" if field else "")
            columns = ("metric", *((field, "pairs") if field else ()), *heads)
            results.append(
                Result(name, title, SOURCE, _conditions((a, b)), columns, rows, paper, notes, PAPER_CONDITIONS)
            )
    return results


def _alike(runs: Sequence[Measured]) -> Measured:
    first = runs[0]
    for run in runs[1:]:
        if run.pairs != first.pairs or run.conditions["tokenizer"] != first.conditions["tokenizer"]:
            raise ValueError(
                f"{first.name} and {run.name} have different prompts or tokenizers; measure both on the same pairs"
            )
    return first


def _conditions(runs: Sequence[Measured]) -> dict[str, str]:
    arms = {"arms": " against ".join(run.name for run in runs)} if len(runs) == 2 else {}
    return arms | measured_on.merged(run.conditions for run in runs)
