"""A multilingual vocabulary on multilingual text, where P = 16 truncates real words.

Ids that share a code with another (`python scripts/codec_report.py TOKENIZER --truncation=head`, or head_tail):

  vocabulary  ids      head, P = 16  head, P = 32  head_tail, P = 16  head_tail, P = 32
  tekken      131,072           724            46                 82                 42
  o200k       200,019         2,503           184                353                158

At P = 16 they are words of Hindi, Thai or Bengali; at 32 nearly all are repetitions of one character.  The runs are
table_untied, table_tied, and kronecker at both P with both truncations.

Expected: the paper has no training run on such text, and none at P = 32, its package's default.  It reports that
98.64 % of the ids of six tokenizers fit into 16 bytes and 99.86 % into 32.

Cost of three seeds, as --dry_run prints it:
  vocabulary=tekken,setting=paper  18 runs x 2.5B tokens = 45B tokens, 5.52e19 FLOPs, 38.8 H100 hours
  vocabulary=tekken,setting=gpu    18 runs x 60M tokens = 1.08B tokens, 4.10e17 FLOPs, 0.288 H100 hours
  vocabulary=o200k,setting=paper   18 runs x 2.5B tokens = 45B tokens, 6.95e19 FLOPs, 48.8 H100 hours
  vocabulary=o200k,setting=gpu     18 runs x 60M tokens = 1.08B tokens, 5.82e17 FLOPs, 0.409 H100 hours

  python scripts/sweep.py --config=configs/ablations/multilingual.py:vocabulary=tekken,setting=gpu \
      --out=runs/multilingual --seeds=3 --config.data.source=jsonl:multilingual.jsonl.xz
  python scripts/report.py runs/multilingual

You provide vocabulary and text: tekken_240911.json or o200k_base.tiktoken in the current folder (or set
--config.tokenizer=tekken:PATH), and multilingual.jsonl.xz with JSON lines of {"text": ..., "split": "train" or
"validation"}.  110 MB of such text are 28M tokens of tekken: setting=gpu then trains on each token twice.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import arms, base, settings

VOCABULARIES = {
    "tekken": {"tokenizer": "tekken:tekken_240911.json"},
    "o200k": {"tokenizer": "tiktoken:o200k_base.tiktoken"},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns a setting's config with another vocabulary and text; options: vocabulary, setting (paper or gpu)."""
    option = base.parse_arg(arg, vocabulary="tekken", setting="paper")
    c = settings.get(option.setting, "paper", "gpu")
    base.apply(c, base.choose(VOCABULARIES, option.vocabulary, "vocabulary"))
    c.data.source = "jsonl:multilingual.jsonl.xz"
    c.data.split_field = "split"
    c.data.shards = 0
    return c


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in ("table_untied", "table_tied"):
            yield arms.ARMS[arm] | {"seed": seed}
        for pos_dim in (16, 32):
            for truncation in ("head", "head_tail"):
                own = {"embedding.pos_dim": pos_dim, "embedding.truncation": truncation}
                yield arms.ARMS["kronecker"] | own | {"seed": seed}
