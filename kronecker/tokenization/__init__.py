"""Tokenizers: text -> token ids, and the RAW bytes of each id.

`load(spec)` returns one; TOKENIZERS in kronecker/schema/keys.py lists the forms of a spec.  The bytes come from the
vocabulary itself, never from `decode`, which replaces every token that is not valid UTF-8.  Special tokens are not
recognised in text: "<|endoftext|>" in a document becomes the ids of its characters, never the special id.
"""

from kronecker.tokenization.base import BYTE_SYMBOLS, END_OF_TEXT, Tokenizer, decoded
from kronecker.tokenization.byte_bpe import bpe_size, train_bpe
from kronecker.tokenization.families import load

__all__ = ["BYTE_SYMBOLS", "END_OF_TEXT", "Tokenizer", "bpe_size", "decoded", "load", "train_bpe"]
