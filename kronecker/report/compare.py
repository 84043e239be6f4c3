"""Pairs of runs and what they resolve.

Two runs are a pair when they differ in the input embedding alone: same seed, hence the same body and the same batches
in the same order.  The noise that the two runs share cancels in their difference, so paired differences resolve much
smaller effects than separate means of losses do.
"""

import collections
import dataclasses
import functools
import math
import shlex
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kronecker.report import intervals, reach, surroundings
from kronecker.run import finished_runs, rundir
from kronecker.schema import arms, keys

BASELINE = arms.BASELINE

AnyRun = finished_runs.Run | finished_runs.Diverged
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
    losses: tuple[float, ...]  # nats per token on the comparison's text, one a run
    bits_per_byte: tuple[float, ...]  # the same over the bytes of that text
    documents: tuple[float, float] | None = None  # 95 % interval of the difference over documents, if these are known
    # when the better run of each pair reached the other's final loss; empty for the baseline itself
    reaches: tuple[reach.Reach | None, ...] = ()

    @property
    def reach_factor(self) -> float | None:
        """How many times fewer steps the arm needs for the baseline's final loss: geometric mean over seeds.

        Below 1 it needs more; None for the baseline and for runs that were evaluated only at their end.
        """
        if not self.reaches or None in self.reaches:
            return None
        return statistics.geometric_mean(reached.factor for reached in self.reaches)

    @property
    def loss(self) -> float:
        return statistics.fmean(self.losses)

    @property
    def bits(self) -> float:
        return statistics.fmean(self.bits_per_byte)

    def mean(self, key: str) -> float:
        """Returns the mean over seeds of a number in result.json."""
        return statistics.fmean(run.result[key] for run in self.runs)


@dataclasses.dataclass(frozen=True)
class Text:
    """What the losses of a comparison are of."""

    name: str  # empty: the held-out text of the runs
    tokens: int | None  # that each run predicted; None: unknown, of very old runs
    of: int | None  # as many the text has; None: unknown
    documents: int | None = None  # that they are in; None where the losses of single documents are unknown


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A baseline and the arms paired with it."""

    baseline: Arm
    others: tuple[Arm, ...]  # the other arms, lowest mean difference first; all arms hold runs of the same seeds
    left_out: tuple[int, ...]  # seeds, rising, that some arms have no run of
    text: Text
    diverged: Mapping[str, finished_runs.Diverged] = dataclasses.field(default_factory=dict)  # by "ARM seed N"

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.baseline, *self.others)

    @functools.cached_property
    def by_key(self) -> dict[RunKey, finished_runs.Run]:
        """Every run, those of the baseline first."""
        return {(arm.name, run.seed): run for arm in self.arms for run in arm.runs}

    @property
    def runs(self) -> tuple[finished_runs.Run, ...]:
        return tuple(self.by_key.values())

    @property
    def pairs(self) -> list[tuple[str, finished_runs.Run, finished_runs.Run]]:
        """Each arm's name, run, and the baseline's run of the same seed."""
        partners = {run.seed: run for run in self.baseline.runs}
        return [(arm.name, run, partners[run.seed]) for arm in self.others for run in arm.runs]

    @property
    def adjusted(self) -> dict[str, str]:
        """The verdicts of `others` by name, after Holm's correction for their number."""
        verdicts = intervals.holm([arm.difference for arm in self.others])
        return {arm.name: verdict for arm, verdict in zip(self.others, verdicts, strict=True)}


def compare(
    found: Sequence[finished_runs.Run],
    baseline: str = BASELINE,
    tuned: Sequence[str] = (),
    diverged: Sequence[finished_runs.Diverged] = (),
) -> Comparison:
    """Returns every arm of `found` against `baseline`, paired by seed, over the seeds that all arms have.

    Losses are those of the final validation; `held_out.compared` takes all tokens where it can.  The config keys
    `tuned` may differ too; an arm that has several values of one has them in its name.  `diverged` are kept to be
    named.

    Raises ValueError if two runs are not a pair (the message names both and shows the difference), the arms have no
    seed in common, or two runs have the same arm, settings and seed.
    """
    compared = (*COMPARED, *tuned)
    by_name, ended = _by_name_and_seed(found, compared, diverged)
    also = f"; {', '.join(ended)} diverged" if ended else ""
    if baseline not in by_name:
        give = f"--baseline={shlex.quote(next(iter(by_name)))}"
        raise ValueError(
            f"--baseline={baseline}: no such arm among these runs; there are: {', '.join(by_name)}{also}; give for "
            f"example {give}"
        )
    seeds = set.intersection(*map(set, by_name.values()))
    if not seeds:
        trained = "; ".join(f"{name} has {', '.join(map(str, sorted(of_seed)))}" for name, of_seed in by_name.items())
        raise ValueError(
            f"the arms have no seed in common: {trained}{also}; train the missing runs (train.py --config.seed=...), "
            "or name the folders of the runs to compare, without one of these arms"
        )
    chosen = {name: tuple(of_seed[seed] for seed in sorted(seeds)) for name, of_seed in by_name.items()}
    partners = chosen.pop(baseline)
    _require_equal(partners, compared, ignoring=PER_SEED)
    others = [_paired(name, members, partners, compared) for name, members in chosen.items()]
    return Comparison(
        _arm(baseline, partners),
        tuple(sorted(others, key=lambda arm: arm.difference.mean)),
        tuple(sorted(set().union(*by_name.values()) - seeds)),
        _validated(partners[0]),
        ended,
    )


