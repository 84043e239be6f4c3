"""Chosen differences of two arms: each over its own seeds, and one Holm correction for all."""

import json
from pathlib import Path

import commands
import numpy as np
import pytest
from run_folders import write_json, write_run
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


def test_one_comparison_given_both_ways_is_refused(folder: Path):
    done = commands.run("scripts/compare.py", folder, f"--pairs={CHOSEN[0]},table_untied:kronecker")
    assert done.returncode == 2
    assert f"--pairs={CHOSEN[0]},table_untied:kronecker: one comparison, given both ways; leave one" in done.stderr


def test_versions_of_an_arm_are_pairs_by_the_names_that_the_error_gives(tmp_path: Path):
    versions = {("table_untied", 0.002): 4.6, ("table_untied", 0.004): 4.5, ("kronecker", 0.004): 4.4}
    versions["kronecker", 0.008] = 4.3
    for (arm, rate), loss in versions.items():
        for seed in range(2):
            write_run(tmp_path / f"{arm}-{rate}-{seed}", arm, seed, loss + 0.01 * seed, {"train.lr": rate})
    for rate, seed in ((0.004, 2), (0.064, 3)):
        ended = write_run(tmp_path / f"diverged-{rate}", "table_untied", seed, 4.0, {"train.lr": rate})
        (ended / "result.json").unlink()
        write_json(ended / "diverged.json", {"reason": "loss is not finite"})
    found, diverged = finished_runs.gather([tmp_path])
    wanted = {
        "kronecker lr=0.004:table_untied lr=0.004": -0.1,
        "kronecker lr=0.008:table_untied lr=0.002": -0.3,
        "kronecker lr=0.008:kronecker lr=0.004": -0.1,
    }
    with pytest.raises(ValueError, match=r"with two of .*kronecker lr=0\.004.*table_untied lr=0\.002"):
        pairs.read(found, ["kronecker:table_untied"], diverged)
    compared = pairs.read(found, list(wanted), diverged)
    for of_pair, told, (pair, mean) in zip(compared, pairs.to_json(compared)["pairs"], wanted.items(), strict=True):
        assert f"{told['arm']}:{told['baseline']}" == pair
        assert told["difference"]["mean"] == pytest.approx(mean)
        assert told["losses_of"] == {"name": "", "tokens": 20_000, "of": 20_000, "documents": None}
        assert list(of_pair.diverged) == ["table_untied lr=0.004 seed 2"] * pair.endswith("table_untied lr=0.004")


def test_a_version_that_diverged_leaves_the_name_of_the_others(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        write_run(tmp_path / arm, arm, 0, 4.0)
    ended = write_run(tmp_path / "diverged", "table_untied", 1, 4.0, {"train.lr": 0.064})
    (ended / "result.json").unlink()
    write_json(ended / "diverged.json", {"reason": "loss is not finite"})
    found, diverged = finished_runs.gather([tmp_path])
    (of_pair,) = pairs.read(found, ["kronecker:table_untied"], diverged)
    assert [arm.name for arm in of_pair.arms] == ["table_untied", "kronecker"]
    assert not of_pair.diverged


@pytest.mark.parametrize("flag", ["--baseline=table_untied", "--tuned"])
def test_a_flag_that_pairs_would_not_heed_is_refused(folder: Path, flag: str):
    done = commands.run("scripts/compare.py", folder, f"--pairs={CHOSEN[0]}", flag)
    assert done.returncode == 2
    assert "cannot be used with --pairs" in done.stderr
