"""Pairs: which are refused, and what the others resolve."""

import io
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import commands
import pytest
from run_folders import write_json, write_run

from kronecker.report import compare, tables
from kronecker.run import finished_runs

ROOT = Path(__file__).parents[2]


def script(*command: str) -> subprocess.CompletedProcess:
    return commands.run(*command)


def comparison(folder: Path, baseline: str = "table_untied") -> compare.Comparison:
    return compare.compare([finished_runs.read(run) for run in finished_runs.find([folder])], baseline)


def write_pairs(folder: Path, differences: list[float], arm: str = "kronecker") -> None:
    for seed, difference in enumerate(differences):
        write_run(folder / f"{arm}-seed{seed}", arm, seed, 4.5 + 0.1 * seed + difference)
        if not (folder / f"table_untied-seed{seed}").exists():
            write_run(folder / f"table_untied-seed{seed}", "table_untied", seed, 4.5 + 0.1 * seed)


# half = t(.975, n - 1) * sd / sqrt(n) with t = 12.7062 and 4.302653 from a printed table
@pytest.mark.parametrize(
    ("differences", "mean", "half", "verdict"),
    [
        ([-0.03, -0.01, -0.02], -0.02, 4.302653 * 0.01 / math.sqrt(3), "not resolved"),
        ([-0.031, -0.029, -0.03], -0.03, 4.302653 * 0.001 / math.sqrt(3), "better"),
        ([0.031, 0.029, 0.03], 0.03, 4.302653 * 0.001 / math.sqrt(3), "worse"),
        ([-0.02, -0.04], -0.03, 12.7062 * 0.01, "not resolved"),
    ],
)
def test_the_interval_and_the_verdict_are_the_ones_computed_by_hand(
    tmp_path: Path, differences: list[float], mean: float, half: float, verdict: str
):
    write_pairs(tmp_path, differences)
    (arm,) = comparison(tmp_path).others
    assert arm.difference.values == pytest.approx(differences)
    assert arm.difference.mean == pytest.approx(mean)
    assert arm.difference.half == pytest.approx(half, rel=1e-5)
    assert arm.difference.verdict == verdict


def test_one_seed_resolves_nothing_and_says_so(tmp_path: Path):
    write_pairs(tmp_path, [-1.0])
    compared = comparison(tmp_path)
    assert compared.others[0].difference.half is None
    assert compared.others[0].difference.verdict == "not resolved"
    assert "One seed has no interval, so nothing is resolved" in tables.sentences(compared)[-1]


def test_seeds_that_an_arm_lacks_are_left_out_so_that_columns_subtract_to_the_difference(tmp_path: Path):
    write_pairs(tmp_path, [-0.01, -0.01])
    write_pairs(tmp_path, [0.2, 0.4, 0.6], arm="table_tied")
    write_run(tmp_path / "extra", "table_untied", 3, 1.0)
    compared = comparison(tmp_path)
    assert [[run.seed for run in arm.runs] for arm in compared.arms] == [[0, 1]] * 3
    for arm, difference in zip(compared.others, [-0.01, 0.3], strict=True):
        assert arm.difference.mean == pytest.approx(difference)
        assert arm.mean("validation_loss") - compared.baseline.mean("validation_loss") == pytest.approx(difference)
    assert tables.sentences(compared)[-1].endswith("left out: 2, 3.")


def test_any_arm_can_be_the_baseline_and_the_best_arm_comes_first(tmp_path: Path):
    write_pairs(tmp_path, [-0.03])
    write_pairs(tmp_path, [0.2], arm="table_tied")
    compared = comparison(tmp_path, "table_tied")
    assert [arm.name for arm in compared.arms] == ["table_tied", "kronecker", "table_untied"]
    assert compared.others[0].difference.mean == pytest.approx(-0.23)


