"""Compares finished runs in pairs: every arm against a baseline trained with the same seed.

  python scripts/compare.py runs/demo
  python scripts/compare.py runs/demo/table_untied-seed0 runs/demo/kronecker-seed0
  python scripts/compare.py runs/demo runs/more_seeds --baseline=table_tied --json=runs/demo/compare.json

Each argument is a run's folder or a folder of runs; unfinished runs in the latter are named and left out, and so are
seeds that not every arm has.  Runs that differ in more than the input embedding (data, tokenizer, steps, initial body
or any other key of the config) are refused, and the difference is shown.
A paired difference is the arm's final validation loss minus the baseline's, in nats per token: below zero, the arm is
better.  ± is half the 95 % t interval of its mean over seeds.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kronecker import cli

_BASELINE = flags.DEFINE_string("baseline", "table_untied", "The arm that the others are compared with.")
_JSON = flags.DEFINE_string("json", None, "Also write every number to this file.")


def main(folders: Sequence[str]) -> None:
    """Prints the verdict table."""
    from kronecker.report import compare, runs, tables  # after the flags: --help should not wait for SciPy
    from kronecker.report.html import write_text

    if not folders:
        raise ValueError("no runs given; for example: python scripts/compare.py runs/demo")
    comparison = compare.compare([runs.read(folder) for folder in runs.find(folders)], _BASELINE.value)
    tables.show(comparison)
    if _JSON.value:
        write_text(Path(_JSON.value), json.dumps(compare.to_json(comparison), indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, positional=True)
