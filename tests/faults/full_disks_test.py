"""Disks that are full, read-only, or take small files only: one line, and the same command goes on when they do not."""

import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import disturbed
import pytest
import run_folders
import tiny_runs
from commands import Command
from disturbed import FAULT, HARMLESS, RECOVERED, WRONG, Draws, Tally

STEPS = 4
OPTIONS = tiny_runs.OPTIONS | disturbed.SMALL | {"train.steps": STEPS, "checkpoint.every": 2}


class Writer(NamedTuple):
    """A command that writes: its arguments, from the place of its inputs and the disk, and kB that it needs at most."""

    arguments: Callable[[Path, Path], list[Any]]
    most: int
    copied: str = ""  # of the inputs, what it writes into


def overrides(data: Path, text: Path) -> list[str]:
    values = OPTIONS | {"data.folder": data, "data.source": f"text:{text}"}
    return ["--config=configs/demo.py", *(f"--config.{key}={value}" for key, value in values.items())]


WRITERS = {
    "prepare_data": Writer(lambda at, disk: ["scripts/prepare_data.py", *overrides(disk / "data", at / "text")], 200),
    "train": Writer(lambda at, disk: ["train.py", f"--workdir={disk}/run", *overrides(at, at / "text")], 500),
    "token_losses": Writer(lambda at, disk: ["scripts/token_losses.py", disk / "run"], 10, "run"),
    "compare": Writer(lambda at, disk: ["scripts/compare.py", at / "runs", f"--json={disk}/x/c.json"], 8),
    "report": Writer(lambda at, disk: ["scripts/report.py", at / "runs", f"--out={disk}/report.html"], 250),
}
PRODUCT = {
    "prepare_data": "manifest.json",
    "token_losses": "token_losses.npz",
    "compare": "c.json",
    "report": "report.html",
}
FAULTS = ("full", "read-only", "small files only")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs: texts, a dataset, a finished run, and two finished runs with made-up numbers."""
    place = tmp_path_factory.mktemp("disks")
    (place / "text").mkdir()
    tiny_runs.write_texts(place / "text")
    done = Command(["train.py", f"--workdir={place}/run", *overrides(place, place / "text")], place / "out").done()
    assert done.code == 0, done.err
    for arm in ("table_untied", "kronecker"):
        run_folders.write_run(place / "runs" / arm, arm, 0, 4.5)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_is_one_line_and_no_number_is_lost(
    name: str, fault: str, place: Path, small_disk: Path, tmp_path: Path, draws: Draws, tally: Tally
):
    writer = WRITERS[name]
    arguments = writer.arguments(place, small_disk)
    for case, rng in draws.each(f"{fault} disk, {name}", 1):
        fresh(place, small_disk, writer)
        limits: dict[int, int] = {}
        kilobytes = rng.randrange(4, writer.most)
        if fault == "full":
            used = sum(file.stat().st_size // 1024 + 4 for file in small_disk.rglob("*"))
            remount(small_disk, f"size={used + kilobytes}k")
        elif fault == "read-only":
            remount(small_disk, "ro")
        else:
            limits[resource.RLIMIT_FSIZE] = rng.randrange(1, 1024 * min(kilobytes, 60))
        done = Command(arguments, tmp_path / "out", limits).done()
        remount(small_disk, "rw,size=100m")
        kind, words = f"{fault} disk", f"{case}: {kilobytes} kB, limits {limits}: code {done.code}: {done.err[-700:]}"
        again = Command(arguments, tmp_path / "out").done()
        if done.code != 0 and not done.refused:
            tally.add(kind, FAULT, words, f"{name}: no one line")
        elif again.code != 0:
            tally.add(kind, FAULT, f"{words}; then {again.err[-700:]}", f"{name}: does not go on")
        else:
            if name == "train":
                wrong = tiny_runs.losses(small_disk / "run") != tiny_runs.losses(place / "run")
            else:
                wrong = not list(small_disk.rglob(PRODUCT[name]))
            tally.add(kind, WRONG if wrong else RECOVERED if done.refused else HARMLESS, words)
            assert not list(small_disk.rglob("*.tmp"))
    tally.check()


def fresh(place: Path, disk: Path, writer: Writer) -> None:
    for child in disk.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    if writer.copied:
        disturbed.copied(place / writer.copied, disk / writer.copied)
    (disk / "x").mkdir()


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)
