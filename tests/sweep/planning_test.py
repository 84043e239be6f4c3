"""Sweeps: what is planned, what is refused, and what happens to runs that finish, fail, are killed or left behind."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import commands
import pytest
import tiny_runs
from run_folders import LINES, STEPS_A_LINE, write_run

from kronecker.sweep import local, planning

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "train.py"
DEMO = str(ROOT / "configs" / "demo.py")
DEMO_ARMS = ("table_untied", "table_tied", "kronecker", "kronecker_unit")

# A child that writes its process id, waits until it may end, and leaves a result: a run in all that a sweep sees of it.
RUN = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "pid").write_text(str(os.getpid()))
while not (folder.parent / "go").exists():
    time.sleep(0.02)
(folder / "config.json").write_text("{}")
(folder / "result.json").write_text(json.dumps({"train_loss": 1.5, "validation_loss": 1.25}))
"""
# A sweep over such children in a process of its own, as scripts/sweep.py has one.
SWEEP = f"""
import pathlib, sys
from kronecker.sweep import local, planning
out = pathlib.Path(sys.argv[1])
planned = [planning.Planned(n, out / n, (sys.executable, "-c", {RUN!r}, str(out / n))) for n in ("first", "second")]
sys.exit(local.execute(planned, out))
"""


def script(*command: str) -> subprocess.CompletedProcess:
    return commands.run(*command)


def write_config(folder: Path, body: str) -> str:
    file = folder / "mine.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom configs.demo import get_config\n{body}\n")
    return str(file)


def write_texts(folder: Path) -> None:
    folder.mkdir()
    source = random.Random(0)
    for i in range(300):
        words = source.choices(("kronecker", "bytes", "coding", "table", "ed"), k=120)
        (folder / f"{i:03}.txt").write_text(" ".join(words) + ".\n")


def plan(config: str, out: Path, seeds: int = 1, **overrides: Any) -> list[planning.Planned]:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return planning.plan(config, out, planning.expand(config, seeds, dotted), TRAIN)


def child(out: Path, name: str, code: str) -> planning.Planned:
    return planning.Planned(name, out / name, (sys.executable, "-c", code, str(out / name)))


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.02)
    return file.read_text()


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def start_sweep(out: Path) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(out)], cwd=ROOT, **pipes)


def test_the_demo_sweep_is_each_arm_with_each_seed(tmp_path: Path):
    planned = plan(DEMO, tmp_path, seeds=2)
    assert [run.name for run in planned] == [f"{arm}-seed{seed}" for seed in (0, 1) for arm in DEMO_ARMS]
    assert {run.folder.parent for run in planned} == {tmp_path}


def test_the_command_carries_every_override(tmp_path: Path):
    command = plan(DEMO, tmp_path, model__layers=2)[1].command
    assert command[:3] == (sys.executable, os.path.relpath(TRAIN), f"--config={DEMO}")
    assert {"--config.model.tie_head=True", "--config.seed=0", "--config.model.layers=2"} < set(command)
    assert command[-1] == f"--workdir={tmp_path}/table_tied-seed0"


def test_keys_that_vary_within_an_arm_are_in_the_name(tmp_path: Path):
    config = write_config(
        tmp_path,
        "def sweep(seeds):\n"
        "    yield {'embedding.arm': 'table_untied', 'embedding.kind': 'table', 'seed': 0}\n"
        "    for dim in (8, 16):\n"
        "        yield {'embedding.arm': 'kronecker', 'embedding.pos_dim': dim, 'seed': 0}\n",
    )
    names = [run.name for run in plan(config, tmp_path)]
    assert names == ["table_untied-seed0", "kronecker-pos_dim8-seed0", "kronecker-pos_dim16-seed0"]


def test_a_sweep_may_yield_one_dict_again_and_again(tmp_path: Path):
    body = (
        "def sweep(seeds):\n    run = {'embedding.arm': 'kronecker'}\n    for run['seed'] in (0, 1):\n        yield run"
    )
    names = [run.name for run in plan(write_config(tmp_path, body), tmp_path / "out")]
    assert names == ["kronecker-seed0", "kronecker-seed1"]


