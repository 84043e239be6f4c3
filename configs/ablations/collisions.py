"""The cost of shared codes: kronecker at P = 6 and 4, compared with the study's arms at P = 16.

Of the study's 8,192 ids none shares a code with another at P = 16, but 1,799 do at P = 6 and 4,740 at P = 4
(`python scripts/codec_report.py tokenizers:FOLDER/tokenizer.json --pos_dim=4,6,16`, with the folder of prepared data).
The model cannot distinguish input ids that share a code, so its prediction of the token AFTER such an id gets worse.
Its prediction of such an id does not, because the output head does not use codes.

Expected: the paper has no such ablation.

Cost of three seeds, as --dry_run prints it:
  setting=study  6 runs x 1M tokens = 6M tokens, 7.08e13 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/collisions.py --out=runs/collisions --seeds=3
  python scripts/report.py runs/study runs/collisions

The study's runs (configs/study.py) are the other half of each pair, so `study` is the only setting.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

POS_DIMS = (6, 4)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the study's config; option: setting (study)."""
    return settings.from_arg(arg, "study")


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for pos_dim in POS_DIMS:
            yield arms.ARMS["kronecker"] | {"embedding.pos_dim": pos_dim, "seed": seed}
