"""Sweeps over shared keys: a comparison for each value, and each arm at its best by training loss alone."""

import csv
import io
import json
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from html_page import Page
from run_folders import write_run

from kronecker.report import compare, grid, grid_figures, grid_page, tables
from kronecker.run import finished_runs

ROOT = Path(__file__).parents[2]
RATES = (0.002, 0.004, 0.008)
# Validation and training losses by rate: the lowest of one is not the lowest of the other.
VALIDATION = {"table_untied": (4.70, 4.60, 4.50), "kronecker": (4.40, 4.55, 4.60)}
TRAINING = {"table_untied": (4.60, 4.50, 4.55), "kronecker": (4.60, 4.50, 4.40)}
BEST = {"table_untied": 0.004, "kronecker": 0.008}
FINAL = {"table_untied": (4.61, 4.62, 4.63), "kronecker": (4.51, 4.53, 4.52)}  # of seeds 1 to 3


def read(folder: Path, baseline: str = "table_untied") -> grid.Grid | None:
    return grid.read([finished_runs.read(run) for run in finished_runs.find([folder])], baseline)


def write(folder: Path, arm: str, seed: int, loss: float, train_loss: float | None = None, **keys: Any) -> Path:
    """Writes a run whose training loss at the end is `train_loss`."""
    name = "-".join([arm, *map(str, keys.values()), str(seed)])
    overrides = {key.replace("__", "."): value for key, value in keys.items()}
    run = write_run(folder / name, arm, seed, loss, overrides)
    if train_loss is not None:
        file = run / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if line["kind"] == "train":
                line["loss"] = train_loss + (1.0 if line["step"] < 150 else 0.0)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms at three rates with seed 0, and at the best of each with seeds 1 to 3."""
    folder = tmp_path_factory.mktemp("tuned")
    for arm in VALIDATION:
        for rate, loss, train_loss in zip(RATES, VALIDATION[arm], TRAINING[arm], strict=True):
            write(folder, arm, 0, loss, train_loss, train__lr=rate)
        for seed, loss in enumerate(FINAL[arm], start=1):
            write(folder, arm, seed, loss, train__lr=BEST[arm])
    return folder


def test_the_page_of_each_arm_at_its_best_says_how_it_was_chosen_and_draws_no_curve_of_a_point(tmp_path: Path):
    for arm, best in (("table_untied", 0.002), ("kronecker", 0.004)):
        for seed, rate in ((0, 0.002), (0, 0.004), (1, best)):
            run = write(tmp_path, arm, seed, 4.5, 4.5 + abs(best - rate), train__lr=rate)
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            last = max(line["step"] for line in lines)
            kept = [line for line in lines if line["kind"] == "train" or line["step"] == last]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    grid_page.write(read(tmp_path), tmp_path / "report.html", "Tuned")
    best = " ".join(Page((tmp_path / "report" / "best.html").read_text()).text.split())
    assert "at the best of the values that were tried for it, by its training loss on seed 0" in best
    assert "do not compare each arm at its best" not in best
    assert "differs, and the peak learning rate, which each arm has of its own; in tied" in best
    assert "Training loss, paired difference" in best
    assert "Validation loss, paired difference" not in best


def test_each_value_has_its_own_comparison(tuned: Path):
    found = read(tuned)
    assert found.swept == ("train.lr",)
    assert [cell.values for cell in found.cells] == [{"train.lr": rate} for rate in RATES]
    for i, cell in enumerate(found.cells):
        (other,) = cell.comparison.others
        assert other.difference.seeds == (0,)
        assert other.difference.mean == pytest.approx(VALIDATION["kronecker"][i] - VALIDATION["table_untied"][i])
    assert found.whole is None


def test_the_best_values_are_those_of_the_lowest_training_loss_and_other_seeds_confirm_them(tuned: Path):
    best = read(tuned).best
    assert {arm: one.values["train.lr"] for arm, one in best.chosen.items()} == BEST
    assert best.tuning_seeds == (0,)
    assert best.confirmed
    (other,) = best.comparison.others
    assert other.difference.seeds == (1, 2, 3)
    assert other.difference.values == pytest.approx(np.subtract(FINAL["kronecker"], FINAL["table_untied"]))
    assert best.edges("kronecker") == {"train.lr": "highest"}
    assert best.edges("table_untied") == {}
    told = " ".join(tables.choice_sentences(best))
    assert "kronecker: train.lr=0.008 is the highest of the 3 tried" in told
    assert "on seed 0." in told
    assert "on seeds 1, 2, 3." in told
    assert "Not confirmed" not in told


def test_a_seed_that_only_some_arms_have_is_named(tuned: Path, tmp_path: Path):
    shutil.copytree(tuned, tmp_path / "runs")
    write(tmp_path / "runs", "kronecker", 4, 4.5, train__lr=BEST["kronecker"])
    comparison = read(tmp_path / "runs").best.comparison
    assert [run.seed for run in comparison.baseline.runs] == [1, 2, 3]
    assert comparison.left_out == (4,)


def test_without_other_seeds_the_choice_is_not_confirmed(tuned: Path):
    found = [finished_runs.read(run) for run in finished_runs.find([tuned])]
    best = grid.read([run for run in found if run.seed == 0], "table_untied").best
    assert not best.confirmed
    assert best.comparison.others[0].difference.seeds == (0,)
    assert any(told.startswith("Not confirmed") for told in tables.choice_sentences(best))


def test_the_figure_marks_what_was_chosen(tuned: Path):
    (figure,) = grid_figures.draw(read(tuned).best)
    rows = list(csv.DictReader(figure.csv.splitlines()))
    assert len(rows) == 6
    assert {(row["arm"], float(row["train.lr"])) for row in rows if row["chosen"]} == set(BEST.items())
    losses = {(row["arm"], float(row["train.lr"])): float(row["training_loss"]) for row in rows}
    assert losses == {(arm, rate): loss for arm in TRAINING for rate, loss in zip(RATES, TRAINING[arm], strict=True)}


def diverge(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "diverged.json").write_text(json.dumps({"reason": "loss is not finite between steps 3 and 4"}))


def test_a_value_at_which_a_run_diverged_was_tried_and_is_not_the_best(tmp_path: Path):
    for arm in VALIDATION:
        for rate, loss in zip(RATES, VALIDATION[arm], strict=True):
            for seed in (0, 1):
                write(tmp_path, arm, seed, loss, loss - 10 * (rate == 0.008), train__lr=rate)
    for name in ("kronecker-0.008-0", "table_untied-0.008-0", "table_untied-0.008-1"):
        diverge(tmp_path / name)
    for seed, loss in ((0, 4.1), (1, 4.2)):
        diverge(write(tmp_path, "table_tied", seed, loss, loss, train__lr=0.004))
        diverge(write(tmp_path, "table_tied", seed, loss, loss, train__lr=0.008))
    found, diverged = finished_runs.gather([tmp_path])
    swept = grid.read(found, "table_untied", diverged)
    assert [cell.values["train.lr"] for cell in swept.cells] == [0.002, 0.004]
    assert list(swept.cells[1].comparison.diverged) == ["table_tied seed 0", "table_tied seed 1"]
    tables.show_grid(swept, told := io.StringIO())
    assert "Diverged, so without a loss: table_tied seed 0 (loss is not finite" in told.getvalue()
    (skipped,) = swept.skipped
    assert skipped.startswith("train.lr=0.008: only kronecker; ")
    assert "table_untied seed 1 diverged (loss is not finite between steps 3 and 4)" in skipped
    best = swept.best
    assert {arm: one.values["train.lr"] for arm, one in best.chosen.items()} == {
        "table_untied": 0.004,
        "kronecker": 0.002,
    }
    assert best.edges("table_untied") == {}, "a diverged rate lies beyond, so the best is bracketed"
    assert best.edges("kronecker") == {"train.lr": "lowest"}
    assert best.hopeless == ("table_tied",)
    told = tables.choice_sentences(best)
    assert "kronecker: train.lr=0.008 diverged (seed 0). It counts as tried, and cannot be the best." in told
    assert "Left out, as every version diverged: table_tied. Train lower values." in told
    header = tables.choices(best).headers.index("of them\ndiverged")
    assert [row[header] for row in tables.choices(best).rows] == ["1", "1"]
    (figure,) = grid_figures.draw(best)
    rows = list(csv.DictReader(figure.csv.splitlines()))
    crossed = [(row["arm"], row["train.lr"]) for row in rows if row["training_loss"] == "diverged"]
    assert sorted(crossed) == [
        ("kronecker", "0.008"), ("table_tied", "0.004"), ("table_tied", "0.008"), ("table_untied", "0.008"),
    ]  # fmt: skip
    assert 'id="kronecker diverged"' in figure.svg
    written = json.loads(json.dumps(grid.to_json(swept), allow_nan=False))["best"]["versions"]
    assert [one["diverged_seeds"] for one in written if one["train_loss"] is None] == [[0], [0, 1], [0, 1], [0, 1]]


def test_a_chosen_value_that_diverges_on_another_seed_is_compared_without_that_seed(tuned: Path, tmp_path: Path):
    shutil.copytree(tuned, tmp_path / "tuned")
    diverge(tmp_path / "tuned" / "kronecker-0.008-2")
    found, diverged = finished_runs.gather([tmp_path / "tuned"])
    best = grid.read(found, "table_untied", diverged).best
    assert best.comparison.others[0].difference.seeds == (1, 3)
    assert "Diverged, so without a loss: kronecker seed 2" in " ".join(tables.notes(best.comparison))


def test_a_multiplier_and_a_rate_are_drawn_over_the_inputs_own_rate(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        for rate in (0.002, 0.004):
            for times in (1.0, 10.0):
                write(tmp_path, arm, 0, 4.5, 4.5 - rate * times, train__lr=rate, embedding__lr_mult=times)
    found = read(tmp_path)
    assert [arm.name for arm in found.cells[0].comparison.arms] == [
        "table_untied lr_mult=1.0", "kronecker lr_mult=1.0", "kronecker lr_mult=10.0", "table_untied lr_mult=10.0",
    ]  # fmt: skip
    assert found.best.keys == ("train.lr", "embedding.lr_mult")
    assert all(one.place(grid.INPUT_STEP) == pytest.approx(0.04) for one in found.best.chosen.values())
    *_, last = grid_figures.draw(found.best)
    assert last.title == "Training loss over train.lr × embedding.lr_mult"
    at = [float(row[grid.INPUT_STEP]) for row in csv.DictReader(last.csv.splitlines()) if row["arm"] == "kronecker"]
    assert sorted(at) == pytest.approx([0.002, 0.004, 0.02, 0.04])


def test_versions_of_one_arm_stay_arms_of_one_comparison(tmp_path: Path):
    for times, loss in ((1.0, 4.6), (30.0, 4.4)):
        write(tmp_path, "table_untied", 0, loss, loss, embedding__lr_mult=times)
    write(tmp_path, "kronecker", 0, 4.5)
    found = read(tmp_path, "table_untied lr_mult=1.0")
    assert found.swept == ()
    assert found.whole.baseline.name == "table_untied lr_mult=1.0"
    assert [arm.name for arm in found.whole.others] == ["table_untied lr_mult=30.0", "kronecker"]
    assert found.best.chosen["table_untied"].values["embedding.lr_mult"] == 30.0
    assert found.best.comparison.others[0].difference.mean == pytest.approx(0.1)
    assert ["kronecker", "1", "", "not tuned", ""] in [list(row) for row in tables.choices(found.best).rows]


def test_length_and_text_are_no_values_to_choose_from(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        for clip, steps in ((1.0, 300), (0.5, 600)):
            write(tmp_path, arm, 0, 4.5, train__clip=clip, train__steps=steps, train__warmup_steps=steps // 10)
    found = read(tmp_path)
    assert found.swept == ("train.steps",)  # all others follow from it
    assert found.best is None
    other = tmp_path / "other"
    for arm in ("table_untied", "kronecker"):
        write_run(other / f"{arm}-a", arm, 0, 4.5)
        write_run(other / f"{arm}-b", arm, 0, 4.2, {"data.source": "text:b.txt"}, data_fingerprint="f" * 64)
    found = read(other)
    assert found.swept == ("data.source",)
    assert [len(cell.comparison.arms) for cell in found.cells] == [2, 2]
    assert found.best is None


def test_runs_that_are_no_sweep_are_read_as_before(tmp_path: Path):
    write(tmp_path, "table_untied", 0, 4.5)
    plain = write(tmp_path, "kronecker", 0, 4.4)
    assert read(tmp_path) is None
    write(tmp_path, "kronecker", 0, 4.4, train__lr=0.002)
    assert read(tmp_path).skipped == ("train.lr=0.002: only kronecker",)
    (plain / "result.json").unlink()
    with pytest.raises(ValueError, match=r"train\.lr is 0\.001 against 0\.002; only the input embedding may differ"):
        read(tmp_path)


def test_a_sweep_over_two_keys_needs_no_flag(tmp_path: Path):
    for arm in ("table_untied", "kronecker", "kronecker_unit"):
        for rate in (0.002, 0.004):
            for clip in (0.5, 1.0):
                for seed in (0, 1):
                    loss = 4.5 + rate + 0.01 * seed - 0.1 * (arm == "kronecker")
                    write(tmp_path / "runs", arm, seed, loss, loss - clip / 10, train__lr=rate, train__clip=clip)
    runs, numbers = tmp_path / "runs", tmp_path / "numbers.json"
    done = commands.run("scripts/compare.py", runs, f"--json={numbers}")
    assert done.returncode == 0, done.stderr
    for told in ("train.lr=0.002 train.clip=0.5", "train.lr=0.004 train.clip=1.0", "Each arm at its best"):
        assert told in done.stdout
    found = json.loads(numbers.read_text())
    assert found["swept"] == ["train.lr", "train.clip"]
    assert [cell["values"] for cell in found["cells"]] == [
        {"train.lr": rate, "train.clip": clip} for rate in (0.002, 0.004) for clip in (0.5, 1.0)
    ]
    assert found["best"]["chosen"]["kronecker"]["at_the_edge"] == {"train.lr": "lowest", "train.clip": "highest"}
    assert found["best"]["arms"]["kronecker"]["difference"]["mean"] == pytest.approx(-0.1)

    done = commands.run("scripts/report.py", runs)
    assert done.returncode == 0, done.stderr
    page = Page((runs / "report.html").read_text())
    linked = [runs / urllib.parse.unquote(link) for link in page.links if link.endswith(".html")]
    assert [file.name for file in linked] == [
        "best.html",
        *(f"train.lr={rate}_train.clip={clip}.html" for rate in (0.002, 0.004) for clip in (0.5, 1.0)),
    ]
    assert all(file.exists() for file in linked)


def test_two_runs_of_one_arm_value_and_seed_are_refused_in_any_order(tmp_path: Path):
    for arm, rate in (("table_untied", 0.002), ("table_untied", 0.004), ("kronecker", 0.002), ("kronecker", 0.008)):
        write(tmp_path / "runs", arm, 0, 4.5, train__lr=rate)
    again = write(tmp_path / "again", "kronecker", 0, 4.6, train__lr=0.008)  # a value that the baseline has no run at
    folders = [tmp_path / "runs", tmp_path / "again"]
    for found in (folders, folders[::-1]):
        with pytest.raises(ValueError, match="are both kronecker with seed 0"):
            grid.read(*_gathered(found))
    (again / "result.json").unlink()
    (again / "diverged.json").write_text('{"reason": "the loss is nan"}')
    with pytest.raises(ValueError, match="are both kronecker with seed 0"):
        grid.read(*_gathered(folders))


def _gathered(folders: list[Path]) -> tuple[list[finished_runs.Run], str, list[finished_runs.Diverged]]:
    found, diverged = finished_runs.gather(folders)
    return found, "table_untied", diverged


def test_a_key_of_another_version_that_some_runs_lack_is_named(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        for seed, value in ((0, 1), (1, 2), (2, None)):
            file = write(tmp_path, arm, seed, 4.5) / "config.json"
            config = json.loads(file.read_text())
            config["train"] |= {"newer": value} if value else {}
            file.write_text(json.dumps(config))
    assert read(tmp_path) is None
    with pytest.raises(ValueError, match=r"cannot be compared: train\.newer is 1 against 2"):
        compare.compare(finished_runs.gather([tmp_path])[0])
