"""SIGKILL at random moments of every command: the same command then finishes, and no number is another one."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import disturbed
import pytest
import tiny_runs
from commands import Command
from disturbed import Draws, Tally

STEPS = 8
ARMS = ("table_untied", "kronecker")
CONFIG = f"""
import sys
sys.path.insert(0, {str(tiny_runs.ROOT)!r})
from configs import arms
from configs.demo import get_config
def sweep(seeds):
    for arm in {ARMS}:
        yield arms.ARMS[arm] | {{"seed": 0}}
"""
OPTIONS = tiny_runs.OPTIONS | disturbed.SMALL | {"train.steps": STEPS, "checkpoint.every": 2}


def flags(place: Path, **options: Any) -> list[str]:
    values = OPTIONS | {"data.folder": place / "data", "data.source": f"text:{place / 'text'}"} | options
    return [f"--config={place}/mine.py", *(f"--config.{key}={value}" for key, value in values.items())]


# command -> its arguments in a place, and how many of ten kills it gets
COMMANDS: dict[str, tuple[Callable[[Path], list[Any]], int]] = {
    "prepare_data": (lambda at: ["scripts/prepare_data.py", *flags(at)], 2),
    "sweep": (lambda at: ["scripts/sweep.py", f"--out={at}/runs", *flags(at)], 1),
    "train": (lambda at: ["train.py", f"--workdir={at}/alone", *flags(at)], 2),
    "token_losses": (lambda at: ["scripts/token_losses.py", at / "runs"], 1),
    "compare": (lambda at: ["scripts/compare.py", at / "runs", f"--json={at}/compare.json"], 1),
    "report": (lambda at: ["scripts/report.py", at / "runs", f"--out={at}/report.html"], 1),
    "eval": (lambda at: ["eval.py", f"--workdir={at}/alone"], 1),
    "probe": (lambda at: ["scripts/probe.py", at / "alone", "--probes=geometry", f"--json={at}/probe.json"], 1),
}
KILLS = [(command, number) for command, (_, kills) in COMMANDS.items() for number in range(kills)]


class Undisturbed(NamedTuple):
    before: Path  # the place before the command
    seconds: float
    out: str
    numbers: dict[str, Any]  # of the place after it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every command runs: with the same paths, equal runs write equal files."""
    place = tmp_path_factory.mktemp("kills") / "place"
    (place / "text").mkdir(parents=True)
    tiny_runs.write_texts(place / "text")
    (place / "mine.py").write_text(CONFIG)
    return place


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> dict[str, Undisturbed]:
    """Each command in turn, none killed; a later one reads what earlier ones wrote."""
    found = {}
    for name, (arguments, _) in COMMANDS.items():
        before = disturbed.copied(place, place.with_name(f"before-{name}"))
        done = Command(arguments(place), place.with_name("out")).done()
        assert done.code == 0, f"{name}: {done.err}"
        found[name] = Undisturbed(before, done.seconds, done.out, disturbed.numbers(place))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), KILLS)
def test_a_killed_command_finishes_with_the_same_numbers_when_run_again(
    name: str, number: int, place: Path, undisturbed: dict[str, Undisturbed], draws: Draws, tally: Tally
):
    arguments, calm = COMMANDS[name][0](place), undisturbed[name]
    for case, rng in draws.each(f"kill of {name} {number}", 1):
        seconds, killed = calm.seconds, None
        while killed is None or killed.code == 0:  # it was quicker than the undisturbed one: another moment
            disturbed.copied(calm.before, place)
            after = rng.random() * seconds
            command = Command(arguments, place.with_name("out"))
            time.sleep(after)
            command.kill()
            killed = command.done()
            seconds = killed.seconds
        again = Command(arguments, place.with_name("out")).done()
        where = f"{case}: killed after {after:.2f} s ({killed.code})"
        differ = disturbed.differences(disturbed.numbers(place), calm.numbers)
        if again.code != 0:
            tally.add("SIGKILL", disturbed.FAULT, f"{where}: then code {again.code}: {again.err[-600:]}")
        elif differ or (name == "eval" and again.out != calm.out):
            tally.add("SIGKILL", disturbed.WRONG, f"{where}: {differ} differ")
        else:
            tally.add("SIGKILL", disturbed.RECOVERED)
    tally.check()
