"""Chosen differences of two arms: each over its own seeds, and one Holm correction for all."""

import json
from pathlib import Path

import commands
import numpy as np
import pytest
from run_folders import write_run
from scipy import stats

from kronecker.report import pairs
from kronecker.run import finished_runs

LOSSES = {
    "table_untied": (4.61, 4.62, 4.63, 4.60, 4.64),
    "kronecker": (4.51, 4.53, 4.52, 4.50, 4.55),
    "random_code": (4.50, 4.53, 4.51),
}
RATES = {"table_untied": 0.004, "kronecker": 0.008, "random_code": 0.004}
CHOSEN = "kronecker:table_untied", "random_code:kronecker"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for arm, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            write_run(folder / f"{arm}-seed{seed}", arm, seed, loss, {"train.lr": RATES[arm]})
    return folder


def test_each_pair_has_the_seeds_of_both_and_the_verdicts_are_corrected_for_the_pairs(folder: Path):
    done = commands.run("scripts/compare.py", folder, f"--pairs={','.join(CHOSEN)}", f"--json={folder / 'pairs.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "pairs.json").read_text())["pairs"]
    p_values = []
    for told, pair in zip(found, CHOSEN, strict=True):
        arm, baseline = pair.split(":")
        count = min(len(LOSSES[arm]), len(LOSSES[baseline]))
        difference = np.subtract(LOSSES[arm][:count], LOSSES[baseline][:count])
        assert (told["arm"], told["baseline"]) == (arm, baseline)
        assert told["difference"]["mean"] == pytest.approx(difference.mean())
        assert told["seeds_left_out"] == list(range(count, max(len(LOSSES[arm]), len(LOSSES[baseline]))))
        p_values.append(stats.ttest_1samp(difference, 0).pvalue)
    assert p_values[0] < 0.025
    assert p_values[1] > 0.05
    assert [told["verdict_after_holm"] for told in found] == ["better", "not resolved"]
    assert "kronecker − table_untied" in done.stdout
    assert "left out: 3, 4" in done.stdout


def test_a_verdict_of_one_pair_is_lost_among_several(tmp_path: Path):
    gains = {"kronecker": np.zeros(3), "random_code": np.array([0.010, 0.020, 0.012])}
    gains["head_tail"] = 2 * gains["random_code"]
    for arm, gain in gains.items():
        for seed in range(3):
            write_run(tmp_path / f"{arm}-seed{seed}", arm, seed, 4.5 - gain[seed])
    found = [finished_runs.read(run) for run in finished_runs.find([tmp_path])]
    wanted = ["random_code:kronecker", "head_tail:kronecker"]
    assert [pairs.adjusted(pairs.read(found, [pair])) for pair in wanted] == [["better"], ["better"]]
    assert pairs.adjusted(pairs.read(found, wanted)) == ["not resolved", "not resolved"]


@pytest.mark.parametrize(
    ("pair", "fault"),
    [("kronecker", "'nothing' is not"), ("kronecker:kronecker", "'kronecker' is not"), ("kronecker:x", "'x' is not")],
)
def test_what_is_no_pair_is_refused_with_the_arms_there_are(folder: Path, pair: str, fault: str):
    done = commands.run("scripts/compare.py", folder, f"--pairs={pair}")
    assert done.returncode == 2
    assert f"--pairs={pair}: {fault} one of two arms of these runs; give ARM:BASELINE with two of" in done.stderr
