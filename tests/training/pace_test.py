"""The estimate of a run's time, from steps and evaluations whose times are known."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import terminals
import tiny_runs

from kronecker.runtime import progress
from kronecker.schema import config_files, resolution
from kronecker.training import pace

ROOT = Path(__file__).parents[2]
OPTIONS = {"tokenizer": "bpe:300", "checkpoint.every": 1000, "eval.every": 1000, "eval.sequences": 32}


def demo(steps: int, every: int) -> pace.Pace:
    """Returns the pace of a run with 2,048 tokens a step that has trained for 50 seconds before."""
    config = config_files.load("configs/demo.py")
    config.train.steps, config.eval.every = steps, every
    return pace.Pace(resolution.resolve(config), 10, 50.0)


def test_what_is_left_is_steps_without_the_first_and_the_evaluations_to_come():
    own = demo(steps=195, every=25)
    own.evaluation = 7.0
    assert (own.left(10), own.measure(10, 50.0)) == (None, None)
    assert own.measure(11, 53.0) is None  # three seconds, which count until another step is measured
    assert own.left(11) == 184 * 3 + 8 * 7
    assert own.measure(12, 55.0) is None
    assert own.left(12) == 183 * 2 + 8 * 7
    assert own.measure(14, 59.0) == "about 7 min left at 1,024 tokens/s"
    assert own.measure(15, 61.0) is None
    assert own.left(175) == 20 * 2 + 7
    assert own.left(195) == 0


def test_one_long_step_is_enough_and_days_come_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(progress.SWEEP_TOKENS, f"{3 * 4623 * 2048}")
    line = demo(steps=4623, every=0).measure(11, 50.0 + 1200)
    assert line == (
        "about 64 days left at 2 tokens/s (257 days for the sweep); to shorten the run, lower train.steps (now 4,623; "
        "3 take an hour), or train.tokens if train.steps is not set; or choose a smaller model (model.layers, "
        "model.d_model) or a GPU or TPU"
    )


def test_a_slow_first_batch_does_not_stay_the_pace():
    own = demo(steps=195, every=0)
    assert own.measure(11, 50.0 + 40) == "about 2.0 h left at 51 tokens/s"
    assert own.measure(31, 90.0 + 40) == "about 5 min left at 1,024 tokens/s"
    assert own.measure(51, 130.0 + 40) is None


@pytest.mark.slow
def test_a_run_of_days_shows_before_its_first_step_and_is_measured_then(data: Path, tmp_path: Path):
    command = tiny_runs.command(tmp_path / "run", data, OPTIONS | {"train.steps": 10**9, "eval.batch": 2})
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    said = []
    while not said or "left at" not in said[-1] or "estimated" in said[-1]:
        said.append(process.stderr.readline())
        assert said[-1], "".join(said)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    estimated, start, measured = said[-3:]
    label = "kronecker seed 0  "
    assert re.fullmatch(
        label + r"about [\d,.]+ days left at [\d,]+ tokens/s, estimated from its first evaluation; .+\n", estimated
    )
    assert "lower train.steps (now 1,000,000,000; " in estimated
    assert re.fullmatch(label + r"step 0/1,000,000,000  val \d\.\d{4}  [\d,.]+ days left\n", start)
    assert re.fullmatch(label + r"about [\d,.]+ days left at [\d,]+ tokens/s\n", measured)
    warning = (
        r"warning: 371 held-out tokens are evaluated; below 50,000 the loss is noisy; raise data.validation_fraction"
    )
    assert sum(line.startswith(f"{label}{warning}") for line in said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80])
def test_a_run_on_a_narrow_terminal_keeps_its_name_and_the_time_left_whole(columns: int, data: Path, tmp_path: Path):
    options = OPTIONS | {"train.steps": 12, "eval.every": 4, "embedding.arm": "an_arm_of_a_name_that_is_long"}
    out = terminals.run(tiny_runs.command(tmp_path / "run", data, options), columns, ROOT)
    _, label, after = out.partition("an_arm_of_a_name_that_is_long seed 0")  # after the bars of other libraries
    rows = terminals.rows(label + after)[:-1]
    assert max(map(len, rows)) <= columns
    lines = [row for row in rows if "step " in row and "/12" in row]
    assert len(lines) >= 12
    assert all(line.startswith(f"{label}  step ") for line in lines)
    assert len(re.findall(r"(?m)(?:^|  )\d+ s left$", "\n".join(rows))) >= 12


def test_a_sweep_leaves_no_name_broken(tmp_path: Path):
    program = f"""
import pathlib, sys
from kronecker.sweep import local, planning
out = pathlib.Path({str(tmp_path)!r})
names = [f"table_plus_kronecker-lr0.00{{i}}-d_model{{i}}-seed1337" for i in (1, 2)]
code = "import json, pathlib, sys; f = pathlib.Path(sys.argv[1]); f.mkdir(); (f / 'config.json').write_text('{{}}')"
code += "; (f / 'result.json').write_text(json.dumps(dict(train_loss=4.5, validation_loss=5)))"
planned = [planning.Planned(n, out / n, (sys.executable, "-c", code, str(out / n))) for n in names]
sys.exit(local.execute(planned, out, parallel=2))
"""
    out = terminals.run([sys.executable, "-c", program], 60, ROOT)
    for i in (1, 2):
        name = f"table_plus_kronecker-lr0.00{i}-d_model{i}-seed1337"
        rows = [row for row in terminals.rows(out) if name in row and "log:" not in row]
        assert len(rows) == 3, out  # it starts, it ends, and it is in the table
        assert all(row.index(name) + len(name) <= 60 for row in rows), out
    assert "  state finished  seconds 0  train loss 4.5000" in terminals.rows(out)
    assert "  val. loss 5.0000  exit code 0" in terminals.rows(out)
