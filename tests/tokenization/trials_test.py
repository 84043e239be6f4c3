"""Damaged tokenizer files: each is refused in one line, or keeps text, with a fingerprint of its own."""

import random
from pathlib import Path

import pytest
import tokenizer_damage
import tokenizers as library
from tokenizer_files import (
    byte_fallback_json,
    byte_level_json,
    sentencepiece_model,
    tekken_json,
    unigram_json,
    write_ranks,
)

from kronecker import tokenization

CASES = 25  # of each file


def added(path: Path) -> Path:
    definition = library.Tokenizer.from_file(str(path))
    definition.add_tokens(["<n>", library.AddedToken("<table>", single_word=True)])
    definition.save(str(path))
    return path


def ranks(folder: Path) -> Path:
    path = write_ranks(folder / "mine.tiktoken")
    path.write_bytes(path.read_bytes() + b"YWI= 256\nIGFi 257\n")
    return path


FILES = {
    "byte_level": ("tokenizers:{}", lambda folder: added(byte_level_json(folder))),
    "byte_fallback": ("tokenizers:{}", byte_fallback_json),
    "unigram": ("tokenizers:{}", lambda folder: added(unigram_json(folder))),
    "tekken": ("tekken:{}", tekken_json),
    "ranks": ("tiktoken:{}@cl100k_base", ranks),
    "sentencepiece": ("sentencepiece:{}", lambda folder: sentencepiece_model(folder, user_defined_symbols=["<table>"])),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_in_one_line_or_keeps_text(name: str, tmp_path: Path):
    spec, make = FILES[name]
    content, file = make(tmp_path).read_bytes(), tmp_path / "damaged"
    texts = list(tokenizer_damage.TEXTS)
    intact = None
    for seed in range(-1, CASES):
        damage = random.Random(seed)
        kinds = (tokenizer_damage.of_json, tokenizer_damage.of_bytes)[content[:1] != b"{" :]
        file.write_bytes(damage.choice(kinds)(content, damage) if seed >= 0 else content)
        try:
            tokenizer = tokenization.load(spec.format(file))
            encoded = tokenizer.encode_batch(texts, 1)
            for text, ids in zip(texts, encoded, strict=True):
                tokenizer.check_kept(text, ids)
        except ValueError as error:
            assert intact, error  # the file itself is accepted
            assert str(error).startswith("tokenizer "), seed
            assert "\n" not in str(error), seed
        else:
            found = [ids.tolist() for ids in encoded]
            assert found == [ids.tolist() for ids in tokenizer.encode_batch(texts)], seed
            intact = intact or (tokenizer.fingerprint, found)
            assert tokenizer.fingerprint != intact[0] or found == intact[1], seed
