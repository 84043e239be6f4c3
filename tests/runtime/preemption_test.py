"""Being told to leave, as SLURM or a cloud does it: a real SIGTERM at each moment of a run, alone and with others."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
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
def test_sigterm_at_any_moment_saves_and_changes_no_number(
    processes: int, data: Path, undisturbed: dict[str, float], tmp_path: Path
):
    workdir = tmp_path / "run"
    moments = {
        "starting": lambda: (workdir / "config.json").exists(),
        "training": lambda: trained(workdir, 7),
        "saving": lambda: saving(workdir),
        "evaluating": lambda: evaluating(workdir, 200),
    }
    for name, moment in moments.items():
        group = start(workdir, data, OPTIONS, processes)
        wait_until(group, moment)
        told = time.monotonic()
        group[-1].send_signal(signal.SIGTERM)
        ended = finish(group, 143)
        assert time.monotonic() - told < 30, name
        assert "received SIGTERM" in ended[0], name
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


@pytest.mark.parametrize(("line_after", "lines"), [(False, 1), (True, 0)])
def test_updates_held_for_whoever_goes_on_become_one_line(line_after: bool, lines: int, tmp_path: Path):
    values = [[2.0, 0.1, 1.0, 0.0, 0.5, 1.0]] * 3
    held = {"kind": "held", "step": 3, "seconds": 1.0, "values": values}
    written = [held, {"kind": "train", "step": 3, "seconds": 1.5, "loss": 2.0}][: 1 + line_after]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in written))
    c = resolution.with_vocabulary(resolution.resolve(base.get_config()), 100)
    with run_log.Log(c, transformer.Shape.of(c.model), epath.Path(tmp_path), start=3) as gone_on:
        gone_on.flush(3)  # a process that went on may have written the line, and been killed before it saved
    assert len(tiny_runs.lines(tmp_path)) == line_after + lines


@pytest.mark.parametrize(
    ("before", "then", "words"),
    [
        ("pass", "time.sleep(60)", "nothing to save"),
        ("notice.asked()", "time.sleep(60)", "did not stop within checkpoint.grace_seconds=1;"),
        # it has saved and left the block, and JAX waits for other processes that do not come
        (
            "notice.asked()",
            "[time.sleep(.01) for _ in iter(notice.asked, True)]",
            "did not stop within checkpoint.grace_seconds=1;",
        ),
    ],
)
def test_a_process_that_is_stuck_ends_when_the_grace_is_over(before: str, then: str, words: str):
    script = (
        "import time; from kronecker.runtime import preemption\n"
        "with preemption.Notice(1.0) as notice:\n"
        f"    {before}\n"
        "    print('stuck', flush=True)\n"
        f"    {then}\n"
        "time.sleep(60)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tiny_runs.ROOT, **pipes)
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # changes nothing
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert words in errors
    assert time.monotonic() - began < 10
