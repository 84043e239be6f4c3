r"""Tokenises a corpus once, into a TFDS dataset of token ids with a manifest.
Training with the same config also prepares missing data; this script does it
ahead of time and prints the counts of documents, bytes and tokens.

  python scripts/prepare_data.py --config=configs/demo.py
  python scripts/prepare_data.py --config=configs/gpt2.py \
      --config.data.source=fineweb-edu:sample-10BT
  python scripts/prepare_data.py --config=configs/base.py \
      --config.data.source=jsonl:a.jsonl.xz --config.tokenizer=bpe:8192

Where the text comes from: --config.data.source=FORM.  Quote globs, or the shell
expands them.

  stdlib             the source code of the Python standard library: no network,
                     about 12 MB
  prepared:FOLDER    a dataset that this script made before, on this machine or
                     another; the text is not needed
                       --config.data.source=prepared:data/stdlib-gpt2-c6215305
  text:GLOB          .txt files in UTF-8, or a folder of them; one document per
                     file, split at line ends beyond 1 MB
                       --config.data.source='text:books/**/*.txt'
  jsonl:GLOB         JSON lines, or a folder of .jsonl and .ndjson; one document
                     per line; like texts, plain or of gzip, xz, bzip2 or zstd
                       --config.data.source='jsonl:corpus/*.jsonl.zst' \
                       --config.data.text_field=content
  parquet:GLOB       parquet files, or a folder; one document per row
                       --config.data.source='parquet:pages/*.parquet' \
                       --config.data.text_field=body
  tfds:NAME          the train split of a TFDS dataset that is already prepared,
                     or needs no TensorFlow to prepare
                       --config.data.source=tfds:ag_news_subset \
                       --config.data.text_field=description
  tfds:FOLDER        the same, from the folder of one version, which contains
                     dataset_info.json
                       --config.data.source=tfds:$HOME/my_datasets/text/1.0.0
  fineweb-edu        FineWeb-Edu from the Hugging Face hub; its first
                     data.shards files, of about 2 GB each
                       --config.data.source=fineweb-edu --config.data.shards=8
  fineweb-edu:SAMPLE its samples: sample-10BT, sample-100BT, sample-350BT
                       --config.data.source=fineweb-edu:sample-10BT \
                       --config.data.shards=2
                     A download resumes after an interruption, waits if the hub
                     limits its rate, and is checked by sha256.  The environment
                     variable HF_TOKEN raises the hub's limits; HF_ENDPOINT sets
                     a mirror.

How it is tokenised: --config.tokenizer=FORM

  gpt2                   GPT-2's 50,257 ids; needs no network
  tiktoken:NAME          an encoding of tiktoken, downloaded once:
                         tiktoken:cl100k_base, tiktoken:o200k_base
  tiktoken:PATH          a rank file of gpt2, cl100k_base, o200k_base, llama3 or
                         qwen:  tiktoken:vocabularies/o200k_base.tiktoken
  tiktoken:PATH@NAME     a rank file that splits text as NAME does, one of these
                         or qwen3:  tiktoken:mine.tiktoken@gpt2
  tekken:PATH            Mistral's tekken.json:  tekken:mistral/tekken.json
  tokenizers:PATH        a tokenizer.json of the tokenizers library:
                         tokenizers:llama/tokenizer.json
  sentencepiece:PATH     a SentencePiece model with byte fallback:
                         sentencepiece:mistral/tokenizer.model
  bpe:SIZE               a byte-level BPE of SIZE ids, trained on the first 64
                         MB of the training text:  bpe:8192

The special token that ends a document is found by name, or given by its text:
--config.data.end_of_text="<eot>".

What is held out for validation: 1 % of the documents, chosen by a hash of their
text, so the same on every machine (--config.data.validation_fraction=0.005 sets
another share); or the documents that a field of the data marks
(--config.data.split_field=split, with the values "train" and "validation").

The result is a folder in data.folder, named after the source, the tokenizer and
everything else that decides its content, which does not depend on the length of
training sequences.  The same command, run again, resumes after the last
finished shard, and returns at once if the dataset is complete.

Large corpora: more text takes more time but not more memory; shards have 34M
tokens.  To use several processes, start the same command in several terminals,
or on several hosts with data.folder on a shared disk.  They divide the source's
files (in segments of at least 268 MB), finish the segments of killed processes,
and write the same bytes as a single process.  A file is never divided, so give
a large corpus as several files.  For several hosts the disk must support flock,
as NFS 4 does, and the text must have the same paths, sizes and times on all
hosts.

Checks: training reads the manifest, the sizes of the shards and 4 bytes for each
2,048 tokens; a record that is damaged, or of another dataset, is found
when it is read.  --verify reads every shard and compares its sha256; use it
after copying a dataset:
  python scripts/prepare_data.py --verify --config=configs/gpt2.py \
      --config.data.source=prepared:data/stdlib-gpt2-c6215305
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import time
from typing import Any

import rich.console
import rich.table
from absl import flags
from ml_collections import config_flags

from kronecker.runtime import cli
from kronecker.schema import resolution

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; options follow a colon, as in FILE:KEY=VALUE."
)
_VERIFY = flags.DEFINE_bool("verify", False, "Read every shard and compare its sha256 with the manifest.")
_COUNTS = ("documents", "bytes", "tokens", "records", "shards")


def main() -> None:
    """Prepares the dataset of the config and prints its counts."""
    config = resolution.resolve(_CONFIG.value)
    from kronecker.data import manifests, preparation  # after the check, so that errors come without delay

    prepared, tokenizer = preparation.ensure_prepared(config)
    console = rich.console.Console()
    if _VERIFY.value:
        started = time.monotonic()
        size = manifests.verify(prepared)
        console.print(f"verified     {size / 1e6:,.1f} MB in {time.monotonic() - started:.1f} s", highlight=False)
    console.print(_summary(prepared.manifest["splits"]))
    changed, text = (
        sum(split[key] for split in prepared.manifest["splits"].values()) for key in ("changed_bytes", "bytes")
    )
    if changed:
        console.print(
            f"changed      {changed:,} bytes of text by the tokenizer ({changed / text:.3%})", highlight=False
        )
    console.print(f"tokenizer    {tokenizer.name}, {tokenizer.vocab_size:,} ids", highlight=False)
    console.print(f"folder       {prepared.location}", highlight=False, soft_wrap=True)
    console.print(f"fingerprint  {prepared.fingerprint}", highlight=False, soft_wrap=True)


def _summary(splits: dict[str, dict[str, Any]]) -> rich.table.Table:
    table = rich.table.Table("split", *(rich.table.Column(name, justify="right") for name in _COUNTS))
    for split, found in splits.items():
        counts = {**found, "shards": len(found["shards"])}
        table.add_row(split, *(f"{counts[name]:,}" for name in _COUNTS))
    return table


if __name__ == "__main__":
    cli.run(main)
