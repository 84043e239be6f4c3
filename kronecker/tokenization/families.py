"""The families of tokenizers, by the spec that names one."""

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
    """Returns the tokenizer that `spec` names, of keys.TOKENIZERS.

    bpe:SIZE is none of them: data preparation trains it first.

    Raises FileNotFoundError if the file is not there; ValueError if the spec has no known form, or its file is damaged,
    unknown, without an end-of-text token, or of a tokenizer that changes ordinary text.
    """
    kind, _, argument = spec.partition(":")
    if spec in _NAMED:
        return _NAMED[spec]()
    if kind == "tiktoken" and argument in tiktoken.list_encoding_names():
        return tiktoken_ranks.registered(spec, argument)
    if kind in _FILES and argument:
        return _FILES[kind](spec, argument)
    raise ValueError(f"tokenizer is {spec!r}; it takes {keys.TOKENIZERS.words}")


# A tokenizer holds the libraries' objects, which do not pickle; its spec does.
copyreg.pickle(Tokenizer, lambda tokenizer: (load, (tokenizer.spec,)))
