"""The paper's main comparison at 124m, with the untied table that it lacks.

A table tied to the head (table_tied), a Kronecker input with a head of its own (kronecker), and a table with a head of
its own (table_untied).  The paper has the first two: their difference holds that of the input and that of the head.

Expected, from the paper's section 6.6, seeds 3, 2.5B tokens of FineWeb-Edu in 4,623 steps of 540,672 tokens:
  table_tied minus kronecker, final validation loss   .083 +- .007 nats per token, 2.5 +- .2 %
  steps that kronecker needs for table_tied's loss    1.43 times fewer, about 3,230
  table_untied                                        the paper has none
Its learning rate and schedule are not known; these are nanoGPT's.  Third parties, not checked here: untying alone was
worth .26 nats in one follow-up.

Cost of three seeds, as --dry_run prints it:
  9 runs x 2.5B tokens = 22.5B tokens, 1.92e19 FLOPs, 13.5 H100 hours

  python scripts/sweep.py --config=configs/ablations/paper.py --out=runs/paper --seeds=3
  python scripts/compare.py runs/paper --baseline=table_tied
  python scripts/report.py runs/paper

The first table is the paper's, with kronecker's difference at -.083 if it holds; the page has the fair one.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, gpt2

SWEEP_ARMS = ("table_untied", "table_tied", "kronecker")


def get_config() -> ml_collections.ConfigDict:
    """Returns the config of the setting `paper`."""
    c = gpt2.get_config("size=124m,budget=paper")
    c.data.source = "fineweb-edu:sample-10BT"
    c.data.shards = 4  # about .7B tokens each, so that none is seen twice
    return c


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in SWEEP_ARMS:
            yield arms.ARMS[arm] | {"seed": seed}
