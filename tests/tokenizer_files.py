"""Small tokenizer files of each family, made with their libraries, for tests."""

import base64
import inspect
import io
import json
from pathlib import Path

import sentencepiece
import tokenizers as library

from kronecker import tokenization


def byte_fallback_json(folder: Path, **model: object) -> Path:
    vocab = ["<unk>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "▁", "a", "b", "ab", "▁ab"]
    definition = library.Tokenizer(
        library.models.BPE(
            vocab={token: i for i, token in enumerate(vocab)},
            merges=[("a", "b"), ("▁", "ab")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    definition.normalizer = library.normalizers.Replace(" ", "▁")
    definition.add_special_tokens(["<unk>", "</s>"])
    definition.add_tokens(["<table>"])
    for name, value in model.items():
        getattr(definition, name)(value)
    definition.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def sentencepiece_model(folder: Path, **options: object) -> Path:
    content = io.BytesIO()
    defaults = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(Path(inspect.__file__).read_text().splitlines()),
        model_writer=content,
        **(defaults | {"vocab_size": 600, "byte_fallback": True, "minloglevel": 2} | options),
    )
    (folder / "tokenizer.model").write_bytes(content.getvalue())
    return folder / "tokenizer.model"


TEKKEN_SIZES = {"pattern": r" ?\p{L}+|\s+|[^\p{L}\s]+", "default_vocab_size": 268, "default_num_special_tokens": 10}


def tekken_json(folder: Path, **changes: object) -> Path:
    tokens = [*(bytes([value]) for value in range(256)), b"ab", b" ab", b"cut off"]
    definition = {
        "config": TEKKEN_SIZES,
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(tokens)],
    }
    (folder / "tekken.json").write_text(json.dumps(definition | changes))
    return folder / "tekken.json"


def byte_level_json(folder: Path, **parts: object) -> Path:
    path = folder / "t.json"
    tokenization.train_bpe(["ab"], 257, path)
    definition = library.Tokenizer.from_file(str(path))
    definition.normalizer = parts.get("normalizer")
    if "pre_tokenizer" in parts:
        stages = [parts["pre_tokenizer"], definition.pre_tokenizer]
        definition.pre_tokenizer = library.pre_tokenizers.Sequence(stages)
    definition.save(str(path))
    return path


def write_ranks(path: Path, count: int = 256) -> Path:
    lines = (base64.b64encode(bytes([value])) + b" %d\n" % value for value in range(count))
    path.write_bytes(b"".join(lines))
    return path


def unigram_json(folder: Path) -> Path:
    """A byte-level Unigram; its special token is a piece of so low a score that its text becomes other pieces."""
    letters = [(letter, -9.0) for letter in sorted(library.pre_tokenizers.ByteLevel.alphabet())]
    pieces = [("</s>", -1000.0), *letters, ("ab", -3.0), ("Ġab", -2.5), ("ĠĠ", -4.0)]
    definition = library.Tokenizer(library.models.Unigram(pieces, 0, False))
    definition.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    definition.add_special_tokens(["</s>"])
    definition.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"
