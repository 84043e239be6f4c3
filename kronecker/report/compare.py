"""Pairs of runs and what they resolve.

Two runs are a pair when they differ in the input embedding alone: same seed, hence the same body and the same batches
in the same order.  The noise that the two runs share cancels in their difference, so paired differences resolve much
smaller effects than separate means of losses do.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from kronecker.report import intervals, reach
from kronecker.run import finished_runs
from kronecker.schema import arms, keys

BASELINE = arms.BASELINE

RunKey = tuple[str, int]  # an arm's name within a comparison, and a seed

# The keys whose effect a pair measures.
COMPARED = ("embedding.", "model.tie_head")
# Keys that may differ too where each arm was tuned on its own, over the same values.
TUNED = ("train.lr",)
# Keys that two runs of a pair may set differently.
FREE_IN_A_PAIR = keys.having(keys.INPUT, keys.ROUNDING, keys.NOTHING)
# Equal within a pair, but not from one pair to the next.
PER_SEED = ("seed", "body_init_sha256")


@dataclasses.dataclass(frozen=True)
class Arm:
    """The runs of one arm and how they compare with the baseline's."""

    name: str  # the arm, and its settings where the compared runs hold several versions of it
    runs: tuple[finished_runs.Run, ...]  # one a seed, by rising seed
    # of final validation losses, arm minus baseline; None for the baseline itself
    difference: intervals.Difference | None
    # when the better run of each pair reached the other's final loss; empty for the baseline itself
    reaches: tuple[reach.Reach | None, ...] = ()

    @property
    def reach_factor(self) -> float | None:
        """How many times fewer steps the arm needs for the baseline's final loss: geometric mean over seeds.

        Below 1 it needs more; None for the baseline and for runs that were evaluated only at their end.
        """
        if not self.reaches or None in self.reaches:
            return None
        return math.exp(math.fsum(math.log(reached.factor) for reached in self.reaches) / len(self.reaches))

    def mean(self, key: str) -> float:
        """Returns the mean over seeds of a number in result.json."""
        return math.fsum(run.result[key] for run in self.runs) / len(self.runs)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A baseline and the arms paired with it."""

    baseline: Arm
    others: tuple[Arm, ...]  # the other arms, lowest mean difference first; all arms hold runs of the same seeds
    left_out: tuple[int, ...]  # seeds, rising, that some arms have no run of

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every arm, the baseline first."""
        return (self.baseline, *self.others)

    @property
    def runs(self) -> tuple[finished_runs.Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)


def compare(found: Sequence[finished_runs.Run], baseline: str = BASELINE, tuned: bool = False) -> Comparison:
    """Returns every arm of `found` against `baseline`, paired by seed, over the seeds that all arms have.

    `tuned` lets arms have learning rates of their own, which are then part of their names.  Raises ValueError if two
    runs are not a pair (the message names both and shows the difference), the arms have no seed in common, or two runs
    have the same arm, settings and seed.
    """
    compared = _compared(tuned)
    by_name = _by_name_and_seed(found, compared)
    if baseline not in by_name:
        raise ValueError(f"--baseline={baseline}: no such arm among these runs; there are: {', '.join(by_name)}")
    seeds = set.intersection(*map(set, by_name.values()))
    if not seeds:
        trained = "; ".join(f"{name} has {', '.join(map(str, sorted(of_seed)))}" for name, of_seed in by_name.items())
        raise ValueError(f"the arms have no seed in common: {trained}; train the missing runs, or leave an arm out")
    chosen = {name: tuple(of_seed[seed] for seed in sorted(seeds)) for name, of_seed in by_name.items()}
    partners = chosen.pop(baseline)
    _require_equal(partners, compared, ignoring=PER_SEED)
    others = [_paired(name, members, partners, compared) for name, members in chosen.items()]
    return Comparison(
        Arm(baseline, partners, None),
        tuple(sorted(others, key=lambda arm: arm.difference.mean)),
        tuple(sorted(set().union(*by_name.values()) - seeds)),
    )


