"""The learning rate of the input, in both main arms: .3, 1, 3 and 10 times the body's.

A step of Adam moves each entry of a table's row by about the learning rate, and the Kronecker embedding of a token of L
bytes, a sum of L rows, by up to 64 sqrt(L) times that at P = 16: 157 times for L = 6.  Where either arm gains from
another multiplier, its difference at 1 is one of learning rate.

Expected: the paper has none; its learning rates are not known.

Cost of three seeds, as --dry_run prints it:
  setting=paper  24 runs x 2.5B tokens = 60B tokens, 5.13e19 FLOPs, 36 H100 hours
  setting=gpu    24 runs x 60M tokens = 1.44B tokens, 2.79e17 FLOPs, 0.196 H100 hours
  setting=study  24 runs x 1M tokens = 24M tokens, 2.83e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/lr_mult.py --out=runs/lr_mult --seeds=3
  python scripts/report.py runs/lr_mult --baseline='table_untied lr_mult=1.0'

Pick each arm's multiplier on seeds other than those it is then compared on: the best of four is lucky too.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

MULTIPLIERS = (0.3, 3.0, 10.0)  # 1 is the arm as it is


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; argument: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in ("table_untied", "kronecker"):
            yield arms.ARMS[arm] | {"seed": seed}
            for multiplier in MULTIPLIERS:
                yield arms.ARMS[arm] | {"embedding.lr_mult": multiplier, "seed": seed}
