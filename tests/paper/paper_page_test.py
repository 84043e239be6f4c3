"""The page of the paper's tables beside ours: from files of runs and results to numbers that a reader sees."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from paper_runs import LAYERED, LOSSES, TYPOS, write_runs
from run_folders import write_run

from kronecker.paper import headlines, paper_page, results, training_claims
from kronecker.probes import parameters
from kronecker.report import compare
from kronecker.run import finished_runs, result


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> compare.Comparison:
    return training_claims.pair(write_runs(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def written(comparison: compare.Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "paper.html"
    found = {"parameters": [parameters.measure()], "probes": [LAYERED, TYPOS]}
    paper_page.write(comparison, found, file, "Ours & theirs")
    return file


def test_the_papers_gap_is_the_tables_loss_minus_kroneckers(comparison: compare.Comparison):
    rows = {row[0]: row[1:] for row in training_claims.measure(comparison).rows}
    gap, half, verdict = rows[training_claims.GAP.format("tied table")]
    assert gap == pytest.approx((0.08 + 0.09 + 0.07) / 3)
    assert half == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-4)
    assert verdict == "kronecker is ahead"
    assert rows[training_claims.RELATIVE][0] == pytest.approx(100 * (0.08 / 4.6 + 0.09 / 4.62 + 0.07 / 4.61) / 3)
    assert rows[training_claims.GAP.format("untied table")][0] == pytest.approx(-0.02)
    assert rows[training_claims.GAP.format("untied table")][2] == "kronecker is behind"


def test_the_lead_is_counted_over_seeds_and_evaluations_after_the_start(comparison: compare.Comparison):
    ahead = {row[0]: row for row in training_claims.measure(comparison).rows}[training_claims.CELLS]
    by_hand = total = 0
    kronecker = next(arm for arm in comparison.others if arm.name == "kronecker")
    for mine, theirs in zip(kronecker.runs, comparison.baseline.runs, strict=True):
        later = mine.validation["tokens"] > 0
        by_hand += int((mine.validation["loss"] < theirs.validation["loss"])[later].sum())
        total += int(later.sum())
    assert ahead[1:] == (by_hand, None, f"of {total}")


def test_the_drift_is_the_std_at_the_end_in_units_of_its_start(comparison: compare.Comparison):
    rows = {row[0]: row[1] for row in training_claims.measure(comparison).rows}
    ends = [run.train["embedding_std"][-1] for run in comparison.baseline.runs]
    assert rows[training_claims.DRIFT_TABLE] == pytest.approx(sum(ends) / 3)


def test_every_row_of_the_paper_has_one_of_ours(comparison: compare.Comparison):
    told = training_claims.measure(comparison)
    assert {row[0] for row in told.paper} <= {row[0] for row in told.rows}


def test_without_the_papers_two_arms_there_is_no_comparison(tmp_path: Path):
    found = write_runs(tmp_path, {"table_untied": (4.5,), "kronecker": (4.6,)})
    with pytest.raises(ValueError, match="no finished run of table_tied; train it first, for example: make pair"):
        training_claims.pair(found)


def test_other_arms_do_not_come_into_the_papers_comparison(tmp_path: Path):
    found = write_runs(tmp_path, LOSSES | {"kronecker_unit": (4.4,)})
    compared = training_claims.pair(found)
    assert {arm.name for arm in compared.arms} == {"table_tied", "kronecker", "table_untied"}
    assert len(compared.baseline.runs) == 3


def test_probes_run_on_the_lowest_seed_and_kronecker_is_compared_with_the_tables(comparison: compare.Comparison):
    assert [run.folder.name for run in training_claims.probed(comparison)][-1] == "kronecker-seed0"
    assert {run.seed for run in training_claims.probed(comparison)} == {0}


def test_headlines_stand_beside_the_papers(comparison: compare.Comparison):
    found = {one.name: one for one in (training_claims.measure(comparison), parameters.measure(), LAYERED)}
    rows = {row[0]: row[1:4] for row in headlines.table(found).rows}
    gap = ("0.083 ± 0.007", "0.080 ± 0.025", "agrees")
    assert rows["tied table minus kronecker, validation loss, nats/token"] == gap
    assert rows["untied table minus kronecker, validation loss, nats/token"] == (
        "no such run",
        "-0.020 ± 0.000",
        "not comparable",
    )
    assert rows["input parameters saved, GPT-2 small, P = 16, %"] == ("91.85", "91.85", "agrees")
    assert rows["input parameters saved, V = 131,072, d = 4,096, P = 32, %"] == ("93.75", "93.75", "agrees")
    relatives = ("0.302 / 0.244", "0.250 / 0.125", "not comparable")
    assert rows["neighbours with the root, E_raw, table / kronecker"] == relatives
    assert rows["KL(clean || typo), nats, table / kronecker"] == ("0.859 / 0.794", "not measured", "")


def judged(paper: str, ours: str, differs: bool = False, **of_headline: object) -> str:
    held = result.Result(
        "x", "x", "", {"model": "a"}, ("q",), [(ours,)], [("y",)], (), {"model": "b" if differs else "a"}
    )
    one = headlines.Headline("x", "6.6", paper, "x", lambda rows: rows[0]["q"], **of_headline)
    return headlines.verdict(one, {"x": held})


@pytest.mark.parametrize(
    ("interval", "resolved", "verdict"),
    [
        ((0.1, 0.2), True, "agrees"),
        ((-0.2, -0.1), True, "opposite"),
        ((-0.1, 0.2), True, "not resolved"),
        ((0.1, 0.2), False, "not resolved"),
        (None, True, "not resolved"),
    ],
)
@pytest.mark.parametrize("differs", [False, True])
def test_a_direction_is_compared_under_any_conditions_by_its_interval(
    interval: tuple[float, float] | None, resolved: bool, verdict: str, differs: bool
):
    assert judged("0.3", "0.1", differs, effect=lambda found: interval, resolved=resolved) == verdict


def test_digits_are_compared_under_the_papers_conditions_alone_and_where_conditions_do_not_matter():
    assert judged("0.923", "0.923") == "agrees"
    assert judged("0.923", "0.925") == "opposite"
    assert judged("0.923", "0.923", differs=True) == "not comparable"
    assert judged("91.85", "91.85", differs=True, exact=True) == "agrees"
    assert judged(headlines.NO_SUCH_RUN, "0.1") == "not comparable"


def test_a_factor_is_resolved_as_its_logarithm_is(comparison: compare.Comparison):
    trained = training_claims.measure(comparison)
    _, half = {row[0]: row[1:3] for row in trained.rows}[training_claims.SOONER]
    kronecker = next(arm for arm in comparison.others if arm.name == "kronecker")
    logs = [math.log(reached.factor) for reached in kronecker.reaches]
    t = 4.302653 * float(np.std(logs, ddof=1)) / 3**0.5
    low, high = math.exp(np.mean(logs) - t), math.exp(np.mean(logs) + t)
    assert half == pytest.approx((high - low) / 2, rel=1e-5)
    sooner = next(one for one in headlines.HEADLINES if one.paper == "1.43")
    assert sooner.effect({"training": trained}) == (pytest.approx(low - 1, rel=1e-4), pytest.approx(high - 1, rel=1e-4))


def test_the_page_begins_with_three_sentences_and_training_comes_before_geometry(written: Path):
    text = " ".join(Page(written.read_text()).text.split())
    verdict, rest = text.split("compare directions, not digits.", 1)
    counts = "6 agree with the paper; opposite: 0, not resolved: 0, not comparable: 4."
    tied = "0.080 ± 0.025 nats/token lower than the tied table's (paper: 0.083 ± 0.007 lower)"
    untied = "0.020 ± 0.000 nats/token higher than the untied table's (not in the paper)"
    assert f"{counts} In these runs kronecker's final validation loss is {tied} and {untied}. These runs" in verdict
    assert rest.lstrip().startswith("quantity paper here verdict section".replace(" ", ""))
    titles = [section.title for section in paper_page.SECTIONS]
    assert titles[0] == "Training (6.6)"
    assert titles.index("Geometry of codes, without a model (6.1 to 6.5)") > 0


def test_a_run_of_kronecker_unit_is_not_taken_for_kronecker():
    rows = [("kronecker_unit-seed0", "E_raw", "all", 48, 0.0, 0.9, 0.0), *LAYERED.rows]
    told = headlines.table({"layered": dataclasses.replace(LAYERED, rows=rows)})
    assert ("0.302 / 0.244", "0.250 / 0.125") in [row[1:3] for row in told.rows]


def test_the_statement_names_what_differs_and_what_the_paper_does_not_say():
    told = results.statement(dataclasses.replace(LAYERED, conditions={"model": "small", "seed": "1"}))
    assert told == "Not the paper's model: compare directions, not digits. The paper does not state its seed."
    assert results.statement(dataclasses.replace(LAYERED, paper_conditions={"model": "small"})) == results.SAME
    assert results.statement(TYPOS) == results.NONE


def test_the_page_is_whole_and_needs_no_other_file(written: Path):
    page = Page(written.read_text())
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe"}
    assert "Ours & theirs" in page.text
    assert "Not the paper's model: compare directions, not digits." in page.text
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.images)
    assert {image["alt"].split(";")[0] for image in page.images} >= {
        "Validation loss",
        "Norm drift of the input embedding",
        "Relatives among the ten nearest tokens, by depth",
        "What a typo changes, by category of prompts",
    }


def test_the_papers_rows_are_told_from_ours(written: Path):
    quoted = written.read_text().count('<tr class="quoted">')
    told = json.loads((written.with_suffix("") / "results.json").read_text())
    assert quoted == sum(len(one["paper"]) for one in told) > 10


def numbers(written: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((written.with_suffix("") / f"{name}.csv").read_text().splitlines()))


def test_every_table_and_figure_has_its_numbers_beside_it(written: Path):
    rows = numbers(written, "layered")
    assert [row["root"] for row in rows if row["run"] == "kronecker-seed0"] == ["0.125", "0.125"]
    assert {row["from"] for row in numbers(written, "training")} == {"here", "paper"}
    assert numbers(written, "typos_by_category")[0]["difference"] == "0.1"
    linked = re.findall(r'href="(paper/[^"]*)"', written.read_text())
    assert len(linked) > 8
    assert all((written.parent / link).is_file() for link in linked)


def test_results_of_one_name_in_two_parts_are_both_on_the_page(comparison: compare.Comparison, tmp_path: Path):
    loose = result.Result("loose", "Loose", "6.1", {}, ("embedding", "mean"), [("codec, x", 0.9)])
    of_runs = dataclasses.replace(loose, title="Loose of runs", rows=[("kronecker-seed0", 0.8)])
    paper_page.write(comparison, {"codes": [loose], "probes": [of_runs]}, tmp_path / "paper.html", "x")
    assert Page((tmp_path / "paper.html").read_text()).text.count("Loose of runs") == 1
    assert {"loose.csv", "loose_probes.csv"} <= {file.name for file in (tmp_path / "paper").iterdir()}


def test_several_versions_of_an_arm_are_refused_before_anything_is_measured(tmp_path: Path):
    write_runs(tmp_path)
    write_run(tmp_path / "p8", "kronecker", 0, 4.4, {"embedding.pos_dim": 8})
    found = [finished_runs.read(folder) for folder in finished_runs.find([tmp_path])]
    with pytest.raises(
        ValueError, match=r"several versions of one arm: kronecker .*; name the runs of one version each, for"
    ):
        training_claims.pair(found)


def test_each_arm_may_have_a_rate_of_its_own_and_the_page_names_both(tmp_path: Path):
    for arm, rate in (("table_tied", 0.002), ("kronecker", 0.004)):
        for seed in range(3):
            write_run(tmp_path / f"{arm}-seed{seed}", arm, seed, 4.4, {"train.lr": rate})
    found = [finished_runs.read(folder) for folder in finished_runs.find([tmp_path])]
    assert training_claims.measure(training_claims.pair(found)).conditions["learning rate"] == "0.002 and 0.004"


def test_a_time_that_noise_drowns_is_told_with_its_quartiles():
    columns = ("arm", "input", "buffers, MB", "over cached, %", "its low", "its high")
    rows = [("kronecker", "cached", 4299.4, None, None, None), ("kronecker", "onthefly", 4.4567, 16.23, -0.02, 21.28)]
    told = headlines.table({"runtime": result.Result("runtime", "x", "4", {}, columns, rows)})
    assert [row[2] for row in told.rows[-2:]] == ["4.46", "16.2 (0.0 to 21.3)"]
