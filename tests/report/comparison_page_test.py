"""The page: what it says, that its figures hold what its CSV files say, and that it needs nothing else."""

import base64
import csv
import itertools
import json
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path

import commands
import numpy as np
import pytest
from html_page import Page
from matplotlib import figure, transforms
from matplotlib import text as matplotlib_text
from paper_runs import TYPOS
from run_folders import STEPS_A_LINE, TOKENS_A_STEP, curves, write_run

from kronecker.paper import result_figures
from kronecker.report import (
    breakdown,
    breakdown_figures,
    compare,
    comparison_page,
    figures,
    grid,
    grid_figures,
    intervals,
    plot,
)
from kronecker.run import finished_runs

ROOT = Path(__file__).parents[2]
FINAL_LOSSES = {"table_untied": 4.61, "table_tied": 4.71, "kronecker": 4.58, "kronecker_unit": 4.609}
FIGURES = [
    "paired_differences",
    "validation_loss",
    "validation_difference",
    "training_loss",
    "training_difference",
    "embedding_std",
    "clip_share",
    "tokens_per_second",
]
SVG = "{http://www.w3.org/2000/svg}"


def write_sweep(folder: Path, seeds: int) -> Path:
    for seed in range(seeds):
        for arm, loss in FINAL_LOSSES.items():
            write_run(folder / f"{arm}-seed{seed}", arm, seed, loss + 0.01 * seed)
    return folder


def comparison(folder: Path) -> compare.Comparison:
    return compare.compare([finished_runs.read(run) for run in finished_runs.find([folder])])


def numbers(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "report" / f"{name}.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("runs") / "a <b> & c", seeds=2)
    done = commands.run("scripts/report.py", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {folder / 'report.html'}"
    return folder


@pytest.fixture(scope="module")
def page(swept: Path) -> Page:
    return Page((swept / "report.html").read_text())


def test_the_page_is_whole_html_with_the_escaped_title(page: Page):
    assert page.open == []
    assert "Paired runs: a <b> & c" in page.text


def test_the_page_needs_no_other_file_and_no_script(page: Page, swept: Path):
    assert not page.tags & {"script", "link", "iframe"}
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.images)
    assert "url(" not in (swept / "report.html").read_text().split("</style>")[0]


def test_the_verdict_table_holds_what_compare_prints(page: Page):
    row = page.cells.index("kronecker")
    assert page.cells[row : row + 8] == [
        *["kronecker", "4.5850", "2.2925", "−0.0300", "0.0000", "0.0000", "1.14", "better"],
    ]
    row = page.cells.index("kronecker", row + 1)
    assert page.cells[row : row + 5] == ["kronecker", "2 of 2", "539k", "263", "1.14, 1.14"]
    row = page.cells.index("kronecker", row + 1)
    assert page.cells[row : row + 8] == [
        *["kronecker", "524k", "809k", "1.05M", "2.38M", "5,050", "1.50 GB", "10.4\xa0%"],
    ]


@pytest.mark.parametrize(
    "said",
    [
        "4 layers of width 128 with 4 heads; float32",
        "stdlib; fingerprint dddddddddddd",
        "614k tokens: 300 steps of 16 × 128 tokens",
        "cpu: 2 × cpu",
        "Python 3.12.1, jax 0.11.2, flax 0.12.8",
        "python train.py --config=configs/demo.py --config.seed=1",
        "These runs show nothing about larger models, longer training or other text",
        "which does not mean equal",
    ],
)
def test_the_page_states_its_conditions_and_limits(page: Page, said: str):
    assert said in page.text


def test_every_figure_draws_a_line_a_bar_or_a_mark_of_each_arm_and_links_its_numbers(page: Page, swept: Path):
    assert page.links == [f"report/{name}.csv" for name in FIGURES]
    for image, link in zip(page.images, page.links, strict=True):
        svg = ET.fromstring(base64.b64decode(image["src"].partition(",")[2]))
        drawn = {g.get("id") for g in svg.iter(f"{SVG}g") if any(shape.get("d") for shape in g.iter(f"{SVG}path"))}
        arms = {row["arm"] for row in numbers(swept, Path(link).stem)}
        assert arms >= FINAL_LOSSES.keys() - {"table_untied"}
        assert arms <= drawn


def test_the_numbers_of_the_loss_are_those_of_the_runs(swept: Path):
    rows = [row for row in numbers(swept, "validation_loss") if row["arm"] == "kronecker"]
    _, lines = curves("kronecker", 1, FINAL_LOSSES["kronecker"] + 0.01)
    assert [float(row["tokens"]) for row in rows] == [line["tokens"] for line in lines]
    assert [float(row["seed_1"]) for row in rows] == pytest.approx([line["loss"] for line in lines], rel=1e-5)
    assert float(rows[-1]["mean"]) == pytest.approx(FINAL_LOSSES["kronecker"] + 0.005, rel=1e-5)


def test_the_numbers_of_a_difference_are_paired_step_by_step(swept: Path):
    rows = [row for row in numbers(swept, "validation_difference") if row["arm"] == "table_tied"]
    assert [float(row["seed_0"]) for row in rows] == pytest.approx([0.1] * len(rows), rel=1e-5)
    assert "table_untied" not in {row["arm"] for row in numbers(swept, "validation_difference")}


def test_the_final_differences_have_seeds_interval_and_verdict(swept: Path):
    rows = [row for row in numbers(swept, "paired_differences") if row["arm"] == "table_tied"]
    assert [row["seed"] for row in rows] == ["0", "1", "mean"]
    assert float(rows[-1]["interval_low"]) == pytest.approx(0.1)
    assert rows[-1]["verdict"] == "worse"


def test_steps_that_only_some_runs_logged_are_left_out(tmp_path: Path):
    write_sweep(tmp_path, seeds=1)
    metrics = tmp_path / "kronecker-seed0" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if f'"step": {STEPS_A_LINE * 6},' not in line))
    panel = next(panel for panel in figures.PANELS if panel.name == "training_difference")
    shown = {curve.arm: curve.tokens for curve in figures.curves(comparison(tmp_path), panel)}
    left_out = STEPS_A_LINE * 6 * TOKENS_A_STEP
    assert left_out in shown["table_tied"]
    assert left_out not in shown["kronecker"]