def _validated(run: finished_runs.Run) -> Text:
    """Returns what the final validation is of."""
    counts, of = run.validation[finished_runs.PREDICTED], run.result.get("held_out_tokens")
    tokens = int(counts[-1]) if len(counts) and not math.isnan(counts[-1]) else None
    return Text("", tokens, of if rundir.is_of(of, int) else None if run.config["eval.sequences"] else tokens)


def on(
    comparison: Comparison, name: str, nats: Mapping[RunKey, np.ndarray], tokens_D: np.ndarray, text_bytes: float
) -> Comparison:
    """Returns the comparison on other losses of the same runs: of all tokens of a text, whose name is as in `Text`.

    `nats` are sums over each document's tokens, (D,); `tokens_D` counts these; all stand for `text_bytes`.
    """
    tokens = int(tokens_D.sum())

    def moved(arm: Arm) -> Arm:
        totals = [float(nats[arm.name, run.seed].sum()) for run in arm.runs]
        bits = tuple(total / math.log(2) / text_bytes if text_bytes else math.nan for total in totals)
        return dataclasses.replace(arm, losses=tuple(total / tokens for total in totals), bits_per_byte=bits)

    def by_document(arm: Arm) -> np.ndarray:
        return np.mean([nats[arm.name, run.seed] for run in arm.runs], axis=0)

    baseline, expected = moved(comparison.baseline), by_document(comparison.baseline)
    others = [moved(arm) for arm in comparison.others]
    drawn = others and intervals.over_documents(np.stack([by_document(arm) - expected for arm in others]), tokens_D)
    others = [
        dataclasses.replace(arm, difference=difference(arm, baseline), documents=interval)
        for arm, interval in zip(others, drawn or [None] * len(others), strict=True)
    ]
    ordered = tuple(sorted(others, key=lambda arm: arm.difference.mean))
    text = Text(name, tokens, tokens, len(tokens_D))
    return dataclasses.replace(comparison, baseline=baseline, others=ordered, text=text)


def names(found: Sequence[finished_runs.Run], tuned: Sequence[str] = ()) -> list[str]:
    """Returns the names of the arms among `found`, as `compare` gives them, in order of appearance."""
    return list(by_name(found, (*COMPARED, *tuned)))


