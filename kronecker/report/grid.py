"""A sweep over keys that the two runs of a pair share, such as train.lr: a comparison for each of its values.

And each arm at its best: the values with the lowest training loss on the seeds that every version of every arm has (the
tuning seeds), compared on other seeds.  Held-out text takes no part in the choice.  A value at which a run diverged
counts as tried, and is never the best.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kronecker.report import compare, held_out, other_texts
from kronecker.run import finished_runs
from kronecker.schema import keys

LENGTH = tuple(f"train.{name}" for name in ("batch", "sequence", "accumulate", "steps", "tokens"))
# of one arm, their best values may be chosen
OF_INPUT = tuple(f"embedding.{key}" for key in ("lr_mult", "decay_mult", "init_std", "scale"))
RATE, MULTIPLIER, INPUT_STEP = "train.lr", "embedding.lr_mult", "train.lr × embedding.lr_mult"

Values = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs with one value of each swept key."""

    values: Mapping[str, Any]  # config key -> value
    comparison: compare.Comparison


@dataclasses.dataclass(frozen=True)
class Version:
    """An arm with one value of each tuned key."""

    arm: str
    values: Mapping[str, Any]  # config key -> value
    runs: Mapping[int, compare.AnyRun]  # by seed

    def train_loss(self, seeds: Iterable[int]) -> float:
        """Returns the training loss at the end, nats per token, mean over seeds; infinity if one of them diverged."""
        losses = [self.runs[seed].loss_at_end for seed in seeds]
        return sum(losses) / len(losses)

    @property
    def diverged(self) -> tuple[int, ...]:
        """The seeds whose run diverged, rising."""
        return tuple(sorted(seed for seed, run in self.runs.items() if isinstance(run, finished_runs.Diverged)))

    def place(self, key: str) -> Any:
        """Returns the value of a tuned key, or of INPUT_STEP."""
        return self.values[RATE] * self.values[MULTIPLIER] if key == INPUT_STEP else self.values[key]


@dataclasses.dataclass(frozen=True)
class Best:
    """Each arm at the values with its lowest training loss; an arm of one version as it is."""

    keys: tuple[str, ...]  # the tuned keys
    tuning_seeds: tuple[int, ...]  # by which the values were chosen, rising
    versions: tuple[Version, ...]  # of the arms that have several
    chosen: Mapping[str, Version]  # by arm
    confirmed: bool  # whether the comparison is on other seeds than the tuning seeds
    left_out: tuple[str, ...]  # arms with one version, which lacks a compared seed
    hopeless: tuple[str, ...]  # arms that diverged in every version
    comparison: compare.Comparison

    def tried(self, arm: str, key: str) -> list[Any]:
        """Returns the different values of a key that an arm ran with, rising."""
        return sorted({version.place(key) for version in self.versions if version.arm == arm})

    def edges(self, arm: str) -> dict[str, str]:
        """Returns the tuned numbers whose chosen value is the lowest or the highest tried: key -> which."""
        found = {}
        for key in self.keys:
            tried, value = self.tried(arm, key), self.chosen[arm].place(key)
            if is_number(value) and len(tried) > 1 and value in (tried[0], tried[-1]):
                found[key] = "lowest" if value == tried[0] else "highest"
        return found


@dataclasses.dataclass(frozen=True)
class Grid:
    """A sweep, read by its values."""

    swept: tuple[str, ...]  # config keys outside the input embedding with several values
    cells: tuple[Cell, ...]  # by rising values
    skipped: tuple[str, ...]  # why some values have no comparison
    best: Best | None  # None if no key was tuned, or the versions have no seed in common

    @property
    def whole(self) -> compare.Comparison | None:
        """The comparison of all runs, where no key is swept and the arms have a seed in common."""
        return self.cells[0].comparison if self.cells and not self.swept else None


