"""Being told to leave, as SLURM or a cloud does it: a real SIGTERM at each moment of a run, alone and with others."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import terminals
import tiny_runs
from etils import epath
from tiny_runs import finish, start

from configs import base
from kronecker.model import transformer
from kronecker.schema import resolution
from kronecker.training import run_log

OPTIONS = {
    "tokenizer": "bpe:300",
    "train.steps": 400,  # JAX looks for signals once a second, and so long the run must last
    "eval.every": 200,
    "eval.batch": 2,
    "eval.sequences": 0,
    "data.validation_fraction": 0.5,
    "checkpoint.every": 60,
    "log.every": 7,
    "mesh.cpu_devices": 1,
}


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(workdir, data, OPTIONS))
    return tiny_runs.losses(workdir)


def wait_until(processes: Sequence[subprocess.Popen], moment: Callable[[], bool]) -> None:
    while not moment():
        assert all(process.poll() is None for process in processes), "\n".join(
            process.communicate()[1] for process in processes
        )
        time.sleep(0.001)


def steps_saved(workdir: Path) -> list[int]:
    return sorted(int(child.name) for child in (workdir / "checkpoints").iterdir() if child.name.isdigit())


def trained(workdir: Path, step: int) -> bool:
    return any(line["step"] >= step for line in tiny_runs.lines(workdir))


def evaluating(workdir: Path, step: int) -> bool:
    """Returns whether the line before the evaluation is there and that of the evaluation is not."""
    done = any(line["step"] == step for line in tiny_runs.lines(workdir, "validation"))
    return not done and any(line["step"] == step for line in tiny_runs.lines(workdir))


def saving(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    return folder.exists() and any(not child.name.isdigit() for child in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_at_any_moment_saves_and_changes_no_number(
    processes: int, data: Path, undisturbed: dict[str, float], tmp_path: Path
):
    workdir = tmp_path / "run"
    moments = {
        "starting": (signal.SIGTERM, lambda: (workdir / "config.json").exists()),
        "training": (signal.SIGINT, lambda: trained(workdir, 7)),
        "saving": (signal.SIGTERM, lambda: saving(workdir)),
        "evaluating": (signal.SIGINT, lambda: evaluating(workdir, 200)),
    }
    for name, (number, moment) in moments.items():
        group = start(workdir, data, OPTIONS, processes)
        wait_until(group, moment)
        told = time.monotonic()
        for process in group if number == signal.SIGINT else group[-1:]:  # a terminal interrupts all of its processes
            process.send_signal(number)
        ended = finish(group, 128 + number)
        assert time.monotonic() - told < 30, name
        assert all(f"received {number.name}" in words for words in ended), name
        assert "Traceback" not in "".join(ended)
        assert not (workdir / "result.json").exists(), "the run ended before the signal; the test shows nothing"
        if name == "starting" and processes == 1:
            assert not (workdir / "checkpoints").exists() or not steps_saved(workdir)
        elif name != "starting":
            assert f"step {steps_saved(workdir)[-1]} is saved" in ended[0], name
    finish(start(workdir, data, OPTIONS, processes))
    if processes == 1:
        assert tiny_runs.losses(workdir) == undisturbed
    else:
        assert tiny_runs.losses(workdir) == pytest.approx(undisturbed, abs=1e-5)


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves(data: Path, undisturbed: dict[str, float], tmp_path: Path):
    command = tiny_runs.command(tmp_path / "run", data, OPTIONS)
    process, terminal = terminals.start(command, tiny_runs.ROOT)
    wait_until([process], lambda: terminals.read(terminal) is None or trained(tmp_path / "run", 7))
    os.close(terminal)
    assert process.wait(30) == 128 + signal.SIGHUP
    assert 7 <= steps_saved(tmp_path / "run")[-1] < 400
    finish(start(tmp_path / "run", data, OPTIONS))
    assert tiny_runs.losses(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(("line_after", "lines"), [(False, 1), (True, 0)])
def test_updates_held_for_whoever_goes_on_become_one_line(line_after: bool, lines: int, tmp_path: Path):
    values = [[2.0, 0.1, 1.0, 0.0, 0.5, 1.0]] * 3
    held = {"kind": "held", "step": 3, "seconds": 1.0, "values": values}
    numbers = dict.fromkeys(("loss", "clip_share", "embedding_std", "tokens_per_second", "seconds"), 1.5)
    written = [held, {"kind": "train", "step": 3, "tokens": 384} | numbers][: 1 + line_after]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in written))
    c = resolution.with_vocabulary(resolution.resolve(base.get_config()), 100)
    with run_log.Log(c, transformer.Shape.of(c.model), epath.Path(tmp_path), start=3) as gone_on:
        gone_on.flush(3)  # a process that went on may have written the line, and been killed before it saved
    assert len(tiny_runs.lines(tmp_path)) == line_after + lines


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), "x", None, [1.0]])
def test_a_damaged_number_of_held_updates_is_refused_with_the_file(value: object, tmp_path: Path):
    held = {"kind": "held", "step": 3, "seconds": 1.0, "values": [[2.0, 0.1, 1.0, 0.0, 0.5, value]] * 3}
    file = epath.Path(tmp_path) / "metrics.jsonl"
    with pytest.raises(ValueError, match=rf"{file}: the line 'held' of step 3 is damaged; restore"):
        run_log._held(held, file)


@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_at_a_random_moment_of_the_start_ends_the_run_at_once(seed: int, data: Path, tmp_path: Path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = tiny_runs.command(tmp_path / "run", data, OPTIONS)
    process = subprocess.Popen(command, cwd=tiny_runs.ROOT, **pipes)  # whose start has all of its imports
    time.sleep(random.Random(seed).uniform(0.3, 4))
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    (ended,) = finish([process], 130)
    assert time.monotonic() - began < 5
    assert re.search("received SIGINT(; no step is finished|; step [0-9]+ is saved| before training started)", ended)
    assert "Traceback" not in ended


STUCK = """
import time
from kronecker.runtime import preemption
notice = preemption.NOTICE
notice.grace_seconds = 1.0
notice.listen()
BEFORE
print("stuck", flush=True)
THEN
notice.close()
time.sleep(60)
"""


def stuck(before: str, then: str) -> subprocess.Popen:
    script = STUCK.replace("BEFORE", before).replace("THEN", then)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tiny_runs.ROOT, **pipes)
    assert process.stdout.readline() == "stuck\n"
    return process


@pytest.mark.parametrize(
    ("before", "then", "words"),
    [
        ("pass", "time.sleep(60)", "nothing to save"),
        ("notice.asked()", "time.sleep(60)", "did not stop within checkpoint.grace_seconds=1;"),
        # it has saved and left the block, and JAX waits for other processes that do not come
        (
            "notice.asked()",
            "[time.sleep(.01) for _ in iter(notice.asked, signal.SIGTERM)]",
            "did not stop within checkpoint.grace_seconds=1;",
        ),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_process_that_is_stuck_ends_when_the_grace_is_over(
    number: signal.Signals, before: str, then: str, words: str
):
    process = stuck(before, then.replace("signal.SIGTERM", str(number.value)))
    process.send_signal(number)
    if number != signal.SIGINT:
        process.send_signal(number)  # changes nothing
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"received {number.name} " in errors
    assert words in errors
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_second_ctrl_c_ends_a_run_that_saves(first: signal.Signals):
    process = stuck("notice.asked()", "notice.grace_seconds = 60; time.sleep(60)")
    process.send_signal(first)
    if first == signal.SIGTERM:
        process.send_signal(signal.SIGINT)
    assert "press Ctrl-C again to end at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.endswith(
        "received SIGINT again: ends at once; the same command resumes from the newest complete checkpoint\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("lost", ["pass", "os.dup2(os.open('/dev/full', 1), 2)"], ids=["no reader", "full disk"])
def test_a_signal_is_heard_where_what_it_says_cannot_be_written(number: signal.Signals, lost: str):
    loop = f"[time.sleep(.01) for _ in iter(notice.asked, {number.value})]"
    then = f"{loop}; print('saved', file=sys.stderr, flush=True); notice.close(); sys.exit(7)"
    process = stuck(f"import os, sys; notice.asked(); {lost}", then)
    process.stdout.close()
    process.stderr.close()  # a `tee` that ended by the same Ctrl-C
    process.send_signal(number)
    assert process.wait(30) == 7