def test_a_running_mean_keeps_a_constant_and_flattens_what_alternates(tmp_path: Path):
    run = write_run(tmp_path / "run", "table_untied", 0, 4.0)
    train, _ = curves("table_untied", 0, 4.0)
    lines = [line | {"loss": 4.0, "clip_share": 4.0 + (-1) ** i} for i, line in enumerate(train)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for column, deviation in (("loss", 1e-12), ("clip_share", 0.34)):  # a window cut by the end holds three at least
        panel = figures.Panel("x", "x", "x", "x", "train", column, smoothing=0.2)
        (curve,) = figures.curves(comparison(tmp_path), panel)
        np.testing.assert_allclose(curve.values, np.full((1, len(lines)), 4.0), rtol=0, atol=deviation)


def test_a_run_too_short_to_log_has_a_page_without_curves(tmp_path: Path):
    write_sweep(tmp_path, seeds=1)
    for metrics in tmp_path.glob("*/metrics.jsonl"):
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[-2:]))  # at its last step
    comparison_page.write(comparison(tmp_path), tmp_path / "report.html", "Short")
    assert len(Page((tmp_path / "report.html").read_text()).images) == 2


def test_one_seed_is_called_what_it_is_on_the_page(tmp_path: Path):
    write_sweep(tmp_path, seeds=1)
    comparison_page.write(comparison(tmp_path), tmp_path / "report.html", "One seed")
    page = Page((tmp_path / "report.html").read_text())
    assert "One seed has no interval, so nothing is resolved" in page.text
    assert page.cells.count("not resolved") == 3


def test_equal_runs_give_an_equal_page(tmp_path: Path):
    write_sweep(tmp_path, seeds=1)
    comparison_page.write(comparison(tmp_path), tmp_path / "first.html", "Same")
    comparison_page.write(comparison(tmp_path), tmp_path / "second.html", "Same")
    first, second = ((tmp_path / name).read_text() for name in ("first.html", "second.html"))
    assert first.replace("first/", "second/") == second


def test_the_links_to_the_numbers_hold_in_a_folder_with_an_odd_name(tmp_path: Path):
    write_sweep(tmp_path / "runs", seeds=1)
    comparison_page.write(comparison(tmp_path / "runs"), tmp_path / '"a" <b> & #c.html', "x")
    page = Page((tmp_path / '"a" <b> & #c.html').read_text())
    assert len(page.links) == len(FIGURES)
    for link in page.links:
        assert (tmp_path / urllib.parse.unquote(urllib.parse.urlsplit(link).path)).is_file()


