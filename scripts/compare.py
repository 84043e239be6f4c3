r"""Compares finished runs in pairs: every arm against a baseline trained with the
same seed.

  python scripts/compare.py runs/demo
  python scripts/compare.py runs/demo/table_untied-seed0 \
      runs/demo/kronecker-seed0
  python scripts/compare.py runs/demo runs/more_seeds \
      --baseline=table_tied --json=runs/demo/compare.json

Each argument is a run's folder or a folder of runs.  Unfinished runs in a
folder are named with the command that finishes them; diverged runs, and seeds
that some arms lack, are named too.  Two runs that differ in more than the input
embedding (data, tokenizer, steps, initial body or any other key of the config)
are refused, with the difference.  Another machine, library version or commit
within a pair is named below the table.

A sweep over such a key, for example train.lr, gives a table for each value, and
then each arm at its best: the values of the lowest training loss on the seeds
that all versions have, compared on other seeds.  A value at which a run
diverged counts as tried, and is never the best.

--pairs compares chosen arms two by two: each pair over the seeds that both have,
also where the two have learning rates of their own, with one Holm correction
for all pairs given:

  python scripts/compare.py results/tuned/finals \
      --pairs=kronecker:table_untied,kronecker:shuffled_code

The losses are over all held-out tokens if scripts/token_losses.py has evaluated
them, else over those of the final validation; the output says which.  Texts on
which eval.py --data has evaluated all runs get a table each.

paired diff.  the arm's loss minus the baseline's, nats per token; below zero the
              arm is better
± 95 %        half-width of the 95 % t interval of the mean difference over
              seeds: it covers other seeds, not other text
95 % over     bootstrap interval of the difference, with as many documents drawn
documents     anew 10,000 times: it covers other documents of this kind, not
              other seeds
resolvable    the true difference that as many seeds with this spread would
              resolve four times in five
sooner ×      how many times fewer steps the arm needs to reach the baseline's
              final loss

After scripts/token_losses.py, --json also has losses by frequency, length and
script, and the cost of shared codes.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from kronecker.runtime import cli
from kronecker.schema.arms import BASELINE

_TUNED = flags.DEFINE_bool(
    "tuned", False, "Put runs of different train.lr into one table; the names of arms then include it."
)
_BASELINE = flags.DEFINE_string("baseline", BASELINE, "The arm that all others are compared with.")
_PAIRS = flags.DEFINE_list("pairs", [], "Compare these pairs of arms, ARM:BASELINE, and nothing else.")
_JSON = flags.DEFINE_string("json", None, "Also write all numbers to this JSON file.")


def main(folders: Sequence[str]) -> None:
    """Prints the verdict table."""
    # After the flags: --help should not wait for SciPy.
    from kronecker.report import (
        breakdown,
        collisions,
        compare,
        grid,
        held_out,
        losses_by_token,
        other_texts,
        pairs,
        tables,
    )
    from kronecker.run import finished_runs

    if not folders:
        raise ValueError("no runs given; for example: python scripts/compare.py runs/demo")
    for name in ("baseline", "tuned") if _PAIRS.value else ():
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} cannot be used with --pairs, which name their baselines; leave one out")
    found, diverged = finished_runs.gather(folders)
    if _PAIRS.value:
        comparisons = pairs.read(found, _PAIRS.value, diverged)
        tables.show_pairs(comparisons)
        _write(pairs.to_json(comparisons))
        return
    swept = None if _TUNED.value else grid.read(found, _BASELINE.value, diverged)
    if swept and not swept.whole:
        tables.show_grid(swept)
        _write(grid.to_json(swept))
        return
    tuned = compare.TUNED if _TUNED.value else ()
    comparison = swept.whole if swept else held_out.compared(found, _BASELINE.value, tuned, diverged)
    losses = losses_by_token.read_all(comparison)
    damages = collisions.damage(comparison, losses)
    tables.show(comparison, damages)
    best = swept.best if swept else None
    if best:
        print()
        tables.show_best(best)
    lacking = losses_by_token.missing(comparison)
    if _JSON.value and lacking:
        print(f"no losses by token in --json; run: scripts/token_losses.py {' '.join(lacking)}", file=sys.stderr)
    by_token = {
        "by_token": breakdown.to_json(breakdown.break_down(comparison, losses)),
        "collisions": collisions.to_json(damages),
    }
    texts = {"other_texts": other_texts.to_json(comparison)}
    at_best = {"best": grid.best_to_json(best)} if best else {}
    _write(compare.to_json(comparison) | texts | by_token | at_best)


def _write(content: dict[str, Any]) -> None:
    from kronecker.runtime.storage import local_file, write_text

    if _JSON.value:
        write_text(local_file(_JSON.value, "--json"), json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, positional=True)
