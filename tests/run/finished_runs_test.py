"""A finished run's files, damaged in every way: each reader names the file and the fault, or does not need it."""

import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import pytest
from etils import epath
from run_folders import write_json, write_run

from kronecker.report import compare, comparison_page, tables
from kronecker.run import finished_runs, rundir, sinks
from kronecker.schema import config_files, resolution
from kronecker.sweep import planning, run_outcome, slurm

CONTENTS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "not finite": b'{"step": NaN}',
    "deep": b"[" * 100_000,
    "deep in a field": b'{"step": ' + b"[" * 100_000,
    "a long number": b'{"step": ' + b"9" * 100_000 + b"}",
    "surrogates": b'{"\xed\xa0\x80": 1}',
    "a key twice": b'{"step": 1, "step": 1}',
}
VALUES: tuple[Any, ...] = (None, True, "text", 7, -1.5, [], [None], {}, [[1]], {"a": {"b": 1}}, 10**400, math.nan)
# Errors about a value that is allowed, but of another run.
OF_OTHER_VALUES = ("differs from params", "holds a run of another config", "cannot be compared")
FILES = ("config.json", "env.json", "params.json", "result.json", "metrics.jsonl")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run as this version writes it, beside an intact one."""
    write_run(tmp_path / "table_untied-seed0", "table_untied", 0, 4.0)
    folder = write_run(tmp_path / "kronecker-seed0", "kronecker", 0, 4.0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_lines(folder, [line | {"line": number} for number, line in enumerate(lines)])
    config = rundir.read_config(epath.Path(folder / "config.json"))
    result = json.loads((folder / "result.json").read_text())
    result |= {"config_sha256": rundir.config_sha256(config), "metrics_gaps": []}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return sinks.read(epath.Path(folder))


def compared(folder: Path) -> None:
    found = compare.compare([finished_runs.read(one) for one in finished_runs.find([folder.parent])])
    tables.verdicts(found)
    tables.costs(found)
    comparison_page._conditions(found)


def config() -> ml_collections.ConfigDict:
    c = config_files.load("configs/demo.py:arm=kronecker")
    c.train.steps = 300
    return resolution.resolve(c)


def trained(folder: Path) -> None:
    """What train.py reads of a folder with a result."""
    rundir.check_same_run(epath.Path(folder), resolution.with_vocabulary(config(), 8192))
    rundir.read_json(epath.Path(folder / "result.json"), finished_runs.LOSSES)


def swept(folder: Path) -> None:
    planned = planning.Planned(folder.name, folder, ("true",), tokens=1)
    planning._check_folder(folder, config())
    planning.describe_time([planned, planning.Planned("new", folder.parent / "new", ("true",))], 1)
    run_outcome.skipped(planned)


READERS: tuple[Callable[[Path], None], ...] = (compared, trained, swept)


def named(folder: Path, name: str, readers: Sequence[Callable[[Path], object]] = READERS) -> int:
    """Reads a run by every reader; returns how many refused it, each in one line that names the file."""
    refused = 0
    for reader in readers:
        try:
            reader(folder)
        except (ValueError, OSError) as error:
            assert any(words in str(error) for words in (name, *OF_OTHER_VALUES))
            assert "\n" not in str(error)
            assert len(str(error)) < 1000 + len(str(folder)), str(error)
            refused += 1
    return refused


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_by_whoever_reads_it(run: Path, name: str):
    intact = (run / name).read_bytes()
    assert named(run, name) == 0
    for kind, content in CONTENTS.items():
        (run / name).write_bytes(content + b"\n" if name == "metrics.jsonl" else content)
        assert named(run, name) >= 1, kind
    for cut in range(1, len(intact) - 1, len(intact) // 7):
        (run / name).write_bytes(intact[:cut])
        assert named(run, name) >= 1, cut
    (run / name).unlink()
    assert named(run, name) >= 1
    (run / name).mkdir()
    assert named(run, name) >= 1


def fields(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in list(content.items()):
        yield content, key
        if isinstance(value, dict) and key != "versions":
            yield from fields(value)


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_field_that_is_missing_or_of_another_type_is_named(run: Path, name: str):
    content = json.loads((run / name).read_text())
    readers = [compared] if name in ("env.json", "result.json") else [lambda run: finished_runs.read(epath.Path(run))]
    for group, key in fields(content):
        value = group.pop(key)
        (run / name).write_text(json.dumps(content))
        named(run, name, readers)
        for other in VALUES:
            group[key] = other
            (run / name).write_text(json.dumps(content))
            named(run, name, readers)
        group[key] = value


def test_a_field_of_a_line_that_is_missing_or_of_another_type_is_named_with_the_line(run: Path):
    lines = read_lines(run)
    for number in (0, 1):  # of either kind
        for key in sinks.FIELDS[lines[number]["kind"]]:
            for other in ("text", None, [], True, math.nan, math.inf, 10**400):
                broken = lines[number] | {key: other}
                write_lines(run, [*lines[:number], broken, *lines[number + 1 :]])
                with pytest.raises(ValueError, match=rf"metrics\.jsonl line {number + 1}: '{key}' is"):
                    finished_runs.read(epath.Path(run))
            broken = {name: value for name, value in lines[number].items() if name != key}
            write_lines(run, [*lines[:number], broken, *lines[number + 1 :]])
            with pytest.raises(ValueError, match=rf"metrics\.jsonl line {number + 1}: lacks '{key}'"):
                finished_runs.read(epath.Path(run))


@pytest.mark.parametrize("number", ["text", None, [], True, 1.5, math.inf])
def test_the_number_of_a_line_that_is_none_is_named_with_the_line(run: Path, number: Any):
    lines = read_lines(run)
    write_lines(run, [lines[0], lines[1] | {"line": number}, *lines[2:]])
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2: 'line' is"):
        finished_runs.read(epath.Path(run))


def test_a_run_that_lost_its_config_is_neither_left_out_nor_finished(run: Path):
    planned = planning.Planned(run.name, run, ("true",), resolved=config())
    assert planned.state == "finished"
    (run / "config.json").unlink()
    assert planned.state == "started"
    with pytest.raises(FileNotFoundError, match=r"kronecker-seed0/config\.json: missing"):
        compared(run)
    with pytest.raises(ValueError, match=r"kronecker-seed0: not empty and not a run \(no config\.json\)"):
        planning._check_folder(run, config())


def test_any_line_that_is_missing_repeated_or_out_of_order_is_told(run: Path):
    lines = read_lines(run)
    rng = random.Random(0)
    for i in range(len(lines)):
        write_lines(run, lines[:i] + lines[i + 1 :])
        with pytest.raises(ValueError, match=r"metrics\.jsonl: (lacks lines between|its last validation)"):
            finished_runs.read(epath.Path(run))
        write_lines(run, [*lines[: i + 1], lines[i], *lines[i + 1 :]])
        with pytest.raises(ValueError, match=rf"metrics\.jsonl line {i + 2}: .* is repeated or out of order"):
            finished_runs.read(epath.Path(run))
    for _ in range(20):
        first, second = sorted(rng.sample(range(len(lines)), 2))
        swapped = lines[:]
        swapped[first], swapped[second] = swapped[second], swapped[first]
        write_lines(run, swapped)
        with pytest.raises(ValueError, match=r"metrics\.jsonl"):
            finished_runs.read(epath.Path(run))
    write_lines(run, lines[:5] + lines[9:])
    with pytest.raises(ValueError, match=r"lacks lines between steps 30 and 70; restore it, or leave the folder out"):
        finished_runs.read(epath.Path(run))


def test_a_run_of_an_earlier_version_that_lost_its_metrics_is_named(run: Path):
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({key: result[key] for key in result if key != "metrics_gaps"}))
    finished_runs.read(epath.Path(run))
    write_lines(run, [])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"metrics.jsonl: has no lines; restore it"):
            finished_runs.read(epath.Path(run))
        (run / "metrics.jsonl").unlink(missing_ok=True)


def test_lines_lost_in_training_are_in_the_result_and_told_again(run: Path, capsys: pytest.CaptureFixture[str]):
    lines = read_lines(run)
    write_lines(run, lines[:5] + lines[9:])
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"metrics_gaps": [[30, 70]]}))
    assert finished_runs.read(epath.Path(run)).train["step"].tolist()[3] == 70
    assert "metrics.jsonl: lacks lines between steps 30 and 70; curves and speed are of the others" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("kept", [0, 1, 7, 12])
def test_a_resumed_run_leaves_a_number_out_where_its_last_lines_are_gone(run: Path, kept: int):
    lines = [line for line in read_lines(run) if line["step"] <= 100]
    write_lines(run, lines[:kept])
    sink = sinks.JsonLines(epath.Path(run), 100)
    sink.write(read_lines_of(110))
    sink.close()
    last = lines[kept - 1]["step"] if kept else 0
    assert sinks.gaps(read_lines(run), 110) == [[last, 110]]


def read_lines_of(step: int) -> dict[str, Any]:
    train = {"clip_share": 0.0, "embedding_std": 1.0, "tokens_per_second": 1.0, "seconds": 1.0}
    return {"kind": "train", "step": step, "tokens": step, "loss": 1.0, **train}


def test_an_exchanged_or_edited_config_is_refused(run: Path):
    intact = json.loads((run / "config.json").read_text())
    for group, key, value in (("train", "lr", 0.5), ("model", "layers", 3), ("embedding", "norm", "length")):
        (run / "config.json").write_text(json.dumps(intact | {group: intact[group] | {key: value}}))
        with pytest.raises(ValueError, match=r"config\.json: not the config of result\.json beside it"):
            finished_runs.read(epath.Path(run))
    (run / "config.json").write_text(json.dumps(intact | {"log": intact["log"] | {"every": 3}}))  # free on resume
    finished_runs.read(epath.Path(run))


def test_a_broken_list_of_jobs_is_named(tmp_path: Path):
    (tmp_path / "slurm").mkdir()
    for content in (b"[]", b"{", b'{"jobs": 1}', b"{}"):
        (tmp_path / "slurm" / "jobs.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"jobs\.json"):
            slurm.sort([], tmp_path)


@pytest.mark.parametrize("value", [10**400, math.nan, math.inf, -math.inf])
def test_a_number_that_no_run_has_is_refused_and_no_comparison_holds_it(run: Path, value: float):
    intact = json.loads((run / "result.json").read_text())
    for key in ("step", "tokens", *finished_runs.LOSSES, "tokens_per_second", "peak_memory_bytes", "clip_share"):
        write_json(run / "result.json", intact | {key: value})
        if key == "validation_loss" and isinstance(value, float):  # a run that diverged, of an earlier version
            assert len(finished_runs.gather([run.parent])[1]) == 1
            continue
        with pytest.raises(ValueError, match=rf"result\.json: '{key}' is .*, not a (whole )?number up to 3\.4e38"):
            finished_runs.gather([run.parent])


def test_a_list_in_a_config_is_refused(run: Path):
    config = json.loads((run / "config.json").read_text())
    for group in (config, config["train"], config["embedding"].setdefault("newer", {})):
        group["list"] = [1]
        (run / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            ValueError, match=r"config\.json: not a config \((train\.|embedding\.newer\.)?list is a list"
        ):
            rundir.read_config(epath.Path(run / "config.json"))
        del group["list"]


def test_a_folder_without_rights_is_named(run: Path, capsys: pytest.CaptureFixture[str]):
    hidden = run.parent / "hidden"
    write_run(hidden, "kronecker", 1, 3.0)
    hidden.chmod(0)
    for folder in (run.parent, *run.parent.parents):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    user = os.geteuid()
    try:
        if user == 0:  # whom no right stops
            os.seteuid(65534)
        found = finished_runs.find([run.parent])
    finally:
        os.seteuid(user)
        hidden.chmod(0o755)
    assert epath.Path(hidden) not in found
    assert epath.Path(run) in found
    assert f"skipped folders without the right to read them:\n  {hidden}\n" in capsys.readouterr().err


def test_a_diverged_run_is_not_one_of_another_config(tmp_path: Path):
    config = resolution.resolve(config_files.load("configs/demo.py"))
    rundir.write_json(epath.Path(tmp_path / "config.json"), config.to_dict())
    config.train.lr = 1e-4
    rundir.check_same_run(epath.Path(tmp_path), config)  # it has no checkpoint yet
    (tmp_path / "diverged.json").write_text('{"reason": "the loss is nan"}')
    with pytest.raises(ValueError, match=r"holds a run of another config \(train\.lr was 0\.001, is 0\.0001\)"):
        rundir.check_same_run(epath.Path(tmp_path), config)


def test_a_folder_with_a_number_that_no_step_can_have_is_no_checkpoint(tmp_path: Path):
    for name in ("3", str(2**31 - 1), str(2**31), "9" * 200, "03"):
        (tmp_path / rundir.CHECKPOINTS / name).mkdir(parents=True)
    assert rundir.saved_steps(epath.Path(tmp_path)) == [2**31 - 1, 3]
