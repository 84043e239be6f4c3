"""The command line: help that teaches, errors of one line, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["train.py", "eval.py", *(f"scripts/{path.name}" for path in sorted((ROOT / "scripts").glob("*.py")))]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_a_full_example_and_every_flag(script: str):
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"  python {script} " in done.stdout
    source = (ROOT / script).read_text()
    flags = [line.split('"')[1] for line in source.splitlines() if "flags.DEFINE_" in line and '"' in line]
    assert flags or "DEFINE" not in source
    for flag in flags:
        assert f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/demo.py", "--config.model.layerz=3"], "config.model.layerz: there is no such key; did you"),
        (["--config=configs/demo.py", "--config.model.layers=three"], "--config.model.layers=three"),
        (["--config=configs/nope.py"], "configs/nope.py: no such file; configs/ holds"),
        (["--config=configs/demo.py:arm=tables"], "arm is 'tables'; known: factorized"),
        (["--config=configs/demo.py", "--workdirs=x"], "Did you mean: workdir"),
        (["--config=configs/demo.py"], "--workdir is missing; for example"),
        (["--workdir=x"], "--config is missing; for example"),
        (["--config=configs/demo.py", "--workdir=x", "configs/gpt2.py"], "unexpected argument 'configs/gpt2.py'"),
        (["--config=configs/demo.py", "--workdir=x", "--config.embedding.kind=tabel"], "allowed: table, factorized"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], message: str):
    done = run("train.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (ROOT / "x").exists()
