"""Tokenizers: text -> token ids, and the RAW bytes that each id stands for.

`load(spec)` makes one; TOKENIZERS in kronecker/schema/keys.py lists what a spec can be.  The bytes come from the
vocabulary itself, never from `decode`, which replaces every token that is not valid UTF-8.  Text is ordinary text:
"<|endoftext|>" written in a document becomes the ids of those characters, never the special id.
"""

from kronecker.tokenization.base import BYTE_SYMBOLS, END_OF_TEXT, Tokenizer, decoded
from kronecker.tokenization.byte_bpe import train_bpe
from kronecker.tokenization.families import load

__all__ = ["BYTE_SYMBOLS", "END_OF_TEXT", "Tokenizer", "decoded", "load", "train_bpe"]