def read(
    found: Sequence[finished_runs.Run], baseline: str, diverged: Sequence[finished_runs.Diverged] = ()
) -> Grid | None:
    """Returns the grid of these runs, or None if they are no sweep over shared or tuned keys.

    Raises ValueError as `held_out.compared` does, if no value has runs of the baseline and of another arm.
    """
    swept = _swept(found, diverged)
    by_value = collections.defaultdict(list)
    for run in (*found, *diverged):
        by_value[tuple(run.config[key] for key in swept)].append(run)
    best = _best([*found, *diverged], baseline, swept)
    if not swept and best is None:
        return None
    cells, skipped = [], []
    # Numbers by size, all else by its text.
    for values in sorted(by_value, key=lambda own: [("", one) if is_number(one) else (str(one), 0) for one in own]):
        named = dict(zip(swept, values, strict=True))
        finished, ended = _parted(by_value[values])
        by_name = compare.by_name(by_value[values])
        seeds = {name: {run.seed for run in _parted(of_name)[0]} for name, of_name in by_name.items()}
        seeds = {name: of_name for name, of_name in seeds.items() if of_name}
        own = next((name for name in seeds if name == baseline or name.startswith(f"{baseline} ")), None)
        also = "".join(f"; {run.arm} seed {run.seed} diverged ({run.reason})" for run in ended)
        if own is None or len(seeds) == 1:
            skipped.append(f"{label(named)}: only {', '.join(seeds) or 'diverged runs'}{also}")
        elif not set.intersection(*seeds.values()):
            skipped.append(f"{label(named)}: no seed that {', '.join(seeds)} all have{also}")
        else:
            cells.append(Cell(named, held_out.compared(finished, own, diverged=ended)))
    if not cells and best is None:
        compare.compare(found, baseline, diverged=diverged)  # says which two runs differ in which key
    return Grid(swept, tuple(cells), tuple(skipped), best)


def label(values: Mapping[str, Any]) -> str:
    """Returns e.g. "train.lr=0.004 train.clip=1.0"; "all runs" without a key."""
    return " ".join(f"{key}={value}" for key, value in values.items()) or "all runs"


def to_json(grid: Grid) -> dict[str, Any]:
    """Returns the grid for a file; losses in nats per token."""
    return {
        "swept": grid.swept,
        "cells": [{"values": cell.values, **_to_json(cell.comparison)} for cell in grid.cells],
        "best": grid.best and best_to_json(grid.best),
    }


def best_to_json(best: Best) -> dict[str, Any]:
    """Returns the choice and its comparison for a file; losses in nats per token."""
    seeds = best.tuning_seeds
    tried = [
        {
            "arm": one.arm,
            "values": one.values,
            "train_loss": loss if math.isfinite(loss := one.train_loss(seeds)) else None,
            "diverged_seeds": one.diverged,
        }
        for one in best.versions
    ]
    chosen = {arm: {"values": one.values, "at_the_edge": best.edges(arm)} for arm, one in best.chosen.items()}
    told = {"tuning_seeds": seeds, "confirmed": best.confirmed, "versions": tried, "chosen": chosen}
    told["diverged_in_every_version"] = best.hopeless
    return told | _to_json(best.comparison)


def _to_json(comparison: compare.Comparison) -> dict[str, Any]:
    return compare.to_json(comparison) | {"other_texts": other_texts.to_json(comparison)}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parted(runs: Iterable[compare.AnyRun]) -> tuple[list[finished_runs.Run], list[finished_runs.Diverged]]:
    finished, diverged = [], []
    for run in runs:
        (diverged if isinstance(run, finished_runs.Diverged) else finished).append(run)
    return finished, diverged


def _swept(found: Sequence[finished_runs.Run], diverged: Sequence[finished_runs.Diverged]) -> tuple[str, ...]:
    """Returns the varying keys that split the runs; one that follows from those before it does not."""
    sources = keys.having(keys.INPUT) if len({run.result["data_fingerprint"] for run in found}) > 1 else ()
    free = (compare.FREE_IN_A_PAIR - set(sources)) | set(compare.PER_SEED)
    places = {key: place for place, key in enumerate(keys.KEYS)}  # a removed key of old runs is last
    varying = finished_runs.varying(run.config for run in (*found, *diverged))
    shared = [
        key
        for key in varying
        if key not in free
        and not compare.within(key, compare.COMPARED)
        and all(key in run.config for run in (*found, *diverged))  # else `compare` refuses the pair
    ]
    chosen, parts = [], 1
    for key in sorted(shared, key=lambda key: places.get(key, len(places))):
        split = {tuple(run.config.get(one) for one in (*chosen, key)) for run in (*found, *diverged)}
        if len(split) > parts:
            chosen, parts = [*chosen, key], len(split)
    return tuple(chosen)


