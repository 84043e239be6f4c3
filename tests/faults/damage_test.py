"""Damaged files of runs and datasets: each reader names the fault, or goes on with the same numbers."""

import contextlib
import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import jax
import numpy as np
import pytest
import tiny_runs
from commands import Command
from disturbed import HARMLESS, RECOVERED, WRONG, Draws, Tally
from etils import epath

from kronecker.data import manifests, rows, stream
from kronecker.run import finished_runs
from kronecker.training import restore, train_step

STEPS, NEWEST = 8, 6  # of the finished run, and the newest checkpoint of the interrupted one
RECORDS = ("config.json", "env.json", "params.json", "metrics.jsonl")  # of a run that goes on
FILES = (*RECORDS, "result.json")
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "missing": lambda content, rng: None,
    "empty": lambda content, rng: b"",
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
}


def arguments(place: Path, run: str) -> list[str]:
    options = disturbed.SMALL | {"train.steps": STEPS, "checkpoint.every": 2, "checkpoint.keep": 3, "eval.every": 2}
    return tiny_runs.command(place / run, place, options)[1:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a finished run, `whole`, and the same as it was when two of its steps were missing, `half`."""
    place = tmp_path_factory.mktemp("damage") / "place"
    (place / "text").mkdir(parents=True)
    tiny_runs.write_texts(place / "text")
    done = Command(arguments(place, "whole"), place / "out").done()
    assert done.code == 0, done.err
    half = disturbed.copied(place / "whole", place / "half")
    (half / "result.json").unlink()
    shutil.rmtree(half / "checkpoints" / str(STEPS))
    lines = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text("".join(line for line in lines if f'"step": {STEPS}' not in line))
    return place


@pytest.mark.slow
def test_a_flipped_bit_of_a_checkpoint_never_becomes_another_number(place: Path, draws: Draws, tally: Tally):
    tally.update(disturbed.isolated(flip_checkpoints, place / "half", draws, seconds=300 * max(1, draws.factor)))
    tally.check()


@pytest.mark.slow
def test_a_lost_file_of_a_checkpoint_is_named_or_an_older_one_is_taken(place: Path, draws: Draws, tally: Tally):
    tally.update(
        disturbed.isolated(lose_files_of_checkpoints, place / "half", draws, seconds=300 * max(1, draws.factor))
    )
    tally.check()


def flip_checkpoints(run: Path, draws: Draws) -> Tally:
    files = checkpoint_files(run)
    sizes = [file.stat().st_size for file in files]

    def damage(rng: random.Random) -> tuple[Path, bytes]:
        (file,) = rng.choices(files, sizes) if rng.random() < 0.5 else (rng.choice(files),)
        return file, disturbed.flipped(file.read_bytes(), rng)

    return damage_checkpoints(run, draws.each("bit flip in a checkpoint", 150), damage)


def lose_files_of_checkpoints(run: Path, draws: Draws) -> Tally:
    kinds = [(file, damage) for file in checkpoint_files(run) for damage in DAMAGES]
    random.Random(draws.seed).shuffle(kinds)

    def damage(rng: random.Random) -> tuple[Path, bytes | None]:
        file, kind = kinds.pop()
        return file, DAMAGES[kind](file.read_bytes(), rng)

    return damage_checkpoints(run, Draws(draws.seed, 1).each("lost file of a checkpoint", len(kinds)), damage)


def checkpoint_files(run: Path) -> list[Path]:
    newest = run / "checkpoints" / str(NEWEST)
    return sorted(file for file in newest.rglob("*") if file.is_file() and file.stat().st_size)


def damage_checkpoints(run: Path, cases, damage: Callable[[random.Random], tuple[Path, bytes | None]]) -> Tally:
    tally = Tally()
    saved = {step: opened(run, step) for step in (NEWEST, NEWEST - 2)}
    # The shapes are the same in every case, and tracing them would be three quarters of the time.
    known = shapes(run)
    train_step.abstract_state = lambda *_: known
    for name, rng in cases:
        file, content = damage(rng)
        kind = name.partition(",")[0]

        def read() -> str:
            step, found = opened(run)
            if (step, found) != saved.get(step):
                return WRONG
            return HARMLESS if step == NEWEST else RECOVERED

        with damaged(file, content):
            disturbed.tried(tally, kind, f"{name}: {file.relative_to(run)}", read)
    return tally


def shapes(run: Path) -> train_step.TrainState:
    """Returns the shapes, types and layout of a run's state."""
    found = restore.open_run(run)
    return train_step.abstract_state(found.arm.model, found.arm.bag, found.config, found.mesh)


def opened(run: Path, step: int | None = None) -> tuple[int, str]:
    """Returns the step that evaluation takes, and a hash of its parameters."""
    found = restore.open_run(run, step)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(found.params):
        digest.update(np.asarray(leaf).tobytes())
    return found.step, digest.hexdigest()


@contextlib.contextmanager
def damaged(file: Path, content: bytes | None):
    """Gives a file another content, or none, for a while."""
    before = file.read_bytes()
    try:
        file.unlink() if content is None else file.write_bytes(content)
        yield
    finally:
        file.write_bytes(before)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a bit flip", "a lost file", *RECORDS])
def test_a_run_resumed_from_damaged_files_ends_as_the_undisturbed_one(
    what: str, place: Path, draws: Draws, tally: Tally
):
    whole, run = disturbed.numbers(place / "whole"), place / "whole"  # in its own place: config.json is equal then
    kept = disturbed.copied(run, place / "kept")
    for name, rng in draws.each(f"{what} and training", 2 if what in RECORDS else 4):
        disturbed.copied(place / "half", run)
        # Bits are flipped in checkpoints alone: nothing keeps a hash of the records.
        file = run / what if what in RECORDS else rng.choice(checkpoint_files(run))
        damage = disturbed.flipped if what == "a bit flip" else DAMAGES[rng.choice(list(DAMAGES))]
        content = damage(file.read_bytes(), rng)
        file.unlink() if content is None else file.write_bytes(content)
        done = Command(arguments(place, "whole"), place / "out").done()
        where = f"{name}: {file.relative_to(run)}: "
        now = disturbed.numbers(run)
        if file.name == "metrics.jsonl" and not done.code:
            tell_gaps(now, whole)
        differ = [file for file in disturbed.differences(now, whole) if file != "env.json"]
        if done.refused:
            tally.add(name.partition(",")[0], disturbed.REFUSED)
        elif done.code != 0:
            tally.add(name.partition(",")[0], disturbed.FAULT, f"{where}{done.err[-600:]}")
        else:
            tally.add(name.partition(",")[0], WRONG if differ else RECOVERED, f"{where}{differ} differ")
    disturbed.copied(kept, run)
    tally.check()


def tell_gaps(now: dict[str, Any], whole: dict[str, Any]) -> None:
    """Puts lost lines back if result.json names the steps between which they were, as it should."""
    gaps = now.get("result.json", {}).get("metrics_gaps", [])
    kept = [line for line in whole["metrics.jsonl"] if not any(a <= line["step"] <= b for a, b in gaps)]
    # A file that lost its first lines counts its new ones from those it has.
    found, kept = ([line | {"line": 0} for line in lines] for lines in (now["metrics.jsonl"], kept))
    if all(line in found for line in kept):
        now["metrics.jsonl"] = whole["metrics.jsonl"]
        now["result.json"]["metrics_gaps"] = whole["result.json"]["metrics_gaps"]


@pytest.mark.parametrize("name", FILES)
def test_a_lost_file_of_a_finished_run_is_named_by_what_compares_it(name: str, place: Path, draws: Draws, tally: Tally):
    run = place / "whole"
    calm = finished_runs.read(epath.Path(run))
    for kind, damage in DAMAGES.items():
        for case, rng in draws.each(f"{name} {kind}", 1 if kind != "cut" else 10):

            def read() -> str:
                return HARMLESS if same(finished_runs.read(epath.Path(run)), calm) else WRONG

            with damaged(run / name, damage((run / name).read_bytes(), rng)):
                disturbed.tried(tally, "lost file of a finished run", case, read)
    tally.check()


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other) and all(
        np.array_equal(column, getattr(other, kind)[name], equal_nan=True)
        for kind in ("train", "validation")
        for name, column in getattr(one, kind).items()
    )