def by_name(
    found: Iterable[AnyRun], compared: Sequence[str] = COMPARED, unnamed: Collection[str] = ()
) -> dict[str, list[AnyRun]]:
    """Returns the runs of each arm by its name: its label, and the settings in which its versions differ.

    Config keys of `unnamed` are not part of a name.
    """
    of_arm = collections.defaultdict(list)
    for run in found:
        of_arm[run.arm].append(run)
    named = collections.defaultdict(list)
    for arm, versions in of_arm.items():
        told = [settings(run, compared) for run in versions]
        shown = [key for key in finished_runs.varying(told) if key not in {_last(one) for one in unnamed}]
        for run, own in zip(versions, told, strict=True):
            named[" ".join([arm, *(f"{key}={own.get(key)}" for key in shown)])].append(run)
    return named


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison for a file; losses in nats per token."""
    return {
        "baseline": comparison.baseline.name,
        "losses_of": dataclasses.asdict(comparison.text),
        "confidence": intervals.CONFIDENCE,
        "power": intervals.POWER,
        "seeds_left_out": comparison.left_out,
        "diverged": {name: {"run": str(run.folder), "reason": run.reason} for name, run in comparison.diverged.items()},
        "differing_within_pairs": surroundings.differing(comparison.pairs),
        "verdicts_after_holm": comparison.adjusted,
        "arms": {arm.name: _arm_json(arm) for arm in comparison.arms},
    }


def _arm_json(arm: Arm) -> dict[str, Any]:
    def per_seed(key: str) -> dict[str, Any]:
        return {"mean": arm.mean(key), "per_seed": [run.result[key] for run in arm.runs]}

    bits = None if math.isnan(arm.bits_per_byte[0]) else arm.bits_per_byte  # of a text without bytes
    losses = {"validation_loss": arm.losses, "validation_bits_per_byte": bits}
    return {
        "seeds": [run.seed for run in arm.runs],
        "runs": [str(run.folder) for run in arm.runs],
        **{key: values and {"mean": statistics.fmean(values), "per_seed": values} for key, values in losses.items()},
        **{key: per_seed(key) for key in ("tokens_per_second", "peak_memory_bytes", "clip_share")},
        "params": {group: arm.runs[0].params[group] for group in finished_runs.PARAMETER_GROUPS},
        "difference": arm.difference and intervals.to_json(arm.difference),
        "interval_over_documents": arm.documents,
        "reach": {
            "mean_factor": arm.reach_factor,
            "per_seed": [reached and dataclasses.asdict(reached) for reached in arm.reaches],
        },
    }


def _by_name_and_seed(
    found: Iterable[finished_runs.Run], compared: Sequence[str], diverged: Sequence[finished_runs.Diverged]
) -> tuple[dict[str, dict[int, finished_runs.Run]], dict[str, finished_runs.Diverged]]:
    groups: dict[str, dict[int, finished_runs.Run]] = {}
    ended = {}
    for name, of_name in by_name([*found, *diverged], compared).items():
        for run in of_name:
            if isinstance(run, finished_runs.Diverged):
                ended[f"{name} seed {run.seed}"] = run
                continue
            of_seed = groups.setdefault(name, {})
            twin = of_seed.setdefault(run.seed, run)
            if twin is not run:
                _require_equal((twin, run), compared)
                raise ValueError(
                    f"{twin.folder} and {run.folder} are both {name} with seed {run.seed}; name the folders of the "
                    "runs to compare, with one of these two"
                )
    return groups, ended


def settings(run: AnyRun, compared: Sequence[str] = COMPARED) -> dict[str, str]:
    """Returns the settings that a pair compares, by the last part of each key.

    An initial std that follows from P is given as `derived`.
    """
    values = {k: v for k, v in run.config.items() if within(k, compared) and k not in FREE_IN_A_PAIR}
    told = {_last(key): str(float(f"{v:.4g}") if isinstance(v, float) else v) for key, v in values.items()}
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
    arm = _arm(name, members)
    reaches = tuple(reach.reach(run, partner) for run, partner in pairs)
    return dataclasses.replace(arm, difference=difference(arm, _arm("", tuple(partners))), reaches=reaches)


def _arm(name: str, runs: tuple[finished_runs.Run, ...]) -> Arm:
    losses, bits = (tuple(run.result[f"validation_{what}"] for run in runs) for what in ("loss", "bits_per_byte"))
    return Arm(name, runs, None, losses, bits)


def difference(arm: Arm, baseline: Arm) -> intervals.Difference:
    """Returns the paired differences of the losses of two arms with the same seeds."""
    values = tuple(loss - partner for loss, partner in zip(arm.losses, baseline.losses, strict=True))
    return intervals.Difference(tuple(run.seed for run in arm.runs), values)


def _require_equal(found: Iterable[finished_runs.Run], compared: Sequence[str], ignoring: tuple[str, ...] = ()) -> None:
    first, *rest = found
    expected = _shared(first, compared)
    for run in rest:
        facts = _shared(run, compared)
        unequal = [
            f"{key} is {_short(expected.get(key))} against {_short(facts.get(key))}"
            for key in dict.fromkeys([*expected, *facts])
            if key not in ignoring and expected.get(key) != facts.get(key)
        ]
        if unequal:
            remedy = (
                "give runs of both arms at each train.lr, or --tuned to compare these two"
                if all(text.startswith(tuple(f"{key} is " for key in TUNED)) for text in unequal)
                else "train one of them again with the other's settings, or name only the folders of runs that agree"
            )
            raise ValueError(
                f"{first.folder} and {run.folder} cannot be compared: {'; '.join(unequal)}; "
                f"only the input embedding may differ; {remedy}"
            )


def _shared(run: finished_runs.Run, compared: Sequence[str]) -> dict[str, Any]:
    config = {
        key: value for key, value in run.config.items() if key not in FREE_IN_A_PAIR and not within(key, compared)
    }
    return config | {
        "data_fingerprint": run.result["data_fingerprint"],
        "tokenizer_fingerprint": run.result["tokenizer_fingerprint"],
        "step": run.result["step"],
        "body_init_sha256": run.params["body_init_sha256"],
    }


def within(key: str, groups: Iterable[str]) -> bool:
    """Returns whether a config key is one of `groups`, or in one of those that end in a dot."""
    return any(key.startswith(group) if group.endswith(".") else key == group for group in groups)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text[:12] + "…" if len(text) == 64 else text
