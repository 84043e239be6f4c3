"""The lock of a run's folder: who holds it, who waits, who is refused, and what is left of a refused run."""

import contextlib
import fcntl
import json
import subprocess
from pathlib import Path

import ml_collections
import pytest
from etils import epath

from kronecker.run import rundir
from kronecker.runtime import locks
from kronecker.schema import config_files, resolution


def config(**changes: object) -> ml_collections.ConfigDict:
    c = config_files.load("configs/demo.py")
    c.update_from_flattened_dict(changes)
    return resolution.with_vocabulary(resolution.resolve(c), 300)


def lock(folder: Path, **changes: object) -> rundir.Lock:
    return rundir.Lock(epath.Path(folder), config(**changes))


def test_a_second_run_of_the_same_config_waits_and_names_the_holder_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with lock(tmp_path / "run") as first, lock(tmp_path / "run", **{"log.every": 3}) as second:
        assert first.ask() == rundir.Lock.MINE
        record = json.loads((tmp_path / "run" / ".lock").read_text())
        assert [second.ask() for _ in range(4)] == [rundir.Lock.TAKEN] * 4
        (line,) = capsys.readouterr().err.splitlines()
        assert f"process {record['pid']} on {record['host']} since {record['started']}" in line
        first.__exit__()
        assert second.ask() == rundir.Lock.MINE


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.lr", 0.05, "train.lr was 0.001, is 0.05"),
        ("seed", 1, "seed was 0, is 1"),
        ("checkpoint.init_from", "/other", "checkpoint.init_from was '', is '/other'"),
    ],
)
def test_a_second_run_of_another_config_is_refused_while_the_first_still_compiles(
    key: str, value: object, told: str, tmp_path: Path
):
    with lock(tmp_path / "run") as first, lock(tmp_path / "run", **{key: value}) as second:
        assert first.ask() == rundir.Lock.MINE
        assert [second.ask() for _ in range(2)] == [rundir.Lock.TAKEN, rundir.Lock.REFUSED]
        assert f"trains another config here ({told}); choose another folder" in second.refusal
        second.__exit__()
        with lock(tmp_path / "run") as third:
            assert third.ask() == rundir.Lock.TAKEN, "the refused run deleted the lock of the other"


def test_the_record_of_an_earlier_holder_refuses_nobody(tmp_path: Path):
    with lock(tmp_path / "run", seed=1) as earlier:
        earlier.ask()
        (tmp_path / "run" / "config.json").touch()
    with (tmp_path / "run" / ".lock").open("r+") as new_holder, lock(tmp_path / "run") as waiting:
        fcntl.flock(new_holder, fcntl.LOCK_EX)
        assert waiting.ask() == rundir.Lock.TAKEN
        new_holder.truncate(0)  # before it writes its own
        assert {waiting.ask() for _ in range(3)} == {rundir.Lock.TAKEN}


def test_a_run_that_was_refused_leaves_no_folder_and_a_waiting_one_makes_it_again(tmp_path: Path):
    with contextlib.ExitStack() as stack:
        with lock(tmp_path / "new" / "run") as refused:
            waiting = stack.enter_context(lock(tmp_path / "new" / "run"))
            assert refused.ask() == rundir.Lock.MINE
            assert waiting.ask() == rundir.Lock.TAKEN
        assert not (tmp_path / "new").exists()
        assert waiting.ask() == rundir.Lock.MINE
        with lock(tmp_path / "new" / "run") as other:
            assert other.ask() == rundir.Lock.TAKEN
        (tmp_path / "new" / "run" / "config.json").touch()
    assert (tmp_path / "new" / "run" / "config.json").exists()


def test_a_folder_that_cannot_be_written_is_named(small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match=r"--workdir=.*/run: cannot be written \(Read-only file system\)"):
        lock(small_disk / "run")


def test_a_lock_without_a_record_or_with_a_broken_one_is_waited_for(tmp_path: Path):
    file = tmp_path / ".lock"
    for content in (b"", b"\xff", b"[1]", b"[" * 100_000, b'{"pid": 1}'):
        file.write_bytes(content)
        with locks.Lock(file) as one:
            assert one.holder() == {}
            assert one.holder_words() == "another process"


@pytest.mark.parametrize("config", [None, [], "text"])
def test_a_config_that_is_none_in_the_record_of_a_holder_refuses_nobody(config: object, tmp_path: Path):
    with locks.Lock(tmp_path / ".lock") as held, lock(tmp_path) as other:
        assert held.take(facts={"config": config})
        assert [other.ask(), other.ask()] == [rundir.Lock.TAKEN] * 2
