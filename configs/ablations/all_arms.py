"""Every arm at one size: separates the effects of spelling, tying, scale, low rank and hashing.

kronecker/schema/arms.py explains each arm; an arm that is added there runs too.  configs/study.py lists its own arms.

Expected: the paper has two of them, table_tied and kronecker, 0.083 +- 0.007 nats apart at 124m (section 6.6).

Cost of three seeds of one arm (all arms cost the same; --dry_run prints the sum):
  setting=paper  3 runs x 2.5B tokens = 7.5B tokens, 6.41e18 FLOPs, 4.5 H100 hours
  setting=gpu    3 runs x 60M tokens = 180M tokens, 3.49e16 FLOPs, 0.0245 H100 hours
  setting=study  3 runs x 1M tokens = 3M tokens, 3.54e13 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/all_arms.py --out=runs/all_arms --seeds=3
  python scripts/report.py runs/all_arms
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in arms.ARMS.values():
            yield arm | {"seed": seed}
