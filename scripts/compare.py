"""Compares finished runs in pairs: every arm against a baseline trained with the same seed.

  python scripts/compare.py runs/demo
  python scripts/compare.py runs/demo/table_untied-seed0 runs/demo/kronecker-seed0
  python scripts/compare.py runs/demo runs/more_seeds --baseline=table_tied --json=runs/demo/compare.json

Each argument is a run's folder or a folder of runs; unfinished runs in the latter are named and left out, and so are
seeds that not every arm has.  Runs that differ in more than the input embedding (data, tokenizer, steps, initial body
or any other key of the config) are refused, and the difference is shown.  With --tuned they may differ in train.lr.
A paired difference is the arm's final validation loss minus the baseline's, in nats per token: below zero, the arm is
better.  ± is half the 95 % t interval of its mean over seeds, resolvable the difference that as many seeds with this
spread would resolve four times in five, and "sooner" how many times fewer steps the arm needs for the baseline's final
loss.  After scripts/token_losses.py, --json also holds losses by frequency, length and script, and what colliding codes
cost.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from kronecker.runtime import cli
from kronecker.schema.arms import BASELINE

_TUNED = flags.DEFINE_bool(
    "tuned", False, "Let arms differ in train.lr: each was tuned over the same rates. Its rate is then in its name."
)
_BASELINE = flags.DEFINE_string("baseline", BASELINE, "The arm that the others are compared with.")
_JSON = flags.DEFINE_string("json", None, "Also write every number to this file.")


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
            print(f"no losses by token: run scripts/token_losses.py for {', '.join(lacking)}", file=sys.stderr)
        content = compare.to_json(comparison) | {
            "by_token": breakdown.to_json(breakdown.break_down(comparison, losses)),
            "collisions": collisions.to_json(damages),
        }
        write_text(local(_JSON.value, "--json"), json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, positional=True)
