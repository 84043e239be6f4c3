"""The learning rate of the input, in both main arms: 0.3, 1, 3 and 10 times the body's.

A step of Adam moves each entry of a table's row by about the learning rate.  It moves the Kronecker embedding of a
token of L bytes, a sum of L rows, by up to 64 sqrt(L) times as much at P = 16: 157 times for L = 6.  If an arm gains
from another multiplier, a part of its difference at 1 is an effect of the learning rate.

Expected: the paper has no such ablation; its learning rates are unknown.

Cost of three seeds, as --dry_run prints it:
  setting=paper  24 runs x 2.5B tokens = 60B tokens, 5.13e19 FLOPs, 36 H100 hours
  setting=gpu    24 runs x 60M tokens = 1.44B tokens, 2.79e17 FLOPs, 0.196 H100 hours
  setting=study  24 runs x 1M tokens = 24M tokens, 2.83e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/lr_mult.py --out=runs/lr_mult --seeds=3
  python scripts/report.py runs/lr_mult --baseline='table_untied lr_mult=1.0'

Choose each arm's multiplier on other seeds than those of the comparison: the best of four is partly luck.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

MULTIPLIERS = (0.3, 3.0, 10.0)  # 1 is the unchanged arm


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in ("table_untied", "kronecker"):
            yield arms.ARMS[arm] | {"seed": seed}
            for multiplier in MULTIPLIERS:
                yield arms.ARMS[arm] | {"embedding.lr_mult": multiplier, "seed": seed}
