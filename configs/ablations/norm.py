"""The z-norm, on and off, at each of two initial scales.

kronecker has the z-norm and embeddings of initial standard deviation 1; kronecker_unit has the length norm and 0.02, so
they differ in both.  The other two combinations, z-norm at 0.02 and length norm at 1, separate the two effects.  The
length norm has no switch: the z-norm divides by the scale of the code, so a length norm before it changes nothing, and
without both norms longer tokens would have larger embeddings.

Expected: the paper has only the z-norm at 1.  Reported by others, not checked here: one code ended at 4.753 nats
with unit norm and std 0.016, at 4.902 with z-norm and std 1, and at 4.861 with a third normalisation.  These numbers
differ more than those of different codes.

Cost of three seeds, as --dry_run prints it:
  setting=paper  15 runs x 2.5B tokens = 37.5B tokens, 3.20e19 FLOPs, 22.5 H100 hours
  setting=gpu    15 runs x 60M tokens = 900M tokens, 1.74e17 FLOPs, 0.123 H100 hours
  setting=study  15 runs x 1M tokens = 15M tokens, 1.77e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/norm.py --out=runs/norm --seeds=3
  python scripts/report.py runs/norm

In the tables, init_std of kronecker is that of the projection; its embeddings start at 64 times that, as D = 4,096.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

CORNERS = (
    arms.kronecker_at(1.0),
    arms.kronecker_at(0.02),
    arms.ARMS["kronecker_unit"] | {"embedding.init_std": 1.0},
    arms.ARMS["kronecker_unit"],
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        yield arms.ARMS["table_untied"] | {"seed": seed}
        for corner in CORNERS:
            yield corner | {"seed": seed}