def test_a_page_with_another_suffix_is_refused_before_anything_is_written(tmp_path: Path):
    write_sweep(tmp_path / "runs", seeds=1)
    with pytest.raises(ValueError, match=r"report: a page ends in \.html; write --out=.*report\.html"):
        comparison_page.write(comparison(tmp_path / "runs"), tmp_path / "report", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]


def test_names_however_long_leave_the_figures_their_axes(tmp_path: Path):
    write_run(tmp_path / "table", "table_untied", 0, 4.6)
    for number in range(7):
        settings = {"embedding.pos_dim": 8 * (number + 1), "embedding.lr_mult": 1 + number / 7}
        settings |= {
            "embedding.init_std": 0.001 * (number + 1),
            "embedding.truncation": "head" if number else "head_raw",
        }
        write_run(
            tmp_path / f"k{number}", "kronecker", 0, 4.5 + number / 100, settings | {"embedding.arm": "kronecker_$x^{"}
        )
    compared = comparison(tmp_path)
    longest = max(len(arm.name) for arm in compared.arms)
    assert longest > 60
    for drawn in figures.draw(compared):
        width = float(ET.fromstring(drawn.svg).get("width").removesuffix("pt")) / 72
        assert width >= plot.LEAST_WIDTH + plot.LETTER * longest
    comparison_page.write(compared, tmp_path / "report.html", "Long")
    paper, axes = plot.panels([arm.name for arm in compared.others], ["1", "2"])
    assert axes[0].get_position().width * paper.get_figwidth() >= plot.LETTER * longest * 0.9


def test_every_arm_looks_different_and_named_arms_always_the_same():
    names = [*plot.STYLES, *(f"kronecker pos_dim={dim}" for dim in (8, 12, 16, 24, 32, 48))]
    style = plot.styles(names)
    assert len(set(style.values())) == len(names)
    assert plot.styles(["kronecker"]) == {"kronecker": style["kronecker"]}


def test_versions_of_an_arm_have_its_colour_and_lines_of_their_own():
    names = ["table_untied lr=0.002", "kronecker lr=0.002", "kronecker lr=0.004", "head_tail", "kronecker lr=0.008"]
    style = plot.styles(names)
    assert len(set(style.values())) == len(names)
    assert {style[name][0] for name in names[1:]} == {plot.BLUE}
    assert style["table_untied lr=0.002"] == plot.STYLES["table_untied"]


FOUR = {"a": (-0.1, 0.0), "b": (0.0, 0.1), "c": (0.05, 0.2), "baseline": (0.0, 0.0)}  # 0.3 long


@pytest.mark.parametrize(
    ("others", "left_out"),
    [
        ({"far": (0.7, 0.81)}, {"far"}),
        ({"far": (0.7, 0.79)}, set()),
        ({"far": (-0.71, -0.5)}, {"far"}),
        ({"far": (0.85, 0.9), "below": (-0.9, -0.8)}, {"far", "below"}),
        ({"far": (1.2, 1.2), "near": (0.3, 0.3)}, {"far"}),
    ],
)
def test_an_axis_leaves_out_an_arm_that_reaches_far_outside_the_others(
    others: dict[str, tuple[float, float]], left_out: set[str]
):
    assert set(plot.beyond(FOUR | others, "baseline")) == left_out


def test_an_axis_leaves_out_neither_the_baseline_nor_one_of_a_few_arms():
    assert plot.beyond({"a": (1, 1), "b": (1, 1), "c": (1, 1), "d": (1, 1), "baseline": (0.0, 0.0)}, "baseline") == {}
    assert plot.beyond({"far": (9, 9), "a": (0, 0.1), "b": (0, 0.1), "baseline": (0, 0)}, "baseline") == {}


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[figure.Figure]:
    """Every figure that is made into an SVG from now on."""
    made: list[figure.Figure] = []
    real = plot.svg
    monkeypatch.setattr(plot, "svg", lambda paper: made.append(paper) or real(paper))
    return made


