"""Loads a tokenizer by its spec, from the right family."""

import copyreg

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


def load(spec: str) -> Tokenizer:
    """Returns the tokenizer that `spec` names, in a form of keys.TOKENIZERS except bpe:SIZE, which preparation trains.

    Raises FileNotFoundError if the file does not exist; ValueError if the form is unknown, or the file is damaged,
    unknown, without an end-of-text token, or of a tokenizer that changes ordinary text.
    """
    kind, _, argument = spec.partition(":")
    if spec in _NAMED:
        return _NAMED[spec]()
    if kind == "tiktoken" and argument in tiktoken.list_encoding_names():
        return tiktoken_ranks.registered(spec, argument)
    if kind in _FILES and argument:
        return _FILES[kind](spec, argument)
    raise ValueError(f"tokenizer is {spec!r}; it must be {keys.TOKENIZERS.words}")


# A tokenizer holds library objects that cannot be pickled, but its spec can.
copyreg.pickle(Tokenizer, lambda tokenizer: (load, (tokenizer.spec,)))
