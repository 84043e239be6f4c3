"""Shows what a Kronecker code of P bytes holds of a tokenizer's vocabulary: which tokens fit, which share one code.

  python scripts/codec_report.py gpt2
  python scripts/codec_report.py gpt2 tiktoken:o200k_base.tiktoken tekken:tekken.json --pos_dim=16,32,64
  python scripts/codec_report.py sentencepiece:tokenizer.model --truncation=head_tail --json=report.json
  python scripts/codec_report.py gpt2 --byte_source=decode        (what the paper author's package would see)

Each argument is a tokenizer, in any form that --config.tokenizer takes but bpe:SIZE; what that trained is in the folder
of prepared data, tokenizers:FOLDER/tokenizer.json.  Without an argument: gpt2.

How to read it: a token longer than P bytes is cut, and what the cut leaves of it may equal another token.  Tokens that
share a code have one embedding; the model can tell them apart by their surroundings alone.  Choose P so that few do, in
the scripts of your text; --truncation=head_tail tells long words apart by their endings.  All counts but those of the
row "special tokens" are over ordinary tokens: those that have bytes and that text can encode to.  With several
tokenizers their mean stands beside the paper's, which counts a token of exactly P bytes as cut, as this does not.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kronecker.runtime import cli
from kronecker.schema import choices

_POS_DIM = flags.DEFINE_list("pos_dim", "16,32", "P, the byte positions kept of a token; several, with commas.")
_TRUNCATION = flags.DEFINE_enum(
    "truncation",
    "head",
    choices.TRUNCATIONS,
    "What stays of a longer token.  head: its first P bytes, cut between characters; head_raw: its first P bytes; "
    "head_tail: its first and last P/2.",
)
_BYTE_SOURCE = flags.DEFINE_enum(
    "byte_source",
    "raw",
    choices.BYTE_SOURCES,
    "raw: the vocabulary's own bytes; decode: what decoding one id gives, as the author's package has it.",
)
_EXAMPLES = flags.DEFINE_integer("examples", 5, "Groups of tokens with one code to name, for each P.", lower_bound=0)
_JSON = flags.DEFINE_string("json", None, "Also write every number to this file.")


def main(specs: Sequence[str]) -> None:
    """Prints the report."""
    from kronecker import tokenization
    from kronecker.probes import vocabulary_coverage  # after the flags: --help should not wait for them

    found = [
        vocabulary_coverage.cover(tokenizer, pos_dim, _TRUNCATION.value, _BYTE_SOURCE.value, _EXAMPLES.value)
        for tokenizer in map(tokenization.load, dict.fromkeys(specs or ["gpt2"]))
        for pos_dim in _positions()
    ]
    if _JSON.value:  # first: whoever reads the report may close the pipe
        from kronecker.report.pages import write_text

        write_text(
            Path(_JSON.value), json.dumps(vocabulary_coverage.to_json(found), indent=2, ensure_ascii=False) + "\n"
        )
    vocabulary_coverage.show(found)


def _positions() -> list[int]:
    if not _POS_DIM.value or not all(text.isdecimal() for text in _POS_DIM.value):
        raise ValueError(f"--pos_dim={','.join(_POS_DIM.value)}: it takes whole numbers, e.g. 16,32")
    return [int(text) for text in _POS_DIM.value]


if __name__ == "__main__":
    cli.run(main, positional=True)
