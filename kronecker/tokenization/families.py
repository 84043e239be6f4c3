"""Loads a tokenizer by its spec, from the right family."""

import copyreg
import dataclasses

import tiktoken

from kronecker.schema import keys
from kronecker.tokenization import sentencepiece_model, tekken, tiktoken_ranks, tokenizer_json
from kronecker.tokenization.base import Tokenizer

_NAMED = {"gpt2": tiktoken_ranks.shipped_gpt2}
_FILES = {
    "tiktoken": tiktoken_ranks.from_file,
    "tokenizers": tokenizer_json.from_file,
    "sentencepiece": sentencepiece_model.from_file,
    "tekken": tekken.from_file,
}


def load(spec: str, end_of_text: str = "") -> Tokenizer:
    """Returns the tokenizer that `spec` names, in a form of keys.TOKENIZERS except bpe:SIZE, which preparation trains.

    `end_of_text` is data.end_of_text, the text of the special token that ends a document; empty: found by name.

    Raises FileNotFoundError if the file does not exist; ValueError if the form is unknown, the file is damaged, unknown
    or of a tokenizer that changes text, or `end_of_text` is no special token of it.
    """
    tokenizer = _load(spec)
    if end_of_text:
        tokenizer = dataclasses.replace(tokenizer, end_of_text=end_of_text)
        tokenizer.check_end()
    return tokenizer


def _load(spec: str) -> Tokenizer:
    kind, _, argument = spec.partition(":")
    if spec in _NAMED:
        return _NAMED[spec]()
    if kind == "tiktoken" and argument in tiktoken.list_encoding_names():
        return tiktoken_ranks.registered(spec, argument)
    if kind in _FILES and argument:
        return _FILES[kind](spec, argument)
    raise ValueError(f"tokenizer is {spec!r}; it must be {keys.TOKENIZERS.words}")


# A tokenizer holds library objects that cannot be pickled, but its spec can.
copyreg.pickle(Tokenizer, lambda tokenizer: (load, (tokenizer.spec, tokenizer.end_of_text)))
