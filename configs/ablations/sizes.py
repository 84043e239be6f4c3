"""The main comparison at every size, each with the paper's 2.5B tokens in 4,623 steps.

Tests whether the difference shrinks, stays or grows with the model: the V d parameters of a table are eight times
those of nano's body, and 5 % of those of 1558m's.  Each size is a sweep of its own, because runs of two sizes are not
pairs.  Each is the setting `paper` with another size of model.

Expected: the paper has 124m, where table_tied minus kronecker is 0.083 +- 0.007 nats (section 6.6); it calls larger
sizes an open question.

Cost of three seeds, as --dry_run prints it; a small model may reach far less than the assumed MFU:
  size=nano   9 runs x 2.5B tokens = 22.5B tokens, 1.01e18 FLOPs, 0.71 H100 hours
  size=micro  9 runs x 2.5B tokens = 22.5B tokens, 2.30e18 FLOPs, 1.62 H100 hours
  size=tiny   9 runs x 2.5B tokens = 22.5B tokens, 4.36e18 FLOPs, 3.06 H100 hours
  size=30m    9 runs x 2.5B tokens = 22.5B tokens, 8.01e18 FLOPs, 5.62 H100 hours
  size=124m   9 runs x 2.5B tokens = 22.5B tokens, 1.92e19 FLOPs, 13.5 H100 hours
  size=350m   9 runs x 2.5B tokens = 22.5B tokens, 5.45e19 FLOPs, 38.3 H100 hours
  size=774m   9 runs x 2.5B tokens = 22.5B tokens, 1.17e20 FLOPs, 82.1 H100 hours
  size=1558m  9 runs x 2.5B tokens = 22.5B tokens, 2.31e20 FLOPs, 162 H100 hours

  python scripts/sweep.py --config=configs/ablations/sizes.py:size=30m --out=runs/sizes/30m --seeds=3
  python scripts/report.py runs/sizes/30m

The two largest recompute their blocks (model.remat) to fit into 80 GB, which was not tried on a device; the hours do
not include this recomputation.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, base, sizes
from configs.ablations import paper


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a size; option: size, one of configs/sizes.py."""
    size = base.parse_arg(arg, size="124m").size
    c = paper.get_config()
    tokens_a_step = c.train.batch * c.train.sequence
    base.apply(c, base.choose(sizes.SIZES, size, "size"))
    c.train.sequence = c.model.context
    c.train.batch = tokens_a_step // c.train.sequence
    c.model.remat = size in ("774m", "1558m")
    return c


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in paper.SWEEP_ARMS:
            yield arms.ARMS[arm] | {"seed": seed}
