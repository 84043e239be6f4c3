"""The demo pair, which `make pair` runs: a few minutes on two CPU cores.

Four arms at size nano on the source code of the Python standard library, with a byte-level BPE of 8,192 ids trained on
it.  It demonstrates the code, and the direction of an effect at this scale; it is no evidence about large models.

  python scripts/sweep.py --config=configs/demo.py --out=runs/demo --seeds=1
  python train.py --config=configs/demo.py:arm=table_tied,seed=1 --workdir=runs/mine
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, base, sizes

SWEEP_ARMS = ("table_untied", "table_tied", "kronecker", "kronecker_unit")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the demo's config; options: arm, seed."""
    option = base.parse_arg(arg, arm="kronecker", seed=0)
    c = base.apply(base.get_config(), sizes.SIZES["nano"])
    base.apply(c, base.choose(arms.ARMS, option.arm, "arm"))
    c.seed = option.seed
    c.tokenizer = "bpe:8192"
    c.model.context = 128
    c.train.batch = 16
    c.train.sequence = 128
    c.train.tokens = 400_000
    c.train.lr = 1e-3
    c.train.warmup_share = 0.05
    c.eval.every = 25
    c.eval.batch = 32
    c.checkpoint.every = 25
    c.mesh.cpu_devices = 2
    return c


def sweep(seeds: int = 1) -> Iterator[dict[str, Any]]:
    """Yields the overrides of each run."""
    for seed in range(seeds):
        for arm in SWEEP_ARMS:
            yield arms.ARMS[arm] | {"seed": seed}
