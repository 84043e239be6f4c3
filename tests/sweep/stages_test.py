"""A sweep in stages, by the real command: a later stage depends on what an earlier one found, and is resumed."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

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