@pytest.mark.parametrize(
    ("overrides", "result", "shown"),
    [
        ({"train.lr": 0.5}, {}, "train.lr is 0.001 against 0.5"),
        ({"model.dropout": 0.1}, {}, "model.dropout is 0.0 against 0.1"),
        ({"eval.sequences": 7}, {}, "eval.sequences is 0 against 7"),
        ({}, {"step": 299}, "step is 300 against 299"),
        ({}, {"data_fingerprint": "f" * 64}, "data_fingerprint is dddddddddddd… against ffffffffffff…"),
        ({}, {"tokenizer_fingerprint": "f" * 64}, "tokenizer_fingerprint is eeeeeeeeeeee… against ffffffffffff…"),
    ],
)
def test_runs_that_are_not_a_pair_are_refused_with_the_difference(
    tmp_path: Path, overrides: dict[str, Any], result: dict[str, Any], shown: str
):
    write_run(tmp_path / "a", "table_untied", 0, 4.5)
    write_run(tmp_path / "b", "kronecker", 0, 4.4, overrides, **result)
    with pytest.raises(ValueError, match="cannot be compared") as refused:
        comparison(tmp_path)
    message = str(refused.value)
    assert f"{tmp_path}/a and {tmp_path}/b" in message
    assert f": {shown};" in message
    assert "\n" not in message


