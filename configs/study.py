"""The study on two CPU cores: ten arms, three seeds, real English prose.

Size nano, a byte-level BPE of 8,192 ids trained on the text, 1M tokens per run.  All arms share one schedule.  Its peak
learning rate, 0.002, was chosen from 0.001, 0.002, 0.004, 0.008 and 0.016 by the mean training loss of table_untied and
kronecker, in runs of 400,000 tokens with a seed that the study does not use (configs/ablations/learning_rate.py).
There the table was best at 0.002 and kronecker at 0.004; configs/ablations/twice_the_rate.py adds runs at 0.004.  The
input's learning rate (embedding.lr_mult) was not tuned.  With it tuned, table_untied beat kronecker.

  python scripts/sweep.py --config=configs/study.py --out=runs/study --seeds=3 \
      --config.data.source=jsonl:prose.jsonl.xz
  python scripts/token_losses.py runs/study
  python scripts/report.py runs/study

prose.jsonl.xz is your own text: JSON lines of {"text": ..., "split": "train" or "validation"}.  Cost: 30 runs of two to
three minutes on two idle cores; the same command resumes an interrupted sweep.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, base, sizes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the study's config; options: arm, seed."""
    option = base.parse_arg(arg, arm="kronecker", seed=0)
    c = base.apply(base.get_config(), sizes.SIZES["nano"])
    base.apply(c, base.choose(arms.ARMS, option.arm, "arm"))
    c.seed = option.seed
    c.tokenizer = "bpe:8192"
    c.data.source = "jsonl:prose.jsonl.xz"
    c.data.split_field = "split"
    c.model.context = 128
    c.train.batch = 8
    c.train.sequence = 128
    c.train.tokens = 1_000_000
    c.train.lr = 2e-3
    c.train.warmup_share = 0.05
    c.eval.every = 100
    c.eval.batch = 32
    c.eval.sequences = 256
    c.checkpoint.every = 300
    c.checkpoint.keep = 1
    c.mesh.cpu_devices = 2
    return c


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs of arms.STUDY, one seed after another, so that an interrupted sweep has complete seeds."""
    for seed in range(seeds):
        for arm in arms.STUDY:
            yield arms.ARMS[arm] | {"seed": seed}
