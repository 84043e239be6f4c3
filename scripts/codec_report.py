r"""Shows how a tokenizer's vocabulary fits into Kronecker codes of P bytes: which
tokens fit, which share a code.

  python scripts/codec_report.py gpt2
  python scripts/codec_report.py gpt2 tiktoken:o200k_base.tiktoken \
      tekken:tekken.json --pos_dim=16,32,64
  python scripts/codec_report.py sentencepiece:tokenizer.model \
      --truncation=head_tail --json=report.json
  python scripts/codec_report.py gpt2 --byte_source=decode

Each argument is a tokenizer in any form of --config.tokenizer except bpe:SIZE;
a tokenizer trained by bpe:SIZE is in the folder of its prepared data,
tokenizers:FOLDER/tokenizer.json.  Default: gpt2.

A token longer than P bytes is cut, and may then equal another token.  Tokens
that share a code have one embedding; the model can distinguish them only by
their context.  Choose P so that few tokens share a code in the scripts of your
text.  --truncation=head_tail distinguishes long words by their endings.  Counts
are over ordinary tokens, those that have bytes and can result from encoding
text; only the row "special tokens" counts others.  For several tokenizers their
mean is printed too, beside the paper's, whose code counts a token of exactly P
bytes as cut.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import json
from collections.abc import Sequence

from absl import flags

from kronecker.runtime import cli
from kronecker.schema import choices

_POS_DIM = flags.DEFINE_list("pos_dim", "16,32", "P, the bytes kept of a token; several values with commas.")
_TRUNCATION = flags.DEFINE_enum(
    "truncation",
    "head",
    choices.TRUNCATIONS,
    "The bytes kept of a longer token.  head: the first P, cut between characters; head_raw: the first P; "
    "head_tail: the first and last P/2.",
)
_BYTE_SOURCE = flags.DEFINE_enum(
    "byte_source",
    "raw",
    choices.BYTE_SOURCES,
    "raw: the vocabulary's own bytes; decode: the result of decoding each id alone, as in the author's package.",
)
_EXAMPLES = flags.DEFINE_integer(
    "examples", 5, "Number of groups of tokens that share a code to print, for each P.", lower_bound=0
)
_JSON = flags.DEFINE_string("json", None, "Also write all numbers to this JSON file.")


def main(specs: Sequence[str]) -> None:
    """Prints the report."""
    from kronecker import tokenization
    from kronecker.probes import vocabulary_coverage  # after the flags: --help should not wait for them

    if _JSON.value:
        from kronecker.runtime.storage import local_file, write_text

        json_file = local_file(_JSON.value, "--json")
    found = [
        vocabulary_coverage.cover(tokenizer, pos_dim, _TRUNCATION.value, _BYTE_SOURCE.value, _EXAMPLES.value)
        for tokenizer in map(tokenization.load, dict.fromkeys(specs or ["gpt2"]))
        for pos_dim in _positions()
    ]
    if _JSON.value:  # before printing, which ends early if the reader closes the pipe
        write_text(json_file, json.dumps(vocabulary_coverage.to_json(found), indent=2, ensure_ascii=False) + "\n")
    vocabulary_coverage.show(found)


def _positions() -> list[int]:
    if not _POS_DIM.value or not all(text.isdecimal() for text in _POS_DIM.value):
        raise ValueError(f"--pos_dim={','.join(_POS_DIM.value)}: give whole numbers, e.g. 16,32")
    return [int(text) for text in _POS_DIM.value]


if __name__ == "__main__":
    cli.run(main, positional=True)
