"""A sweep in stages, by the real command: a later stage depends on what an earlier one found, and is resumed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

from kronecker.sweep import stages

CONFIG = """
import types
from configs import arms, demo

get_config = demo.get_config


def stages(loss):
    tried = [arms.ARMS["kronecker"] | {"seed": 1, "train.lr": rate} for rate in (1e-3, 1e-2, 1e38)]
    yield types.SimpleNamespace(name="tuning", groups=[tried[:2]])
    if loss("tuning", tried[0]) is not None and loss("tuning", tried[2]) is None:
        yield types.SimpleNamespace(name="tuning", groups=[tried])
    losses = [loss("tuning", one) for one in tried]
    if None not in losses:
        best = tried[losses.index(min(losses))]
        yield types.SimpleNamespace(name="finals", groups=[[best | {"seed": 2}]])
"""


@pytest.mark.slow
def test_a_later_stage_runs_what_the_losses_chose_and_a_diverged_run_is_not_trained_again(tmp_path: Path, data: Path):
    config, out = tmp_path / "two.py", tmp_path / "out"
    config.write_text(CONFIG)
    values = tiny_runs.OPTIONS | {"data.folder": data, "data.source": f"text:{data / 'text'}", "train.tokens": 1024}
    command = [sys.executable, "scripts/sweep.py", f"--config={config}", f"--out={out}", "--stages"]
    command += [f"--config.{key}={value}" for key, value in values.items()]

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *flags], cwd=tiny_runs.ROOT, capture_output=True, text=True)

    listed = run("--dry_run").stdout
    assert listed.count("(new)") == 2
    assert "stage finals" not in listed
    done = run("--parallel=2")
    assert done.returncode == 0, done.stdout + done.stderr
    (final,) = (out / "finals").glob("kronecker-seed*")
    assert '"lr": 0.01' in (final / "config.json").read_text()
    again = run()
    assert again.returncode == 0
    assert "stage tuning: 3 of 3 runs done" in again.stdout
    assert "stage finals: 1 of 1 runs done" in again.stdout


def test_without_stages_the_flag_is_refused(tmp_path: Path):
    command = [sys.executable, "scripts/sweep.py", "--config=configs/demo.py", f"--out={tmp_path}", "--stages"]
    done = subprocess.run(command, cwd=tiny_runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "configs/demo.py has no stages(); without --stages its sweep() runs" in done.stderr


HEAD = """
import types
from configs import arms, demo

get_config = demo.get_config
RUN = arms.ARMS["kronecker"] | {"seed": 1, "train.lr": 1e-3}


def stage(name, *groups):
    return types.SimpleNamespace(name=name, groups=groups)


def stages(loss):
"""
FIRST = HEAD.count("\n") + 1  # the line of the body
FAULTS = {
    "yield stage('a', [RUN]); 1 / 0": f"mine.py:{FIRST}: ZeroDivisionError: division by zero",
    "yield stage('a', [{'seed': 1}])": "stages() yields a run without 'embedding.arm'; write, for example",
    "yield stage('a', [arms.ARMS['kronecker']])": "stages() yields a run without 'seed'",
    "yield stage('a', [RUN | {'train.foo': 1}])": "config.train.foo: there is no such key",
    "yield stage('a', [RUN | {'train.lr': [1]}])": "train.lr is [1] of type list; it must be a number",
    "yield stage('a', [RUN | {'train.clip': 0.5}])": "--config.train.clip: stages() of",
    "yield stage('a', [RUN, RUN])": "yields kronecker-seed1 twice",
    "yield stage('a', RUN)": "a stage has a name of letters",
    "yield stage('a', [3])": "stages() yields 3, no dict of keys",
    "yield stage('../up', [RUN])": "a stage has a name of letters",
    "yield stage('', [RUN])": "a stage has a name of letters",
    "yield stage(3, [RUN])": "a stage has a name of letters",
    "yield 3": f"mine.py:{FIRST}: stages() yields 3; a stage has a name",
    "return 5": "stages() returns 5, no stages",
    "yield stage('a', [RUN]); loss('a', {'seed': []})": f"mine.py:{FIRST}: TypeError: unhashable type",
}


@pytest.mark.parametrize("body", FAULTS)
def test_a_mistake_in_stages_is_one_line_that_names_it(tmp_path: Path, body: str):
    config = tmp_path / "mine.py"
    config.write_text(f"{HEAD}    {body}\n")
    staged = stages.of_config(str(config), tmp_path / "out", {"train.clip": 1.0}, tiny_runs.ROOT / "train.py")
    with pytest.raises(ValueError, match=re.escape(FAULTS[body])) as raised:
        list(staged)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"--config={config}") or str(raised.value).startswith("kronecker-seed1: ")
