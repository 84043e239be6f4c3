"""Writes one HTML page about finished runs: verdicts, conditions, curves, and the numbers of each figure as CSV.

  python scripts/report.py runs/demo
  python scripts/report.py runs/demo runs/more_seeds --baseline=table_tied --out=runs/all.html --title="Six seeds"

Each argument is a run's folder or a folder of runs, paired and checked as scripts/compare.py does.  The page needs no
other file and no network; the CSV files go into a folder beside it (runs/demo/report for runs/demo/report.html).
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kronecker import cli

_TUNED = flags.DEFINE_bool(
    "tuned", False, "Let arms differ in train.lr: each was tuned over the same rates. Its rate is then in its name."
)
_BASELINE = flags.DEFINE_string("baseline", "table_untied", "The arm that the others are compared with.")
_OUT = flags.DEFINE_string("out", None, "The page; default: report.html in the first folder.")
_TITLE = flags.DEFINE_string("title", None, "The page's title; default: from the name of its folder.")


def main(folders: Sequence[str]) -> None:
    """Writes the page and prints where it is."""
    from kronecker.report import compare, html, runs  # after the flags: --help should not wait for Matplotlib

    if not folders:
        raise ValueError("no runs given; for example: python scripts/report.py runs/demo")
    page = Path(_OUT.value or Path(folders[0]) / "report.html")
    comparison = compare.compare([runs.read(folder) for folder in runs.find(folders)], _BASELINE.value, _TUNED.value)
    html.write(comparison, page, _TITLE.value or f"Paired runs: {page.absolute().parent.name}")
    print(f"report: {page}")


if __name__ == "__main__":
    cli.run(main, positional=True)
