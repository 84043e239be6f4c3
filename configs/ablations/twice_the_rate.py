"""The arms of scale and tying at twice the study's learning rate, compared with the study's runs.

A rate that suits only one arm decides a comparison, and the two main arms are best at different rates: on the tuning
seed of configs/ablations/learning_rate.py a table is best at the study's rate, and `kronecker` at twice that.  With
these runs each arm can use the better of the same two rates.

Expected: the paper has no such ablation; its learning rates are unknown.

Cost of three seeds, as --dry_run prints it:
  setting=study  15 runs x 1M tokens = 15M tokens, 1.77e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/twice_the_rate.py --out=runs/twice_the_rate --seeds=3
  python scripts/report.py runs/study runs/twice_the_rate --tuned --baseline='table_untied lr=0.002'

A comparison uses the seeds that all of its arms have.  The study's runs (configs/study.py) are the other half of each
pair, so `study` is the only setting.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

RATE = 4e-3  # the study's is 2e-3
SWEEP_ARMS = ("table_untied", "table_tied", "table_std1", "kronecker", "kronecker_unit")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the study's config; option: setting (study)."""
    return settings.from_arg(arg, "study")


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in SWEEP_ARMS:
            yield arms.ARMS[arm] | {"train.lr": RATE, "seed": seed}
