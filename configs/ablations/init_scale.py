"""The initial scale of the input, in both main arms: 0.3, 1, 3 and 10 times the usual one, and that of the other arm.

A table has an initial standard deviation of 0.02, a Kronecker embedding of 1; the position table, which is added to
both, of 0.02.  If both arms are best at the same scale, and equally good there, the published difference is an effect
of scale.  The arm table_std1 is the table at 1.

Expected: the paper has only the table at 0.02 and Kronecker at 1.  It reports that in training the standard deviation
of the table grows by about 30 %, and that of the projection stays the same (section 6.6).

Cost of three seeds, as --dry_run prints it:
  setting=paper  30 runs x 2.5B tokens = 75B tokens, 6.41e19 FLOPs, 45 H100 hours
  setting=gpu    30 runs x 60M tokens = 1.8B tokens, 3.49e17 FLOPs, 0.245 H100 hours
  setting=study  30 runs x 1M tokens = 30M tokens, 3.54e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/init_scale.py --out=runs/init_scale --seeds=3
  python scripts/report.py runs/init_scale --baseline='table_untied init_std=0.02'

In the tables, init_std of kronecker is that of the projection; its embeddings start at 64 times that, as D = 4,096.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

TABLE_STDS = (0.006, 0.02, 0.06, 0.2)
KRONECKER_STDS = (0.02, 0.3, 1.0, 3.0, 10.0)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for std in TABLE_STDS:
            yield arms.ARMS["table_untied"] | {"embedding.init_std": std, "seed": seed}
        yield arms.ARMS["table_std1"] | {"seed": seed}
        for std in KRONECKER_STDS:
            yield arms.kronecker_at(std) | {"seed": seed}