def test_a_key_that_only_some_runs_of_an_arm_set_is_in_the_names_of_those(tmp_path: Path):
    config = write_config(
        tmp_path,
        "def sweep(seeds):\n"
        "    yield {'embedding.arm': 'kronecker', 'seed': 0}\n"
        "    yield {'embedding.arm': 'kronecker', 'embedding.byte_source': 'decode', 'seed': 0}\n",
    )
    assert [run.name for run in plan(config, tmp_path)] == ["kronecker-seed0", "kronecker-byte_sourcedecode-seed0"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", r"mine.py has no sweep\(\); add, for example: def sweep\(seeds\)"),
        ("def sweep(seeds): yield {'seed': 0}", r"yields a run without 'embedding.arm'; write, for example"),
        ("def sweep(seeds): yield {'embedding.arm': 'kronecker'}", r"yields a run without 'seed'"),
        ("def sweep(seeds): return []", r"sweep\(1\) of .*mine.py yields no run; add one"),
        (
            "def sweep(seeds): yield from 2 * [{'embedding.arm': 'kronecker', 'seed': 0}]",
            r"yields kronecker-seed0 twice; make the two differ in a key",
        ),
        (
            "def sweep(seeds): yield {'embedding.arm': 'x', 'seed': 0, 'model.layerz': 1}",
            r"config.model.layerz: there is no such key; did you mean model.layers\?",
        ),
        (
            "def sweep(seeds): yield {'embedding.arm': 'x', 'seed': 0, 'model.heads': 3}",
            r"x-seed0: model.heads is 3, which does not divide",
        ),
    ],
)
def test_a_sweep_that_cannot_work_is_refused(tmp_path: Path, body: str, message: str):
    with pytest.raises(ValueError, match=message):
        plan(write_config(tmp_path, body), tmp_path / "out")
    assert not (tmp_path / "out").exists()


RUN_OF = "{'embedding.arm': 'kronecker', 'seed': 0}"
MISTAKES = {  # the body of sweep(seeds), in line 6 of its file -> what is told of it
    "1 / 0": "mine.py:6: ZeroDivisionError: division by zero",
    "arms.ARMS['kroneker']": "mine.py:6: KeyError: 'kroneker'",
    "arms.ARM": "mine.py:6: AttributeError: module 'configs.arms' has no attribute 'ARM'",
    "raise ValueError('no seeds')": "mine.py:6: no seeds",
    "raise OSError(2, 'No such file', 'lr.csv')": "mine.py:6: FileNotFoundError: [Errno 2] No such file: 'lr.csv'",
    "sys.exit(1)": "mine.py:6: SystemExit: 1",
    "yield from sweep(seeds)": "mine.py:6: RecursionError",
    "import nowhere": "mine.py:6: ModuleNotFoundError: No module named 'nowhere'",
    "raise MemoryError": "mine.py:6: MemoryError",
    "pass": "mine.py:5: sweep() returns None, no runs; write, for example: def sweep(seeds)",
    f"return {RUN_OF}": "mine.py:5: sweep() yields 'embedding.arm', no dict of keys",
    "return 3": "mine.py:5: sweep() returns 3, no runs",
    "return 'ab'": "mine.py:5: sweep() yields 'a', no dict of keys",
    "return [None]": "mine.py:5: sweep() yields None, no dict of keys",
    f"return map(dict, [{RUN_OF}, 3])": "mine.py:5: TypeError: 'int' object is not iterable",
    "yield": "mine.py:6: sweep() yields None, no dict of keys",
    f"yield [{RUN_OF}]": "mine.py:6: sweep() yields [{'embedding.arm': 'kronecker', 'seed': 0}], no dict",
    f"yield {RUN_OF} | {{3: 4}}": "mine.py:6: config.3: there is no such key",
    f"yield {RUN_OF} | {{'train': {{'lr': 1.0}}}}": "mine.py:6: config.train is a group of keys; set one of",
    f"yield {RUN_OF} | {{'train.lr': None}}": "mine.py:6: train.lr is None of type NoneType; it must be a number",
    f"yield {RUN_OF} | {{'train.lr': True}}": "mine.py:6: train.lr is True of type bool; it must be a number",
    f"yield {RUN_OF} | {{'train.lr': '1e-3'}}": "mine.py:6: train.lr is '1e-3' of type str; it must be a number",
    f"yield {RUN_OF} | {{'train.lr': float('nan')}}": "mine.py:6: train.lr is nan; it must be finite",
    f"yield {RUN_OF} | {{'train.steps': 1e3}}": "mine.py:6: train.steps is 1000.0 of type float; it must be a whole",
    f"yield {RUN_OF} | {{'train.steps': np.arange(3)[1]}}": "mine.py:6: train.steps is np.int64(1) of type int64; it",
    f"yield {RUN_OF} | {{'seed': [1]}}": "mine.py:6: seed is [1] of type list; it must be a whole number",
    f"yield {RUN_OF} | {{'seed': 2**64}}": "mine.py:6: seed is 18446744073709551616; it must be from 0 to 4294967295",
    "yield {'embedding.arm': 3, 'seed': 0}": "mine.py:6: embedding.arm is 3 of type int; it must be text",
    "for i in iter(int, 1): yield {'embedding.arm': 'x', 'seed': 0}": "mine.py:6: sweep() yields more than 10,000",
}