def names(found: Sequence[finished_runs.Run], tuned: bool = False) -> list[str]:
    """Returns the names of the arms among `found`, as `compare` gives them, in order of appearance."""
    return list(_by_name_and_seed(found, _compared(tuned)))


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison for a file; losses in nats per token."""
    return {
        "baseline": comparison.baseline.name,
        "confidence": intervals.CONFIDENCE,
        "power": intervals.POWER,
        "seeds_left_out": comparison.left_out,
        "arms": {arm.name: _arm_json(arm) for arm in comparison.arms},
    }


def _arm_json(arm: Arm) -> dict[str, Any]:
    def per_seed(key: str) -> dict[str, Any]:
        return {"mean": arm.mean(key), "per_seed": [run.result[key] for run in arm.runs]}

    return {
        "seeds": [run.seed for run in arm.runs],
        "runs": [str(run.folder) for run in arm.runs],
        **{key: per_seed(key) for key in ("validation_loss", "validation_bits_per_byte")},
        **{key: per_seed(key) for key in ("tokens_per_second", "peak_memory_bytes", "clip_share")},
        "params": {group: arm.runs[0].params[group] for group in ("input", "body", "head", "total")},
        "difference": arm.difference and intervals.to_json(arm.difference),
        "reach": {
            "mean_factor": arm.reach_factor,
            "per_seed": [reached and dataclasses.asdict(reached) for reached in arm.reaches],
        },
    }


def _by_name_and_seed(
    found: Iterable[finished_runs.Run], compared: Sequence[str]
) -> dict[str, dict[int, finished_runs.Run]]:
    of_arm = collections.defaultdict(list)
    for run in found:
        of_arm[run.arm].append(run)
    groups = collections.defaultdict(dict)
    for arm, versions in of_arm.items():
        told = [settings(run, compared) for run in versions]
        keys = finished_runs.varying(told)
        for run, own in zip(versions, told, strict=True):
            name = " ".join([arm, *(f"{key}={own[key]}" for key in keys)])
            twin = groups[name].setdefault(run.seed, run)
            if twin is not run:
                _require_equal((twin, run), compared)
                raise ValueError(f"{twin.folder} and {run.folder} are both {name} with seed {run.seed}; leave one out")
    return groups


def settings(run: finished_runs.Run, compared: Sequence[str] = COMPARED) -> dict[str, str]:
    """Returns the settings that a pair compares, by the last part of each key.

    An initial std that follows from P is given as `derived`.
    """
    values = {k: v for k, v in run.config.items() if _within(k, compared) and k not in FREE_IN_A_PAIR}
    told = {key.rpartition(".")[2]: str(float(f"{v:.4g}") if isinstance(v, float) else v) for key, v in values.items()}
    kind = arms.KINDS.get(run.config["embedding.kind"])  # None for an old run of an arm that was removed
    if kind and kind.bag and run.config["embedding.init_std"] == arms.derived_init_std(run.config):
        told["init_std"] = "derived"
    return told


def _paired(
    name: str, members: tuple[finished_runs.Run, ...], partners: Sequence[finished_runs.Run], compared: Sequence[str]
) -> Arm:
    pairs = list(zip(members, partners, strict=True))
    for run, partner in pairs:
        _require_equal((partner, run), compared)
    difference = intervals.Difference(
        seeds=tuple(run.seed for run in members),
        values=tuple(run.result["validation_loss"] - partner.result["validation_loss"] for run, partner in pairs),
    )
    return Arm(name, members, difference, tuple(reach.reach(run, partner) for run, partner in pairs))


def _require_equal(found: Iterable[finished_runs.Run], compared: Sequence[str], ignoring: tuple[str, ...] = ()) -> None:
    first, *rest = found
    expected = _shared(first, compared)
    for run in rest:
        facts = _shared(run, compared)
        differing = [
            f"{key} is {_short(expected.get(key))} against {_short(facts.get(key))}"
            for key in dict.fromkeys([*expected, *facts])
            if key not in ignoring and expected.get(key) != facts.get(key)
        ]
        if differing:
            hint = "; compare.py --tuned lets train.lr differ where each arm was tuned over the same rates"
            raise ValueError(
                f"{first.folder} and {run.folder} cannot be compared: {'; '.join(differing)}; "
                f"only the input embedding may differ{hint if _rate_alone(differing) else ''}"
            )


def _compared(tuned: bool) -> tuple[str, ...]:
    return (*COMPARED, *TUNED) if tuned else COMPARED


def _rate_alone(differing: Sequence[str]) -> bool:
    return all(text.startswith(tuple(f"{key} is " for key in TUNED)) for text in differing)


def _shared(run: finished_runs.Run, compared: Sequence[str]) -> dict[str, Any]:
    config = {
        key: value for key, value in run.config.items() if key not in FREE_IN_A_PAIR and not _within(key, compared)
    }
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
