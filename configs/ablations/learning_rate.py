"""Chooses the peak learning rate that all arms of a study share, from runs of the two main arms.

A rate that suits only one arm decides a comparison.  So table_untied and kronecker run at each of five rates, with
fewer tokens than in the setting, and with a seed that no study uses.  Choose the rate with the lowest mean of both
arms' last TRAINING losses, which the sweep prints at its end; keep the validation text for the study.  If it is the
first or the last of the five, add rates beyond it.  The rate of configs/study.py was chosen in this way.  compare.py
prints a table for each rate, and each arm at its own best one.

Expected: the paper has no such ablation; its learning rate is unknown.

Cost of one seed, as --dry_run prints it:
  setting=study  10 runs x 400k tokens = 4M tokens, 4.72e13 FLOPs, under 0.01 H100 hours
  setting=gpu    10 runs x 12M tokens = 120M tokens, 2.33e16 FLOPs, 0.0164 H100 hours

  python scripts/sweep.py --config=configs/ablations/learning_rate.py --out=runs/learning_rate --seeds=1

There is no setting `paper`: these
rates are for widths of 128 to 384, and at 124m nanoGPT's 6e-4 replaces the unknown rate of the paper.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, base, settings

TOKENS = {"study": 400_000, "gpu": 12_000_000}
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
FIRST_SEED = 100


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting with fewer tokens; option: setting (study or gpu)."""
    name = base.parse_arg(arg, setting="study").setting
    c = settings.get(name, *TOKENS)
    c.train.tokens = TOKENS[name]
    c.eval.every = 0
    c.eval.sequences = 32
    return c


def sweep(seeds: int = 1) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for rate in RATES:
            for arm in ("table_untied", "kronecker"):
                yield arms.ARMS[arm] | {"train.lr": rate, "seed": seed}
