"""The truncation of tokens longer than P, at P = 8 and 16: keep the head, or the head and the tail.

`head` keeps the first P bytes (cut between characters), as the paper does; `head_tail` keeps the first and the last
P/2, so that long tokens with different ends get different codes.  Then 1,779 of GPT-2's ids share a code at P = 8, not
7,582, and 42 at P = 16, not 44 (`python scripts/codec_report.py gpt2 --pos_dim=8,16 --truncation=head_tail`).  The arm
head_tail counts the positions of every token from both ends, so that suffixes have their own cells.

Expected: the paper has no such ablation.

Cost of three seeds, as --dry_run prints it:
  setting=paper  21 runs x 2.5B tokens = 52.5B tokens, 4.49e19 FLOPs, 31.5 H100 hours
  setting=gpu    21 runs x 60M tokens = 1.26B tokens, 2.44e17 FLOPs, 0.172 H100 hours
  setting=study  21 runs x 1M tokens = 21M tokens, 2.48e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/truncation.py --out=runs/truncation --seeds=3
  python scripts/report.py runs/truncation

No token of the study's vocabulary has more than 16 bytes, so with setting=study both truncations are equal at P = 16.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings

POS_DIMS = (8, 16)
VARIANTS = (
    arms.ARMS["kronecker"] | {"embedding.truncation": "head"},
    arms.ARMS["kronecker"] | {"embedding.truncation": "head_tail"},
    arms.ARMS["head_tail"],
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        yield arms.ARMS["table_untied"] | {"seed": seed}
        for pos_dim in POS_DIMS:
            for variant in VARIANTS:
                yield variant | {"embedding.pos_dim": pos_dim, "seed": seed}