def test_another_initial_body_is_refused(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    run = tmp_path / "kronecker-seed0"
    result = json.loads((run / "result.json").read_text())
    result["params"]["body_init_sha256"] = "a" * 64
    write_json(run / "result.json", result)
    write_json(run / "params.json", result["params"])
    with pytest.raises(ValueError, match="body_init_sha256 is 000000000000… against aaaaaaaaaaaa…"):
        comparison(tmp_path)


def test_conditions_that_change_from_one_seed_to_the_next_are_refused(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    for arm in ("table_untied", "kronecker"):
        write_run(tmp_path / f"{arm}-longer", arm, 1, 4.0, {"train.steps": 600}, step=600)
    with pytest.raises(ValueError, match=r"train\.steps is 300 against 600; .*; step is 300 against 600;"):
        comparison(tmp_path)


@pytest.mark.parametrize(
    "overrides", [{"data.folder": "/elsewhere"}, {"checkpoint.every": 7}, {"log.every": 3}, {"tokenizer": "gpt2"}]
)
def test_keys_without_influence_do_not_part_a_pair(tmp_path: Path, overrides: dict[str, Any]):
    write_run(tmp_path / "a", "table_untied", 0, 4.5)
    write_run(tmp_path / "b", "kronecker", 0, 4.4, overrides)
    assert comparison(tmp_path).others[0].difference.mean == pytest.approx(-0.1)


def test_a_named_unfinished_run_is_refused(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    (tmp_path / "kronecker-seed0" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"kronecker-seed0: the run is not finished \(no result.json\)"):
        comparison(tmp_path / "kronecker-seed0")


@pytest.mark.parametrize("name", ["scripts/compare.py", "scripts/report.py"])
def test_unfinished_runs_in_a_folder_are_named_and_left_out(tmp_path: Path, name: str):
    write_pairs(tmp_path, [-0.01, -0.01])
    (tmp_path / "kronecker-seed1" / "result.json").unlink()
    done = script(name, str(tmp_path))
    assert done.returncode == 0
    command = "python train.py --config=configs/demo.py --config.seed=1"
    told = f"skipped unfinished runs; these commands finish them:\n  {tmp_path}/kronecker-seed1\n    {command}\n"
    assert done.stderr == told


def test_a_folder_in_which_no_run_has_finished_is_refused(tmp_path: Path):
    (write_run(tmp_path / "run", "kronecker", 0, 4.0) / "result.json").unlink()
    with pytest.raises(ValueError, match="no run here has finished"):
        finished_runs.find([tmp_path])


def test_a_run_that_diverged_is_refused(tmp_path: Path):
    run = write_run(tmp_path / "run", "kronecker", 0, 4.0, validation_loss=math.nan)
    with pytest.raises(ValueError, match=r"run: validation_loss is nan in result\.json: .* or leave the folder out$"):
        comparison(run)


def test_arms_without_a_common_seed_are_refused(tmp_path: Path):
    write_pairs(tmp_path, [-0.01, -0.01], arm="table_tied")
    write_run(tmp_path / "lonely", "kronecker", 5, 4.0)
    with pytest.raises(ValueError, match="no seed in common: kronecker has 5; table_tied has 0, 1; table_untied has 0"):
        comparison(tmp_path)


def test_the_same_run_twice_is_refused(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    write_run(tmp_path / "again", "kronecker", 0, 4.0)
    with pytest.raises(ValueError, match=r"again and .*kronecker-seed0 are both kronecker with seed 0"):
        comparison(tmp_path)


def test_settings_of_one_arm_are_told_apart_by_the_key_that_varies(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    write_run(tmp_path / "faster", "kronecker", 0, 4.0, {"embedding.lr_mult": 3.0})
    names = [arm.name for arm in comparison(tmp_path).arms]
    assert names == ["table_untied", "kronecker lr_mult=3.0", "kronecker lr_mult=1.0"]


def test_an_unknown_baseline_is_refused_with_the_arms_there_are(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    with pytest.raises(ValueError, match="--baseline=tabel: no such arm among these runs; there are: kronecker, table"):
        comparison(tmp_path, "tabel")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "params.json").unlink(), r"params.json: missing; restore it, or train the run again"),
        (lambda run: (run / "result.json").write_text("{"), r"result.json: not JSON"),
        (lambda run: (run / "metrics.jsonl").write_text("{]\n"), r"metrics.jsonl line 1: not JSON"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n'),
            "metrics.jsonl line 1: lacks 'tokens'; restore the file from a copy",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any, message: str):
    run = write_run(tmp_path / "run", "kronecker", 0, 4.0)
    damage(run)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finished_runs.read(finished_runs.find([run])[0])


def test_runs_are_found_alone_in_a_folder_and_only_once(tmp_path: Path):
    run = write_run(tmp_path / "b", "kronecker", 0, 4.0)
    other = write_run(tmp_path / "a", "table_untied", 0, 4.0)
    (tmp_path / "report").mkdir()
    assert [Path(found) for found in finished_runs.find([run, tmp_path])] == [run, other]


def test_a_folder_without_runs_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no run here"):
        finished_runs.find([tmp_path])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        finished_runs.find([tmp_path / "missing"])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (809_472, "809k"),
        (999_600, "1.00M"),
        (1_048_576, "1.05M"),
        (123_500_000, "124M"),
        (1_558_000_000, "1.56B"),
    ],
)
def test_counts_have_three_digits(number: int, text: str):
    assert tables.count(number) == text


def test_the_printed_table_is_plain_whole_and_aligned(tmp_path: Path):
    write_pairs(tmp_path, [-0.031, -0.029, -0.03])
    write_pairs(tmp_path, [0.1, 0.12, 0.11], arm="kronecker_unit")
    text = io.StringIO()
    tables.show(comparison(tmp_path), file=text)
    lines = text.getvalue().splitlines()
    verdicts, costs = ({line.split()[0]: line for line in lines[first : first + 3]} for first in (3, 10))
    assert "\x1b" not in text.getvalue()
    assert "…" not in text.getvalue()
    assert list(verdicts) == list(costs) == ["table_untied", "kronecker", "kronecker_unit"]
    assert verdicts["kronecker"].split()[3:] == ["-0.0300", "0.0025", "0.0033", "1.14", "better", "better"]
    assert verdicts["kronecker"].index("0.0025") == verdicts["kronecker_unit"].index("0.0248")
    assert costs["kronecker"].split()[1:7] == ["524k", "809k", "1.05M", "2.38M", "5,100", "1.50"]
    assert max(map(len, map(str.rstrip, lines))) <= 100


def test_the_script_prints_the_table_and_writes_every_number(tmp_path: Path):
    write_pairs(tmp_path, [-0.03, -0.01, -0.02])
    done = script("scripts/compare.py", str(tmp_path), f"--json={tmp_path / 'compare.json'}")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "kronecker: not resolved; on average 0.0200 nats/token below table_untied" in said
    assert "; seed 0: -0.0300, seed 1: -0.0100, seed 2: -0.0200)." in said
    written = json.loads((tmp_path / "compare.json").read_text())["arms"]["kronecker"]
    assert written["difference"]["per_seed"] == pytest.approx([-0.03, -0.01, -0.02])
    assert written["difference"]["verdict"] == "not resolved"
    assert written["params"]["input"] == 524_288
    assert written["validation_loss"]["mean"] == pytest.approx(4.6 - 0.02)


@pytest.mark.parametrize("name", ["scripts/compare.py", "scripts/report.py"])
def test_a_refusal_is_one_line_and_exit_code_2(tmp_path: Path, name: str):
    done = script(name, str(tmp_path / "missing"))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"error: {tmp_path}/missing: no such folder; give folders of runs, or a folder that holds them\n"
    )
    assert "no runs given; for example: python" in script(name).stderr


def test_how_a_product_is_computed_makes_no_version_of_an_arm(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    write_run(tmp_path / "k1", "kronecker", 1, 4.0, {"embedding.implementation": "bag"})
    write_run(tmp_path / "t1", "table_untied", 1, 4.1, {"mesh.cpu_devices": 4})
    compared = comparison(tmp_path)
    assert [(arm.name, len(arm.runs)) for arm in compared.arms] == [("table_untied", 2), ("kronecker", 2)]


def test_versions_with_other_pos_dims_are_not_named_by_the_scale_that_follows_from_it(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    write_run(tmp_path / "p8", "kronecker", 0, 4.0, {"embedding.pos_dim": 8})
    write_run(tmp_path / "small", "kronecker", 0, 4.2, {"embedding.init_std": 0.0003125})
    assert [arm.name for arm in comparison(tmp_path).others] == [
        "kronecker init_std=derived pos_dim=8",
        "kronecker init_std=0.0003125 pos_dim=16",
        "kronecker init_std=derived pos_dim=16",
    ]


def test_two_runs_of_one_arm_and_seed_that_are_no_twins_are_refused_with_their_difference(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    write_run(tmp_path / "fast", "kronecker", 0, 4.0, {"train.lr": 0.002})
    with pytest.raises(ValueError, match=r"cannot be compared: train\.lr is 0\.0.* against 0\.0"):
        comparison(tmp_path)


def test_arms_that_were_tuned_each_on_its_own_are_compared_when_that_is_said(tmp_path: Path):
    write_pairs(tmp_path, [-0.01, -0.02])
    for seed, loss in enumerate((4.30, 4.32)):
        write_run(tmp_path / f"fast{seed}", "kronecker", seed, loss, {"train.lr": 0.002})
    found = [finished_runs.read(folder) for folder in finished_runs.find([tmp_path])]
    with pytest.raises(ValueError, match=r"train\.lr is .*; give runs of both arms at each train\.lr, or --tuned"):
        compare.compare(found)
    compared = compare.compare(found, tuned=compare.TUNED)
    assert [arm.name for arm in compared.arms] == ["table_untied", "kronecker lr=0.002", "kronecker lr=0.001"]
    partner = {run.seed: run.result["validation_loss"] for run in compared.baseline.runs}
    assert compared.others[0].difference.values == pytest.approx((4.30 - partner[0], 4.32 - partner[1]))
    assert "lr" in tables.settings(compared).headers


def test_a_rate_is_no_excuse_for_another_difference(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    write_run(tmp_path / "fast", "table_tied", 0, 4.3, {"train.lr": 0.002, "train.clip": 0.5})
    found = [finished_runs.read(folder) for folder in finished_runs.find([tmp_path])]
    for tuned in ((), compare.TUNED):
        with pytest.raises(ValueError, match=r"train\.clip is 1\.0 against 0\.5") as refused:
            compare.compare(found, tuned=tuned)
        assert "--tuned" not in str(refused.value)


def test_the_settings_that_differ_are_a_table(tmp_path: Path):
    write_pairs(tmp_path, [-0.01])
    told = tables.settings(comparison(tmp_path))
    column = dict(zip(told.headers, zip(*told.rows, strict=True), strict=True))
    assert column["arm"] == ("table_untied", "kronecker")
    assert column["kind"] == ("table", "kronecker")
    assert column["init_std"] == ("0.02", "derived")


def test_runs_of_a_version_with_a_key_more_are_another_version_of_their_arm(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        for seed in (0, 1):
            write_run(tmp_path / f"{arm}-{seed}", arm, seed, 4.5)
    file = tmp_path / "kronecker-1" / "config.json"
    config = json.loads(file.read_text())
    config["embedding"]["newer"] = True
    file.write_text(json.dumps(config))
    found, _ = finished_runs.gather([tmp_path])
    assert compare.names(found) == ["kronecker newer=None", "kronecker newer=True", "table_untied"]
    with pytest.raises(ValueError, match=r"no seed in common: .*newer=None has 0; kronecker newer=True has 1"):
        compare.compare(found)