@pytest.mark.parametrize("body", MISTAKES)
def test_a_mistake_inside_a_sweep_is_named_with_file_and_line(tmp_path: Path, body: str):
    file = write_config(tmp_path, f"import numpy as np; from configs import arms\ndef sweep(seeds):\n    {body}")
    with pytest.raises(ValueError) as raised:
        plan(file, tmp_path / "out")
    text = str(raised.value)
    assert text.startswith(f"--config={file}: {tmp_path}/{MISTAKES[body]}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("def sweep(): yield {}", "mine.py:4: TypeError: sweep() takes 0 positional arguments but 1 was given"),
        ("sweep = 3", "TypeError: 'int' object is not callable"),
        ("sweep = range", "sweep() yields 0, no dict of keys"),
        ("def sweep(one, two): yield {}", "mine.py:4: TypeError: sweep() missing 1 required positional argument"),
    ],
)
def test_a_sweep_that_cannot_be_called_is_refused_in_one_line(tmp_path: Path, sweep: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(write_config(tmp_path, sweep), tmp_path / "out")


@pytest.mark.parametrize("seeds", [0, -1, 10_001, 10**30])
def test_a_number_of_seeds_that_no_sweep_has_is_refused(tmp_path: Path, seeds: int):
    with pytest.raises(ValueError, match=f"--seeds={seeds}: it must be from 1 to 10,000"):
        plan(DEMO, tmp_path, seeds=seeds)


def test_an_override_of_what_the_sweep_sets_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--config.seed: sweep\(\) of .*demo.py sets seed itself; change it there"):
        plan(DEMO, tmp_path, seed=3)


def test_a_finished_run_of_another_config_is_refused_and_not_skipped(tmp_path: Path):
    write_run(tmp_path / "kronecker-seed0", "kronecker", 0, 4.5)
    with pytest.raises(
        ValueError, match=r"kronecker-seed0: holds a run of another config \(.*model.layers was 4, is 2"
    ):
        plan(DEMO, tmp_path, model__layers=2, train__steps=300)


def test_a_listing_shows_state_and_command_and_writes_nothing(tmp_path: Path):
    write_run(tmp_path / "out" / "table_untied-seed0", "table_untied", 0, 4.5)
    write_run(tmp_path / "out" / "kronecker-seed0", "kronecker", 0, 4.5)
    (tmp_path / "out" / "kronecker-seed0" / "result.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    flags = ("--config=configs/demo.py", f"--out={tmp_path}/out", "--config.train.steps=300", "--dry_run")
    done = script("scripts/sweep.py", *flags)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"  4 runs x 614k tokens = 2\.46M tokens, \S+ FLOPs, under 0\.01 H100 hours", lines.pop())
    assert lines.pop().startswith("cost (H100 hours: training alone")
    assert lines.pop() == "time: about 4 min for 3 unfinished runs at 5,000 tokens/s"  # one has trained already
    assert lines[0] == "[1/4] table_untied-seed0 (finished)"
    assert re.findall(r"\((\w+)\)", "\n".join(lines)) == ["finished", "new", "started", "new"]
    assert lines[5].startswith("    python train.py --config=configs/demo.py --config.embedding.arm=kronecker ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_run_does_not_stop_the_others_and_is_told_in_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "go").touch()
    write_run(tmp_path / "before", "kronecker", 0, 4.5)
    planned = [child(tmp_path, "bad", "raise SystemExit(3)"), child(tmp_path, "good", RUN)]
    planned.append(child(tmp_path, "before", "raise SystemExit('finished runs are not run again')"))
    assert local.execute(planned, tmp_path) == 1
    out = capfd.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[-3:]}
    assert (rows["bad"][0], rows["bad"][-1]) == ("failed", "3")
    assert (rows["good"][0], *rows["good"][2:]) == ("finished", "1.5000", "1.2500", "0")
    trained = json.loads((tmp_path / "before" / "result.json").read_text())["train_loss"]
    assert rows["before"] == ["skipped", "0", f"{trained:.4f}", "4.5000"]
    assert "[2/3] good\n" in out
    assert "[3/3] before (finished before)\n" in out


def test_a_run_that_ends_well_without_a_result_has_failed(tmp_path: Path):
    assert local.execute([child(tmp_path, "empty", "")], tmp_path) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_child_and_then_the_sweep(tmp_path: Path, number: signal.Signals, code: int):
    process = start_sweep(tmp_path)
    process_id = int(wait_for(tmp_path / "first" / "pid"))
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert not is_alive(process_id)
    assert re.search(r"first +stopped +\d+ +-15", out)
    assert not (tmp_path / "second").exists()


def test_a_run_that_a_killed_sweep_left_behind_is_waited_for_and_not_doubled(tmp_path: Path):
    killed = start_sweep(tmp_path)
    orphan = int(wait_for(tmp_path / "first" / "pid"))
    killed.kill()
    killed.wait()
    killed.stdout.close()  # not read to its end, which the orphan holds open
    again = start_sweep(tmp_path)
    assert "waiting for it" in again.stdout.readline()
    assert is_alive(orphan)
    (tmp_path / "go").touch()
    out, _ = again.communicate(timeout=30)
    assert again.returncode == 0
    assert "(finished before)" in out
    assert int((tmp_path / "first" / "pid").read_text()) == orphan


@pytest.mark.slow
def test_a_sweep_of_real_runs_ends_in_a_table_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", tiny_runs.xla_flags_of_users())
    write_texts(tmp_path / "text")
    arms = "for arm in ('table_untied', 'kronecker'): yield arms.ARMS[arm] | {'seed': 0}"
    config = write_config(tmp_path, f"from configs import arms\ndef sweep(seeds):\n    {arms}")
    options = {"data.source": f"text:{tmp_path}/text", "data.folder": tmp_path / "data", "tokenizer": "gpt2"}
    options |= {"model.layers": 1, "model.heads": 2, "model.d_model": 16, "model.context": 32, "train.sequence": 32}
    options |= {"train.batch": 4, "train.steps": 6, "eval.every": 2, "eval.batch": 4, "log.every": 1}
    flags = [f"--config.{key}={value}" for key, value in options.items()]
    out = tmp_path / "runs"

    swept = script("scripts/sweep.py", f"--config={config}", f"--out={out}", *flags)
    assert swept.returncode == 0, swept.stderr
    again = script("scripts/sweep.py", f"--config={config}", f"--out={out}", *flags)
    assert again.stdout.count("(finished before)") == 2
    compared = script("scripts/compare.py", str(out), f"--json={out}/compare.json")
    assert compared.returncode == 0, compared.stderr
    losses = [
        json.loads((out / f"{arm}-seed0" / "result.json").read_text())["validation_loss"] for arm in DEMO_ARMS[::2]
    ]
    told = json.loads((out / "compare.json").read_text())["arms"]["kronecker"]["difference"]["mean"]
    assert told == pytest.approx(losses[1] - losses[0])
    reported = script("scripts/report.py", str(out))
    assert reported.stdout.splitlines()[-1] == f"report: {out}/report.html"
    assert len(list((out / "report").glob("*.csv"))) == 8


def test_a_run_that_a_sweep_names_otherwise_now_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out, body = (
        tmp_path / "out",
        "def sweep():\n for lr in (0.002, 0.004):\n  yield {**ARM, 'train.lr': lr, 'seed': 0}\n",
    )
    config = write_config(tmp_path, f"from configs import arms\nARM = arms.ARMS['kronecker']\n{body}")
    keys = {"train.steps": LINES * STEPS_A_LINE}
    write_run(out / "kronecker-seed0", "kronecker", 0, 3.2, {"train.lr": 0.004})
    (out / "damaged").mkdir()
    (out / "damaged" / "config.json").write_text("{")
    for told in (1, 0):
        planning.plan(config, out, planning.expand(config, None, keys), TRAIN)
        line = f"{out}/kronecker-seed0 is the run kronecker-lr0.004-seed0, before other keys varied; give it that name"
        assert capfd.readouterr().err.count(line) == told
        if told:
            (out / "kronecker-seed0").rename(out / "kronecker-lr0.004-seed0")
    planned = planning.plan(config, out, planning.expand(config, None, keys), TRAIN)
    assert [run.state for run in planned] == ["new", "finished"]


def test_a_run_of_another_config_that_came_after_the_plan_is_not_the_sweeps_own(tmp_path: Path):
    mine, out = tmp_path / "mine.py", tmp_path / "out"
    mine.write_text(
        "from configs import arms\nfrom configs.demo import get_config\n"
        'def sweep(seeds):\n    yield arms.ARMS["kronecker"] | {"seed": 0}\n'
    )
    steps = LINES * STEPS_A_LINE
    plans = [plan(str(mine), out, train__steps=steps, train__lr=rate) for rate in (0.002, 0.01)]
    write_run(out / "kronecker-seed0", "kronecker", 0, 3.2, {"train.lr": 0.002})
    (own,), (other,) = plans
    assert own.state == "finished"
    assert other.state == "started"
    assert local.execute([dataclasses.replace(other, command=("false",))], out) == 1
