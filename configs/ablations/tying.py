"""Tied and untied heads, for the table and for the code.

The published difference compares a tied table with an untied Kronecker input, whose model has V d more parameters in
its head (38.6M at 124m).  table_untied minus table_tied is the effect of untying.  The head of kronecker_tied is the
induced table, which the paper regards as impossible.

Expected: of the four the paper has table_tied minus kronecker, 0.083 +- 0.007 nats (section 6.6).  Reported by others,
not checked here: untying a table lowered the loss by 0.26 nats; an untied table was better than Kronecker with a large
vocabulary (4.559 against 4.813 nats at 131,000 ids and 98M tokens) and worse with a small one (4.225 against 4.127 at
9,900 ids).

Cost of three seeds, as --dry_run prints it:
  setting=paper  12 runs x 2.5B tokens = 30B tokens, 2.56e19 FLOPs, 18 H100 hours
  setting=gpu    12 runs x 60M tokens = 720M tokens, 1.40e17 FLOPs, 0.098 H100 hours
  setting=study  12 runs x 1M tokens = 12M tokens, 1.42e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/tying.py --out=runs/tying --seeds=3
  python scripts/report.py runs/tying
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

SWEEP_ARMS = ("table_untied", "table_tied", "kronecker", "kronecker_tied")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in SWEEP_ARMS:
            yield arms.ARMS[arm] | {"seed": seed}
