"""The probes as people run them: on real checkpoints, in real processes."""

import json
import subprocess
from pathlib import Path

import commands
import pytest
import tiny_runs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "tokenizer": "gpt2",
    "model.layers": 2,
    "model.heads": 2,
    "model.d_model": 16,
    "model.context": 64,
    "train.batch": 4,
    "train.sequence": 32,
    "train.steps": 2,
    "mesh.cpu_devices": 1,  # two would both do all of the drawing
    "eval.sequences": 4,
    "eval.batch": 4,
}
ARMS = ("table_tied", "kronecker")


def script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    # Thousands of ids are drawn from a large vocabulary: here the time is not the compiler's.
    return commands.run(name, *arguments, XLA_FLAGS=tiny_runs.xla_flags_of_users())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    (folder / "text").mkdir()
    for i in range(40):
        (folder / "text" / f"{i}.txt").write_text(f"Document {i} says that the code of a token is its bytes. " * 20)
    options = OPTIONS | {"data.folder": folder / "data", "data.source": f"text:{folder / 'text'}"}
    flags = [f"--config.{key}={value}" for key, value in options.items()]
    for arm in ARMS:
        done = script("train.py", f"--config=configs/demo.py:arm={arm}", f"--workdir={folder / arm}", *flags)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def paper_page(trained: Path) -> tuple[subprocess.CompletedProcess, Path]:
    page = trained / "paper.html"
    runs = [trained / arm for arm in ARMS]
    return script("scripts/report.py", "--paper", *runs, "--parts=parameters,probes", f"--out={page}"), page


@pytest.fixture(scope="module")
def probed(trained: Path) -> tuple[str, dict[str, dict]]:
    pairs = trained / "pairs.json"
    listed = [
        {"category": "one", "clean": "The capital of France is", "typo": "The captial of France is"},
        {"category": "one", "clean": "Two plus two is", "typo": "Two plsu two is"},
        {"category": "two", "clean": "A token is a string", "typo": "A token is a strnig"},
    ]
    pairs.write_text(json.dumps({"prompt_pairs": listed}))
    runs = [trained / arm for arm in ARMS]
    files = (f"--json={trained / 'probes.json'}", f"--page={trained / 'probes.html'}")
    done = script("scripts/probe.py", "--pair", *runs, f"--pairs={pairs}", *files)
    assert done.returncode == 0, done.stderr
    return done.stdout, {one["name"]: one for one in json.loads((trained / "probes.json").read_text())}


def test_every_probe_writes_its_tables_for_both_runs(probed: tuple[str, dict[str, dict]]):
    tables = probed[1]
    expected = {"loose", "anisotropy", "edit_distance", "layered", "layered_single", "robustness", "robustness_paired"}
    assert expected | {"generation", "generation_texts", "generation_paired"} <= tables.keys()
    for name in ("loose", "layered"):
        assert set(ARMS) <= {row[0] for row in tables[name]["rows"]}
    assert all(len(row) == len(one["columns"]) for one in tables.values() for row in one["rows"])


def test_the_pairs_of_a_file_take_the_place_of_ours(probed: tuple[str, dict[str, dict]]):
    assert [row[1] for row in probed[1]["robustness"]["rows"]] == [3, 3]
    assert {row[1] for row in probed[1]["robustness_categories"]["rows"]} == {"one", "two"}


def test_what_is_printed_has_the_papers_numbers_but_not_every_text(probed: tuple[str, dict[str, dict]]):
    assert "paper: Kronecker" in probed[0]
    assert "top-1 stable, share" in probed[0]
    assert probed[1]["generation_texts"]["title"] not in probed[0]


def test_a_pairs_page_has_every_table_and_its_numbers(trained: Path, probed: tuple[str, dict[str, dict]]):
    text = (trained / "probes.html").read_text()
    assert all(f'id="{name}"' in text for name in probed[1])
    assert {f"{name}.csv" for name in probed[1]} <= {file.name for file in (trained / "probes").iterdir()}


def test_the_papers_page_is_made_of_runs_and_keeps_what_it_measured(
    trained: Path, paper_page: tuple[subprocess.CompletedProcess, Path]
):
    done, page = paper_page
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {page}\n"
    assert [line.rpartition(": ")[2] for line in done.stderr.splitlines()[:2]] == ["measuring", "measuring"]
    written = json.loads((trained / "paper" / "results.json").read_text())
    assert {"training", "parameters", "layered", "robustness_paired", "generation"} <= {one["name"] for one in written}
    assert "tied table minus kronecker" in page.read_text()
    again = script("scripts/report.py", "--paper", *(trained / arm for arm in ARMS), "--parts=probes", f"--out={page}")
    assert again.stderr.splitlines()[0].endswith("up to date")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--paper", "--baseline=x"], "--baseline cannot be used with --paper; leave one out"),
        (["--again"], "--again needs --paper; add it"),
        (["--paper", "--parts=probe"], "--parts=probe: allowed: all, codes, parameters, probes, runtime"),
    ],
)
def test_a_paper_page_that_cannot_be_is_one_line_and_exit_code_2(trained: Path, flags: list[str], said: str):
    done = script("scripts/report.py", *(trained / arm for arm in ARMS), *flags)
    assert done.returncode == 2
    assert done.stderr == f"error: {said}\n"


def test_the_papers_page_needs_its_two_arms(trained: Path):
    done = script("scripts/report.py", "--paper", trained / "kronecker")
    assert done.returncode == 2
    assert "no finished run of table_tied; train it first" in done.stderr


def test_one_run_alone_has_no_paired_statistics(trained: Path):
    done = script("scripts/probe.py", trained / "kronecker", "--probes=robustness", f"--json={trained / 'one.json'}")
    assert done.returncode == 0, done.stderr
    written = json.loads((trained / "one.json").read_text())
    assert [one["name"] for one in written] == ["robustness", "robustness_tokens"]
    assert written[0]["rows"][0][1] == 330


def test_eval_runs_probes_too(trained: Path):
    done = script("eval.py", f"--workdir={trained / 'table_tied'}", "--probes=layered")
    assert done.returncode == 0, done.stderr
    assert "Families among the 10 nearest tokens" in done.stdout
    assert "table_tied" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no runs given; give one, or two that are a pair"),
        (["--pair", "nowhere"], "--pair: 1 runs given; give two"),
        (["nowhere"], "--workdir=nowhere: not a run's folder (no config.json)"),
        (["nowhere", "--pairs=nothing.json"], "nothing.json"),
    ],
)
def test_what_cannot_be_probed_is_one_line_and_exit_code_2(arguments: list[str], said: str):
    done = script("scripts/probe.py", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_probe_that_does_not_exist_is_refused_with_those_that_do(trained: Path):
    done = script("scripts/probe.py", trained / "kronecker", "--probes=layred")
    assert done.returncode == 2
    assert done.stderr == "error: --probes=layred: allowed: all, geometry, layered, robustness, generation\n"
