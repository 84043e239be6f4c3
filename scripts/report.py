r"""Writes one HTML page on finished runs: verdicts, curves, conditions, and the
numbers of each figure as CSV.

  python scripts/report.py runs/demo
  python scripts/report.py runs/demo runs/more_seeds --baseline=table_tied \
      --out=runs/all.html --title="Six seeds"
  python scripts/report.py runs/demo --paper
  python scripts/report.py runs/study --paper \
      --vocabularies=gpt2,tiktoken:o200k_base.tiktoken --out=runs/paper.html

Each argument is a run's folder or a folder of runs, which are paired and
checked as in scripts/compare.py, also those of a sweep over other keys.  Losses
on other texts (eval.py --data) get a table each.  The page needs no other file
and no network.  The CSV files go into a folder beside it: runs/demo/report for
runs/demo/report.html.

--paper writes another page, paper.html: every table and figure of the paper
that can be measured here, the paper's numbers beside ours.  It needs runs of
table_tied and kronecker, and uses runs of table_untied if there are any.
Probes run on the lowest common seed; codes are those of --vocabularies.  This
takes some minutes; --parts measures less.  The results are kept in the page's
folder, and measured again when the runs, the vocabularies, the code or the
machine change, or with --again.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import os
import sys
from collections.abc import Sequence

from absl import flags
from etils import epath

from kronecker.runtime import cli
from kronecker.schema.arms import BASELINE

_TUNED = flags.DEFINE_bool(
    "tuned", False, "Put runs of different train.lr into one page; the names of arms then include it."
)
_BASELINE = flags.DEFINE_string("baseline", BASELINE, "The arm that all others are compared with.")
_OUT = flags.DEFINE_string("out", None, "The page's file. Default: report.html or paper.html in the first folder.")
_TITLE = flags.DEFINE_string("title", None, "The page's title. Default: made from the name of its folder.")

_PAPER = flags.DEFINE_bool("paper", False, "Write the page of the paper's tables beside ours instead.")
_VOCABULARIES = flags.DEFINE_list("vocabularies", ["gpt2"], "With --paper: tokenizers whose codes are measured.")
_PARTS = flags.DEFINE_list("parts", ["all"], "With --paper: which of codes, parameters, probes and runtime to measure.")
_AGAIN = flags.DEFINE_bool("again", False, "With --paper: measure again even if up to date.")
_ONLY_PAPER, _ONLY_PAIRED = ("vocabularies", "parts", "again"), ("baseline", "tuned")

BENCHMARK = epath.Path(__file__).with_name("benchmark.py")


def main(folders: Sequence[str]) -> None:
    """Writes the page and prints its path."""
    if not folders:
        raise ValueError("no runs given; for example: python scripts/report.py runs/demo")
    for name in _ONLY_PAIRED if _PAPER.value else _ONLY_PAPER:
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} cannot be used with --paper; leave one out"
                if _PAPER.value
                else f"--{name} needs --paper; add it"
            )
    write = _write_paper if _PAPER.value else _write_report
    print(f"report: {write(folders)}")


def _write_report(folders: Sequence[str]) -> os.PathLike[str]:
    from kronecker.report import compare, comparison_page, grid, grid_page, held_out
    from kronecker.run import finished_runs  # after the flags: --help should not wait for Matplotlib
    from kronecker.runtime.storage import local_file

    found, diverged = finished_runs.gather(folders)
    page = local_file(_OUT.value or str(epath.Path(folders[0]) / "report.html"), "--out")
    title = _TITLE.value or f"Paired runs: {page.absolute().parent.name}"
    swept = None if _TUNED.value else grid.read(found, _BASELINE.value, diverged)
    if swept and not swept.whole:
        grid_page.write(swept, page, title)
    elif swept:
        comparison_page.write(swept.whole, page, title, swept.best)
    else:
        tuned = compare.TUNED if _TUNED.value else ()
        comparison_page.write(held_out.compared(found, _BASELINE.value, tuned, diverged), page, title)
    return page


def _write_paper(folders: Sequence[str]) -> os.PathLike[str]:
    from kronecker.paper import paper_page, reproduction, training_claims
    from kronecker.report.pages import folder_of
    from kronecker.run import finished_runs
    from kronecker.runtime.storage import local_file

    comparison = training_claims.pair([finished_runs.read(folder) for folder in finished_runs.find(folders)])
    page = local_file(_OUT.value or str(epath.Path(folders[0]) / "paper.html"), "--out")
    timed = [sys.executable, str(BENCHMARK), "runtime"]
    parts = reproduction.parts(training_claims.probed(comparison), _VOCABULARIES.value, timed)
    found = reproduction.measure(reproduction.chosen(parts, _PARTS.value), folder_of(page), _AGAIN.value)
    paper_page.write(comparison, found, page, _TITLE.value or "The paper's tables, measured here")
    return page


if __name__ == "__main__":
    cli.run(main, positional=True)
