r"""Compares finished runs in pairs: every arm against a baseline trained with the
same seed.

  python scripts/compare.py runs/demo
  python scripts/compare.py runs/demo/table_untied-seed0 \
      runs/demo/kronecker-seed0
  python scripts/compare.py runs/demo runs/more_seeds \
      --baseline=table_tied --json=runs/demo/compare.json

Each argument is a run's folder or a folder of runs.  Unfinished runs in a
folder, and seeds that some arms lack, are left out and named.  Runs that differ
in more than the input embedding (data, tokenizer, steps, initial body or any
other key of the config) are refused, with the difference.  With --tuned they
may differ in train.lr.

paired diff.  the arm's final validation loss minus the baseline's, nats per
              token; below zero the arm is better
± 95 %        half-width of the 95 % t interval of the mean difference over
              seeds
resolvable    the true difference that as many seeds with this spread would
              resolve four times in five
sooner ×      how many times fewer steps the arm needs to reach the baseline's
              final loss

After scripts/token_losses.py, --json also has losses by frequency, length and
script, and the cost of shared codes.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from kronecker.runtime import cli
from kronecker.schema.arms import BASELINE

_TUNED = flags.DEFINE_bool(
    "tuned", False, "Allow arms to differ in train.lr if each was tuned over the same rates. Names then include it."
)
_BASELINE = flags.DEFINE_string("baseline", BASELINE, "The arm that all others are compared with.")
_JSON = flags.DEFINE_string("json", None, "Also write all numbers to this JSON file.")


def main(folders: Sequence[str]) -> None:
    """Prints the verdict table."""
    # After the flags: --help should not wait for SciPy.
    from kronecker.report import breakdown, collisions, compare, losses_by_token, tables
    from kronecker.report.pages import local, write_text
    from kronecker.run import finished_runs

    if not folders:
        raise ValueError("no runs given; for example: python scripts/compare.py runs/demo")
    comparison = compare.compare(
        [finished_runs.read(folder) for folder in finished_runs.find(folders)], _BASELINE.value, _TUNED.value
    )
    losses = losses_by_token.read_all(comparison)
    damages = collisions.damage(comparison, losses)
    tables.show(comparison, damages)
    if _JSON.value:
        lacking = losses_by_token.missing(comparison)
        if lacking:
            print(f"no losses by token in --json; run: scripts/token_losses.py {' '.join(lacking)}", file=sys.stderr)
        content = compare.to_json(comparison) | {
            "by_token": breakdown.to_json(breakdown.break_down(comparison, losses)),
            "collisions": collisions.to_json(damages),
        }
        write_text(local(_JSON.value, "--json"), json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, positional=True)
