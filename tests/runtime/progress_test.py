"""Progress of a run as people see it: on terminals of several widths, and in a file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import terminals

from kronecker.runtime import progress

ROOT = Path(__file__).parents[2]
LABEL = "table_plus_kronecker seed 1337"
PROGRAM = f"""
from kronecker.runtime import progress
with progress.ProgressLine({LABEL!r}, 4623, 0, plain_seconds=600.0) as line:
    line.show(0, "evaluating")
    line.note("a note of many words " * 9)
    for step in range(1, 40):
        words = f"loss {{9 - step / 8:.4f}}", "val 8.9999", "5,912 tokens/s"
        line.show(step, *words, left=86400.0 * 12, always=step % 13 == 0)
"""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal_no_part_of_a_line_is_broken_or_cut(columns: int):
    rows = terminals.rows(terminals.run([sys.executable, "-c", PROGRAM], columns, ROOT))
    assert max(map(len, rows)) <= columns
    assert sum(row.startswith(LABEL) for row in rows) >= 40
    text = "\n".join(rows)
    for part in (r"step \d+/4,623", r"loss \d\.\d{4}", "val 8.9999", "5,912 tokens/s", "12 days left"):
        assert len(re.findall(rf"(?m)(?:^|  ){part}(?:$|  )", text)) >= 39


def test_in_a_file_a_line_is_complete_and_printed_where_it_must_be():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, check=True)
    note, *lines = done.stderr.splitlines()
    assert note.startswith(f"{LABEL}  a note of many words a note")
    assert [line.split("  ") for line in lines] == [
        [LABEL, f"step {step}/4,623", f"loss {9 - step / 8:.4f}", "val 8.9999", "5,912 tokens/s", "12 days left"]
        for step in (13, 26, 39)
    ]
    assert not terminals.CONTROLS.search(done.stderr)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (1e5, "28 h"), (2e6, "23 days")],
)
def test_a_time_has_two_or_more_of_its_unit(seconds: float, words: str):
    assert progress.duration(seconds) == words