@pytest.fixture(scope="module")
def dataset(place: Path) -> Path:
    (manifest,) = place.glob("*/manifest.json")
    return manifest.parent


def read_all(dataset: Path) -> list[bytes]:
    """Returns everything that training and evaluation read of a dataset."""
    prepared = manifests.open_prepared(dataset)
    whole = [stream.Stream(prepared, split) for split in ("train", "validation")]
    read = [one.read(0, len(one)).tobytes() for one in whole]
    batches = rows.validation_batches(prepared, 32, 4)
    return [*read, *(array.tobytes() for batch in batches for array in batch), prepared.fingerprint.encode()]


@pytest.mark.parametrize("kind", ["bit flip", "lost file"])
def test_damaged_datasets_are_named_or_read_the_same(kind: str, dataset: Path, draws: Draws, tally: Tally):
    calm = read_all(dataset)
    files = sorted(file for file in dataset.iterdir() if file.is_file())
    shards = [file for file in files if "array_record" in file.name]
    cases = 50 if kind == "bit flip" else 5 * len(files)
    for number, (name, rng) in enumerate(draws.each(f"{kind} in a dataset", cases)):
        file = rng.choice(shards) if kind == "bit flip" else files[number % len(files)]
        damage = disturbed.flipped if kind == "bit flip" else DAMAGES[rng.choice(list(DAMAGES))]
        with damaged(file, damage(file.read_bytes(), rng)):
            disturbed.tried(
                tally,
                f"{kind} in a dataset",
                f"{name}: {file.name}",
                lambda: HARMLESS if read_all(dataset) == calm else WRONG,
            )
    tally.check()
