"""docs/extending.md as a newcomer follows it: all eight diffs in one checkout, and what holds in it afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import code_blocks
import pytest
import tiny_runs
from html_page import Page

PAGE = "docs/extending.md"
TEXT = (code_blocks.ROOT / PAGE).read_text()
POS_DIM, WIDTH = 16, 32  # of the page's config
ADDED = {
    "kronecker_raw": ("#56b4e9", "within a character"),
    "byte_bag": ("#56b4e9", "kronecker_unit without positions"),
    "kronecker_rms": ("#cc79a7", "by its root mean square"),
}
ARMS_TEST = "tests/schema/arms_test.py::test"
LISTING_ARMS_AND_KEYS = [
    *("tests/layout_test.py", "tests/schema/keys_test.py", "tests/schema/resolution_test.py"),
    *(f"{ARMS_TEST}_all_arms_of_a_seed_start_from_one_body", f"{ARMS_TEST}_no_two_kinds_share_a_name"),
    f"{ARMS_TEST}_what_makes_a_kind_is_there_and_takes_what_it_is_said_to",
    # The bound on lines is not for the examples; processes that refuse a config are tested where no key was added.
    *("-k", "not stays_small and not before_jax and not outside_a_checkout"),
]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the whole page was followed."""
    checkout = code_blocks.Checkout(tmp_path_factory.mktemp("extended"))
    try:
        checkout.run(PAGE, TEXT)
    except code_blocks.WrongBlockError as wrong:
        pytest.fail(str(wrong), pytrace=False)
    return checkout.root


@pytest.fixture(scope="module")
def read(extended: Path) -> Callable[[str, str], Any]:
    return lambda arm, name: json.loads((extended / "runs" / "tiny" / arm / name).read_text())


def in_it(extended: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_each_diff_applies_alone(tmp_path: Path):
    clean = code_blocks.Checkout(tmp_path)
    diffs = [block for block in code_blocks.read(PAGE, TEXT) if block.kind == "diff"]
    assert len(diffs) == 8
    for diff in diffs:
        applied = subprocess.run(
            ["git", "apply", "--check", "-"], cwd=clean.root, input=diff.text, capture_output=True, text=True
        )
        assert applied.returncode == 0, f"{PAGE}:{diff.line}: {applied.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("arm", ADDED)
def test_a_new_arm_learns(extended: Path, arm: str):
    losses = [line["loss"] for line in tiny_runs.lines(extended / "runs" / "tiny" / arm)]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_its_parameters_and_its_initial_scale_are_those_of_its_own_code(extended: Path, read: Callable):
    assert read("byte_bag", "params.json")["input"] == 256 * WIDTH
    assert read("kronecker_rms", "params.json")["input"] == (256 * POS_DIM + 1) * WIDTH
    assert read("kronecker_rms", "config.json")["embedding"]["init_std"] == (256 * POS_DIM) ** -0.5
    drift = tiny_runs.lines(extended / "runs" / "tiny" / "kronecker_rms")[0]["embedding_std"]
    assert drift == pytest.approx(1, abs=0.1)  # of the matrix that it declared


@pytest.mark.slow
@pytest.mark.parametrize("arm", ADDED)
def test_the_report_has_its_colour_and_its_line(extended: Path, arm: str):
    colour, line = ADDED[arm]
    assert colour in (extended / "runs" / "tiny" / "report" / "validation_loss.svg").read_text()
    assert line in Page((extended / "runs" / "tiny" / "report.html").read_text()).text


@pytest.mark.slow
def test_a_form_reads_the_same_text_as_another(extended: Path):
    sizes = {}
    for manifest in sorted((extended / "data").glob("*/manifest.json")):
        content = json.loads(manifest.read_text())
        sizes[manifest.parent.name.split("-")[0]] = [content["splits"][s]["bytes"] for s in ("train", "validation")]
    assert sizes["csv"] == sizes["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("pytest", "-m", "not slow", *LISTING_ARMS_AND_KEYS)],
    ids=["lint", "format", "tests"],
)
def test_the_lint_and_the_tests_of_all_arms_and_keys_pass_with_all_eight(extended: Path, command: tuple[str, ...]):
    in_it(extended, *command)