def _best(found: Sequence[compare.AnyRun], baseline: str, swept: Sequence[str]) -> Best | None:
    if any(not key.startswith("train.") or key in LENGTH for key in swept):
        return None  # another text, model or length is another question, not a value to choose
    versions = _versions(found, swept)
    varying = {key for of in versions.values() for key in finished_runs.varying(one.values for one in of)}
    tuned = tuple(key for key in (*swept, *OF_INPUT) if key in varying)
    several = {arm: of_arm for arm, of_arm in versions.items() if len(of_arm) > 1}
    tuning = _seeds(set(one.runs) for of_arm in several.values() for one in of_arm)
    if not tuning:
        return None
    seeds = tuple(sorted(tuning))
    chosen = {arm: min(of_arm, key=lambda one: one.train_loss(seeds)) for arm, of_arm in several.items()}
    hopeless = tuple(arm for arm, one in chosen.items() if not math.isfinite(one.train_loss(seeds)))
    chosen = {arm: one for arm, one in chosen.items() if arm not in hopeless}
    alone = {arm: of_arm[0] for arm, of_arm in versions.items() if arm not in several}
    own = next((name for name in (baseline, baseline.partition(" ")[0]) if name in versions), None)
    common = _seeds(_finished(one) for arm, one in (chosen | alone).items() if arm in chosen or arm == own)
    compared = common - tuning or common
    chosen |= {arm: one for arm, one in alone.items() if compared <= _finished(one)}
    if not compared or own not in chosen or len(chosen) == 1:
        return None
    others = [(one, _finished(one) - (tuning if compared != common else set())) for one in chosen.values()]
    runs = [one.runs[seed] for one, of_seed in others for seed in sorted(of_seed)]
    ended = [run for one in chosen.values() for run in _parted(one.runs.values())[1]]
    return Best(
        keys=tuned,
        tuning_seeds=seeds,
        versions=tuple(one for of_arm in several.values() for one in of_arm),
        chosen=chosen,
        confirmed=compared != common,
        left_out=tuple(arm for arm in alone if arm not in chosen),
        hopeless=hopeless,
        # By the arms' plain names, so that a diverged run of another version puts no setting into them.
        comparison=dataclasses.replace(
            held_out.compared(runs, own, tuple(swept)), diverged={f"{run.arm} seed {run.seed}": run for run in ended}
        ),
    )


def _seeds(each: Iterable[set[int]]) -> set[int]:
    """Returns the seeds that are in all sets."""
    sets = list(each)
    return set.intersection(*sets) if sets else set()


def _finished(version: Version) -> set[int]:
    return set(version.runs) - set(version.diverged)


def _versions(found: Sequence[compare.AnyRun], swept: Sequence[str]) -> dict[str, list[Version]]:
    """Returns the versions of each arm; two that differ in what is not tuned are two arms, with the setting as name."""
    tuned = (*swept, *OF_INPUT)
    grouped: dict[str, dict[Values, dict[int, compare.AnyRun]]] = {}
    for name, of_name in compare.by_name(found, unnamed=OF_INPUT).items():
        grouped[name] = collections.defaultdict(dict)
        for run in of_name:
            of_seed = grouped[name][tuple(run.config[key] for key in tuned)]
            if (twin := of_seed.setdefault(run.seed, run)) is not run:
                raise ValueError(f"{twin.folder} and {run.folder} are both {name} with seed {run.seed}; leave one out")
    return {
        name: [Version(name, dict(zip(tuned, values, strict=True)), runs) for values, runs in of_name.items()]
        for name, of_name in grouped.items()
    }
