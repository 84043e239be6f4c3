"""Trains the tokenizer of bpe:SIZE."""

import sys
from collections.abc import Iterable

import regex
import tokenizers
from etils import epath

from kronecker.tokenization import base

# Characters of one kind: the trainer takes a second for a piece of so many, and hours for a million.
LONGEST_RUN = 20_000
_RUNS = regex.compile(r"\s+|\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+")  # no piece is longer than a run and a space before it


def bpe_size(spec: str) -> int:
    """Returns SIZE of bpe:SIZE, 0 for a tokenizer that is not trained; raises ValueError if SIZE is no number."""
    kind, _, size = spec.partition(":")
    if kind == "bpe" and not size.isdecimal():
        raise ValueError(f"tokenizer is {spec!r:.80}; SIZE in bpe:SIZE is not a number; write for example bpe:8192")
    return int(size) if kind == "bpe" else 0


def train_bpe(texts: Iterable[str], size: int, path: epath.PathLike) -> None:
    """Trains a byte-level BPE and writes its tokenizer.json; the same texts always give the same file.

    It has fewer than `size` ids if the text has too few distinct pairs.  It is trained on the first LONGEST_RUN
    characters of longer runs of white space, letters, digits or other characters.  Raises ValueError if `size` is below
    257.
    """
    if size <= base.BYTE_SYMBOLS:
        raise ValueError(f"tokenizer is 'bpe:{size}'; SIZE must be at least 257: the 256 bytes and {base.END_OF_TEXT}")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[base.END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    short = (_RUNS.sub(lambda run: run[0][:LONGEST_RUN], text) if len(text) > LONGEST_RUN else text for text in texts)
    bpe.train_from_iterator(short, trainer)
    epath.Path(path).write_text(bpe.to_str(pretty=True), encoding="utf-8")