def test_a_figure_says_which_arm_its_axis_leaves_out_and_where_it_is(tmp_path: Path, sheets: list[figure.Figure]):
    for arm, loss in FINAL_LOSSES.items() | {"kronecker_tied": 6.61}.items():
        write_run(tmp_path / arm, arm, 0, loss)
    compared = comparison(tmp_path)
    verdicts, _, difference = figures.draw(compared)[:3]
    assert "The axis does not show all values of kronecker_tied (2 to 2)." in verdicts.caption
    assert "kronecker_tied (2 to 2)" in difference.caption
    (ax,) = sheets[0].axes
    assert ax.get_xlim()[1] < 0.2
    assert "2 →" in {text.get_text() for text in ax.texts}
    (ax,) = sheets[2].axes
    assert "kronecker_tied ↑ 2" in {text.get_text() for text in ax.texts}
    assert [row["difference"] for row in csv.DictReader(verdicts.csv.splitlines()) if row["arm"] == "kronecker_tied"]


def boxes_of_texts(paper: figure.Figure) -> list[tuple[str, transforms.Bbox]]:
    paper.draw_without_rendering()
    texts = list(paper.texts)
    for ax in paper.axes:
        texts += [*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title]
        for labels, (low, high), place in (
            (ax.get_xticklabels(), sorted(ax.get_xlim()), 0),
            (ax.get_yticklabels(), sorted(ax.get_ylim()), 1),
        ):
            texts += [label for label in labels if low <= label.get_position()[place] <= high]
    return [
        (one.get_text(), matplotlib_text.Text.get_window_extent(one))
        for one in texts
        if one.get_text() and one.get_visible()
    ]  # without arrows


def test_no_text_of_a_figure_overlaps_another_or_is_cut(tmp_path: Path, sheets: list[figure.Figure]):
    losses = FINAL_LOSSES | {"kronecker_tied": 6.61, "head_tail": 4.6101, "random_code": 4.6102, "hash_ngram": 4.6103}
    for arm, loss in losses.items():
        for seed in range(2):
            write_run(tmp_path / f"{arm}-{seed}", arm, seed, loss + 0.003 * seed)
    compared = comparison(tmp_path)
    figures.draw(compared)
    figures.draw_speed(compared)
    differences = (intervals.Difference((0, 1), (-0.00012, 0.00011)), intervals.Difference((0, 1), (0.1, 0.2)))
    named = {arm.name: differences for arm in compared.others}
    made = breakdown.Breakdown("x", "X", "", "bytes", ("1", "33+"), (2, 3), (300, 300), (4.0, 4.0), named)
    breakdown_figures.draw(compared, [made])
    result_figures.draw([TYPOS])
    for arm, rate, times in itertools.product(
        ("table_untied", "kronecker"), (1e-3, 2e-3, 4e-3), (1.0, 3.0, 10.0, 30.0)
    ):
        swept = {"train.lr": rate, "embedding.lr_mult": times}
        write_run(tmp_path / "swept" / f"{arm}-{rate}-{times}", arm, 0, 4.5 + rate, swept)
    runs = [finished_runs.read(run) for run in finished_runs.find([tmp_path / "swept"])]
    grid_figures.draw(grid.read(runs, "table_untied").best)
    assert len(sheets) == 13
    for paper in sheets:
        boxes = boxes_of_texts(paper)
        assert [said for said, box in boxes if box.x0 < -1 or box.x1 > paper.bbox.x1 + 1] == []
        assert [
            (said, other)
            for (said, box), (other, its) in itertools.combinations(boxes, 2)
            if min(box.x1, its.x1) - max(box.x0, its.x0) > 2 and min(box.y1, its.y1) - max(box.y0, its.y0) > 2
        ] == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.5], [0.5]),
        ([0.9, 0.1], [0.9, 0.1]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.52, 0.5], [0.56, 0.46]),
        ([0.5, 0.5, 0.62], [0.44, 0.54, 0.64]),
    ],
)
def test_labels_keep_their_order_and_their_distance(wanted: list[float], expected: list[float]):
    assert plot.spread(wanted, 0.1) == pytest.approx(expected)


def test_a_logarithmic_axis_keeps_its_decades_as_ticks():
    paper = figure.Figure()
    ax = paper.subplots()
    ax.plot([0.5, 650.0], [0, 1])
    ax.set_xscale("log")
    plot.svg(paper)
    assert {1.0, 10.0, 100.0} <= set(ax.get_xticks())


def test_an_axis_leaves_no_arm_out_where_the_others_are_equal():
    assert not plot.beyond(dict.fromkeys("abcdef", (0.0, 0.0)) | {"g": (0.02, 0.02)}, "a")
