"""The documents' tables are what the files of results/ give, and a number changed on either side is found."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def docs_tables(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "docs_tables.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def marked(name: str) -> str:
    return f"<!-- table: {name} -->\n<!-- end of table -->\n"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "document.md"


def test_the_documents_hold_what_the_files_give():
    found = docs_tables("--check")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_every_table_is_made_and_a_changed_digit_of_any_fails_the_check(document: Path):
    document.write_text(marked("no-such-table"))
    refused = docs_tables(document)
    assert refused.returncode == 2 and "there is no table 'no-such-table'" in refused.stderr
    names = refused.stderr.partition("there are: ")[2].strip().split(", ")
    document.write_text("\n".join(map(marked, names)))
    assert docs_tables(document).returncode == 0
    text = made = document.read_text()
    tables = re.findall(r"<!-- table: (\S+) -->\n\n(.*?)\n\n<!-- end of table -->", made, re.DOTALL)
    assert [name for name, _ in tables] == names
    for _, table in tables:
        last_digit = max(i for i, letter in enumerate(table) if letter.isdigit())
        changed = table[:last_digit] + str((int(table[last_digit]) + 1) % 10) + table[last_digit + 1 :]
        text = text.replace(table, changed)
    document.write_text(text)
    found = docs_tables("--check", document)
    assert found.returncode == 1
    lines = set(text.splitlines()) - set(made.splitlines())
    assert len(lines) == len(names)
    assert lines <= {line.removeprefix("-") for line in found.stdout.splitlines() if line.startswith("-")}
    assert document.read_text() == text, "--check wrote the document"


def test_a_number_changed_in_a_file_of_results_fails_the_check(document: Path, tmp_path: Path):
    document.write_text(marked("step-cpu"))
    results = tmp_path / "results"
    shutil.copytree(RESULTS / "benchmark", results / "benchmark")
    assert docs_tables(document, f"--results={results}").returncode == 0
    file = results / "benchmark" / "step-cpu.json"
    result = json.loads(file.read_text())
    result["arms"][-1]["ratio"]["median"] += 0.001
    file.write_text(json.dumps(result))
    found = docs_tables("--check", document, f"--results={results}")
    assert found.returncode == 1
    assert result["arms"][-1]["name"] in found.stdout


def test_a_table_without_an_end_is_refused(document: Path):
    document.write_text("<!-- table: step-cpu -->\ntext\n")
    found = docs_tables(document)
    assert found.returncode == 2
    assert "a table does not end" in found.stderr


def test_every_committed_run_is_of_a_named_corpus():
    corpora = json.loads((RESULTS / "corpora.json").read_text())
    named = {one["data_fingerprint"] for corpus in corpora for one in corpus["prepared"]}
    files = [
        *RESULTS.glob("study/runs/*/*/result.json"),
        *RESULTS.glob("demo/*/result.json"),
        *RESULTS.glob("tuned/*/*/result.json"),
    ]
    assert files
    assert {json.loads(file.read_text())["data_fingerprint"] for file in files} == named
