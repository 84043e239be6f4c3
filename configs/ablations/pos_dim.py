"""The number of byte positions of a code: kronecker with P = 8, 12, 16, 24, 32 and 48.

With a small P, tokens with equal first bytes share one code: 7,582 of GPT-2's ids at P = 8, then 682, 44, 22, 17 and 5
(`python scripts/codec_report.py gpt2 --pos_dim=8,12,16,24,32,48`).  Each additional position has 256 d parameters, most
of them for cells that few tokens use.

Expected: the paper has no such ablation and calls it an open question.  It trains with P = 16 (section 6.6) and reports
coverage: 98.64, 99.86 and 99.97 % of the ids of six tokenizers fit into 16, 32 and 64 bytes.

Cost of three seeds, as --dry_run prints it:
  setting=paper  21 runs x 2.5B tokens = 52.5B tokens, 4.49e19 FLOPs, 31.5 H100 hours
  setting=gpu    21 runs x 60M tokens = 1.26B tokens, 2.44e17 FLOPs, 0.172 H100 hours
  setting=study  21 runs x 1M tokens = 21M tokens, 2.48e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/pos_dim.py --out=runs/pos_dim --seeds=3
  python scripts/report.py runs/pos_dim
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

POS_DIMS = (8, 12, 24, 32, 48)  # P = 16 is the unchanged arm


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        yield arms.ARMS["table_untied"] | {"seed": seed}
        yield arms.ARMS["kronecker"] | {"seed": seed}
        for pos_dim in POS_DIMS:
            yield arms.ARMS["kronecker"] | {"embedding.pos_dim": pos_dim, "seed": seed}
