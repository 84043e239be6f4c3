"""The z-norm, on and off, at each of two initial scales.

kronecker has the z-norm and embeddings that start at a standard deviation of 1, kronecker_unit the length norm alone
and .02: they differ in both.  The two other corners, z-norm at .02 and length norm at 1, tell which of the two acts.
The length norm has no switch of its own: the z-norm divides by the code's scale, so that below it the length norm
changes nothing; without either a longer token's embedding would be a larger one.

Expected: the paper has the z-norm at 1 alone.  Third parties, not checked here: one code under three normalisations
ended at 4.753 (unit norm, std .016), 4.861 and 4.902 nats (z-norm, std 1), a wider spread than between codes.

Cost of three seeds, as --dry_run prints it:
  setting=paper  15 runs x 2.5B tokens = 37.5B tokens, 3.20e19 FLOPs, 22.5 H100 hours
  setting=gpu    15 runs x 60M tokens = 900M tokens, 1.74e17 FLOPs, 0.123 H100 hours
  setting=study  15 runs x 1M tokens = 15M tokens, 1.77e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/norm.py --out=runs/norm --seeds=3
  python scripts/report.py runs/norm

An init_std of kronecker in the tables is the projection's: its embedding starts at 64 times that, as D = 4,096.
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
    """Returns the config of a setting; argument: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        yield arms.ARMS["table_untied"] | {"seed": seed}
        for corner in CORNERS:
            yield corner | {"seed": seed}
