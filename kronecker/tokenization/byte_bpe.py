"""Trains the tokenizer of bpe:SIZE."""

import sys
from collections.abc import Iterable

import tokenizers
from etils import epath

from kronecker.tokenization import base


def train_bpe(texts: Iterable[str], size: int, path: epath.PathLike) -> None:
    """Trains a byte-level BPE and writes its tokenizer.json; the same texts always give the same file.

    It has fewer than `size` ids if the text has too few distinct pairs.  Raises ValueError if `size` is below 257.
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
    bpe.train_from_iterator(texts, trainer)
    epath.Path(path).write_text(bpe.to_str(pretty=True))
