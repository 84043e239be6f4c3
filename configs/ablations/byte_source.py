"""The bytes of a code: those of the vocabulary (raw), or the decoded ones (decode), as in the author's package.

Decoding turns every token that is a part of a character into U+FFFD.  Then 384 of GPT-2's ids share a code with another
at P = 16, and 255 of these have the same code; with raw bytes only 44 ids share one
(`python scripts/codec_report.py gpt2 --byte_source=decode`).  Nearly all of the 384 are parts of non-ASCII characters,
so they are rare in English text.

Expected: the paper has no such ablation; if it used that package, its numbers belong to `decode`.

Cost of three seeds, as --dry_run prints it:
  setting=paper  9 runs x 2.5B tokens = 22.5B tokens, 1.92e19 FLOPs, 13.5 H100 hours
  setting=gpu    9 runs x 60M tokens = 540M tokens, 1.05e17 FLOPs, 0.0735 H100 hours
  setting=study  9 runs x 1M tokens = 9M tokens, 1.06e14 FLOPs, under 0.01 H100 hours

  python scripts/sweep.py --config=configs/ablations/byte_source.py --out=runs/byte_source --seeds=3
  python scripts/report.py runs/byte_source
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, settings


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a setting; option: setting, one of configs/settings.py."""
    return settings.from_arg(arg)


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another; the unchanged arm `kronecker` has raw bytes."""
    for seed in range(seeds):
        yield arms.ARMS["table_untied"] | {"seed": seed}
        yield arms.ARMS["kronecker"] | {"seed": seed}
        yield arms.ARMS["kronecker"] | {"embedding.byte_source": "decode", "seed": seed}
