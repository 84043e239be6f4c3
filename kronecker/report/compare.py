"""Pairs of runs and what they resolve.

Two runs are a pair when they differ in the input embedding alone: same seed, hence the same body and the same batches
in the same order.  The difference within a pair is free of the noise its two runs share, so a mean of such differences
resolves far less than two means of losses would.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import special

from kronecker.report import runs

BASELINE = "table_untied"
CONFIDENCE = 0.95
BETTER, WORSE, NOT_RESOLVED = "better", "worse", "not resolved"

# What a pair is there to compare.
COMPARED = ("embedding.", "model.tie_head")
# Keys (or, with a dot at the end, groups of keys) that two runs of a pair may set differently, and why that is fair.
NO_INFLUENCE = {
    "data.": "where the text came from; what came out of it is compared by its fingerprint",
    "tokenizer": "a name or a path; the tokenizer itself is compared by its fingerprint",
    "checkpoint.": "saving does not touch the state",
    "eval.every": "evaluating does not touch the state, and the last step is always evaluated",
    "log.": "reporting does not touch the state",
}
# Equal within a pair, but not from one pair to the next.
PER_SEED = ("seed", "body_init_sha256")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Paired differences of final validation losses in nats per token, arm minus baseline: below zero, the arm won.

    Attributes:
      seeds: (n,), rising.
      values: (n,), one difference a seed.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % t interval of the mean; None with one seed, which has no interval."""
        n = len(self.values)
        if n == 1:
            return None
        quantile = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)  # scipy.stats.t.ppf, without its second of import
        return float(quantile * np.std(self.values, ddof=1) / math.sqrt(n))

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval excludes zero, else `not resolved`."""
        if self.half is None or abs(self.mean) <= self.half:
            return NOT_RESOLVED
        return BETTER if self.mean < 0 else WORSE


@dataclasses.dataclass(frozen=True)
class Arm:
    """The runs of one arm and how they compare with the baseline's.

    Attributes:
      name: the arm, and its settings where the compared runs hold several versions of it.
      runs: one a seed, by rising seed.
      difference: None for the baseline itself.
    """

    name: str
    runs: tuple[runs.Run, ...]
    difference: Difference | None

    def mean(self, key: str) -> float:
        """Returns the mean over seeds of a number in result.json."""
        return math.fsum(run.result[key] for run in self.runs) / len(self.runs)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A baseline and the arms paired with it.

    Attributes:
      baseline: the arm that the others are compared with.
      others: the other arms, lowest mean difference first; all arms hold runs of the same seeds.
      left_out: seeds, rising, that only some arms have runs of.
    """

    baseline: Arm
    others: tuple[Arm, ...]
    left_out: tuple[int, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every arm, the baseline first."""
        return (self.baseline, *self.others)

    @property
    def runs(self) -> tuple[runs.Run, ...]:
        """Every run."""
        return tuple(run for arm in self.arms for run in arm.runs)


def compare(found: Sequence[runs.Run], baseline: str = BASELINE) -> Comparison:
    """Returns every arm of `found` against `baseline`, paired by seed, over the seeds that all arms have.

    Raises:
      ValueError: if two runs are not a pair (the message names both and shows the difference), the arms have no seed in
        common, or two runs have the same arm, settings and seed.
    """
    by_name = _by_name_and_seed(found)
    if baseline not in by_name:
        raise ValueError(f"--baseline={baseline}: no such arm among these runs; there are: {', '.join(by_name)}")
    seeds = set.intersection(*map(set, by_name.values()))
    if not seeds:
        trained = "; ".join(f"{name} has {', '.join(map(str, sorted(of_seed)))}" for name, of_seed in by_name.items())
        raise ValueError(f"the arms have no seed in common: {trained}; train the missing runs, or leave an arm out")
    chosen = {name: tuple(of_seed[seed] for seed in sorted(seeds)) for name, of_seed in by_name.items()}
    partners = chosen.pop(baseline)
    _require_equal(partners, ignoring=PER_SEED)
    others = [Arm(name, members, _difference(members, partners)) for name, members in chosen.items()]
    return Comparison(
        Arm(baseline, partners, None),
        tuple(sorted(others, key=lambda arm: arm.difference.mean)),
        tuple(sorted(set().union(*by_name.values()) - seeds)),
    )


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns everything that compare knows, for a file; losses in nats per token."""
    return {
        "baseline": comparison.baseline.name,
        "confidence": CONFIDENCE,
        "seeds_left_out": comparison.left_out,
        "arms": {arm.name: _arm_json(arm) for arm in comparison.arms},
    }


def _arm_json(arm: Arm) -> dict[str, Any]:
    def per_seed(key: str) -> dict[str, Any]:
        return {"mean": arm.mean(key), "per_seed": [run.result[key] for run in arm.runs]}

    difference = arm.difference
    return {
        "seeds": [run.seed for run in arm.runs],
        "runs": [str(run.folder) for run in arm.runs],
        "validation_loss": per_seed("validation_loss"),
        "validation_bits_per_byte": per_seed("validation_bits_per_byte"),
        "tokens_per_second": per_seed("tokens_per_second"),
        "params": {group: arm.runs[0].params[group] for group in ("input", "body", "head", "total")},
        "difference": difference
        and {
            "seeds": difference.seeds,
            "per_seed": difference.values,
            "mean": difference.mean,
            "half_interval": difference.half,
            "verdict": difference.verdict,
        },
    }


def _by_name_and_seed(found: Iterable[runs.Run]) -> dict[str, dict[int, runs.Run]]:
    of_arm = collections.defaultdict(list)
    for run in found:
        of_arm[run.arm].append(run)
    groups = collections.defaultdict(dict)
    for arm, versions in of_arm.items():
        settings = [{key: value for key, value in run.config.items() if _within(key, COMPARED)} for run in versions]
        keys = runs.varying(settings)
        for run in versions:
            name = " ".join([arm, *(f"{key.rpartition('.')[2]}={run.config[key]}" for key in keys)])
            twin = groups[name].setdefault(run.seed, run)
            if twin is not run:
                raise ValueError(f"{twin.folder} and {run.folder} are both {name} with seed {run.seed}; leave one out")
    return groups


def _difference(members: Sequence[runs.Run], partners: Sequence[runs.Run]) -> Difference:
    pairs = list(zip(partners, members, strict=True))
    for pair in pairs:
        _require_equal(pair)
    return Difference(
        seeds=tuple(run.seed for _, run in pairs),
        values=tuple(run.result["validation_loss"] - partner.result["validation_loss"] for partner, run in pairs),
    )


def _require_equal(found: Iterable[runs.Run], ignoring: tuple[str, ...] = ()) -> None:
    first, *rest = found
    expected = _shared(first)
    for run in rest:
        facts = _shared(run)
        differing = [
            f"{key} is {_short(expected.get(key))} against {_short(facts.get(key))}"
            for key in dict.fromkeys([*expected, *facts])
            if key not in ignoring and expected.get(key) != facts.get(key)
        ]
        if differing:
            raise ValueError(
                f"{first.folder} and {run.folder} cannot be compared: {'; '.join(differing)}; "
                "only the input embedding may differ"
            )


def _shared(run: runs.Run) -> dict[str, Any]:
    config = {key: value for key, value in run.config.items() if not _within(key, (*COMPARED, *NO_INFLUENCE))}
    return config | {
        "data_fingerprint": run.result["data_fingerprint"],
        "tokenizer_fingerprint": run.result["tokenizer_fingerprint"],
        "step": run.result["step"],
        "body_init_sha256": run.params["body_init_sha256"],
    }


def _within(key: str, groups: Iterable[str]) -> bool:
    return any(key.startswith(group) if group.endswith(".") else key == group for group in groups)


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text[:12] + "…" if len(text) == 64 else text
