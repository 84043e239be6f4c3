r"""Tokenises a corpus once, into a TFDS dataset of token ids with a manifest.  Training starts from the same config and
prepares what is missing by itself; this script does it ahead of time and shows what came out.

  python scripts/prepare_data.py --config=configs/demo.py
  python scripts/prepare_data.py --config=configs/gpt2.py --config.data.source=fineweb-edu:sample-10BT
  python scripts/prepare_data.py --config=configs/base.py --config.data.source=jsonl:a.jsonl.xz \
      --config.tokenizer=bpe:8192

Where the text comes from: --config.data.source=FORM  (quote globs, or the shell expands them)

  stdlib             the Python standard library's own source: no network, about 12 MB
  prepared:FOLDER    what this script made before, here or on another machine; the text itself is not needed
                       --config.data.source=prepared:data/stdlib-gpt2-c6215305
  text:GLOB          .txt files in UTF-8, or a folder of them; one document a file, beyond 1 MB cut after a line end
                       --config.data.source='text:books/**/*.txt'
  jsonl:GLOB         JSON lines: .jsonl, .jsonl.gz, .jsonl.xz, .jsonl.zst, or a folder; one document a line
                       --config.data.source='jsonl:corpus/*.jsonl.zst' --config.data.text_field=content
  parquet:GLOB       parquet files, or a folder; one document a row
                       --config.data.source='parquet:pages/*.parquet' --config.data.text_field=body
  tfds:NAME          the train split of a TFDS dataset that is prepared, or can be without TensorFlow
                       --config.data.source=tfds:ag_news_subset --config.data.text_field=description
  tfds:FOLDER        the same, by the folder of one version (with dataset_info.json in it)
                       --config.data.source=tfds:$HOME/tensorflow_datasets/my_text/1.0.0
  fineweb-edu        FineWeb-Edu from the Hugging Face hub; data.shards files of it, of about 2 GB each
                       --config.data.source=fineweb-edu --config.data.shards=8
  fineweb-edu:SAMPLE the samples sample-10BT, sample-100BT and sample-350BT
                       --config.data.source=fineweb-edu:sample-10BT --config.data.shards=2
                     Downloads go on where they were cut off, wait when the hub asks for it, and are checked by sha256.
                     HF_TOKEN raises the hub's limits; HF_ENDPOINT names a mirror.

How it is tokenised: --config.tokenizer=FORM

  gpt2                   GPT-2's 50,257 ids; needs no network
  tiktoken:NAME          tiktoken:cl100k_base, tiktoken:o200k_base; downloaded once by tiktoken
  tiktoken:PATH          a rank file:  tiktoken:vocabularies/o200k_base.tiktoken
  tekken:PATH            Mistral's tekken.json:  tekken:mistral/tekken.json
  tokenizers:PATH        a tokenizer.json of the tokenizers library:  tokenizers:llama/tokenizer.json
  sentencepiece:PATH     a SentencePiece model with byte fallback:  sentencepiece:mistral/tokenizer.model
  bpe:SIZE               a byte-level BPE of SIZE ids, trained on the first 64 MB of the training text:  bpe:8192

What is held out for validation: 1 % of the documents, chosen by a hash of their text, the same ones on every machine
(--config.data.validation_fraction=0.005 changes the share), or what a field of the data says
(--config.data.split_field=split, whose values are "train" and "validation").

The result is a folder in data.folder, named after source, tokenizer and all else that determines its content; it does
not depend on the length of training sequences.  A run that was killed goes on behind its last finished shard; a run
that has nothing to do returns at once.

Much text: time grows with the text and memory does not; shards have 34M tokens, whatever the size of the corpus.
Start the same command in several terminals, or on several hosts whose data.folder is one shared disk: they divide the
source's files among them (by 268 MB or by the file, whichever is more), take over from those that are killed, and the
result is the same, byte for byte.  One file is prepared by one process, so give a large corpus as several files.
Between hosts the disk must pass on flock, as NFS 4 does; the text must have the same paths, sizes and times on all.

What is checked: training reads the manifest and asks for the shards' sizes, which takes no longer for more tokens; a
record that was damaged is found when it is read.  --verify reads every shard and compares its sha256, as one should
after copying a dataset:
  python scripts/prepare_data.py --verify --config=configs/gpt2.py \
      --config.data.source=prepared:data/stdlib-gpt2-c6215305
"""

import time
from typing import Any

import rich.console
import rich.table
from absl import flags
from ml_collections import config_flags

from kronecker.runtime import cli
from kronecker.schema import resolution

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file, with its arguments after a colon.")
_VERIFY = flags.DEFINE_bool("verify", False, "Read every shard once and compare its sha256 with the manifest's.")
_COUNTS = ("documents", "bytes", "tokens", "records", "shards")


def main() -> None:
    """Prepares what the config asks for and prints what is there."""
    config = resolution.resolve(_CONFIG.value)
    from kronecker.data import manifests, preparation  # now: a config that cannot work should not wait for it

    prepared, tokenizer = preparation.ensure_prepared(config)
    console = rich.console.Console()
    if _VERIFY.value:
        started = time.monotonic()
        size = manifests.verify(prepared)
        console.print(f"verified     {size / 1e6:,.1f} MB in {time.monotonic() - started:.1f} s", highlight=False)
    console.print(_summary(prepared.manifest["splits"]))
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
