"""Our tokenizers as the files of Hugging Face's: tokenizer.json, which one library reads for all tools, and its config.

The vocabulary, the merges and the splitting of text are written anew where the source is no tokenizer.json.  Merges are
recovered by replaying them: tiktoken and SentencePiece join the two neighbours whose joint piece ranks highest, and the
last two parts of a piece are the pair that makes it.  What is written is tried: its ids must be those of our tokenizer.

There `<|endoftext|>` within a text is the special id; here it is the ids of its characters.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tokenizers

from kronecker import tokenization
from kronecker.tokenization import base, tokenizer_json, trials

JSON, CONFIG = "tokenizer.json", "tokenizer_config.json"
UNKNOWN = "<unk>"
POSSESSIVE = re.compile(r"\{\d*,?\d*\}\+")  # to the library it repeats what stands before it
CHARACTERS = " \n\r\t\xa0aBsS1'’.ßé日٣\u0301"  # which patterns of splitting tell apart


def files(tokenizer: tokenization.Tokenizer, context: int, texts: Iterable[str] = ()) -> dict[str, str]:
    """Returns the content of each file by name.

    `texts` are tried beside those of `trials`, which hold every kind of character.  Raises ValueError if the form
    cannot express the tokenizer.
    """
    kind, _, path = tokenizer.spec.partition(":")
    if kind == "tokenizers":
        library = tokenizers.Tokenizer.from_str(base.read(tokenizer.spec, path).decode())
        library.no_truncation()
        library.no_padding()
        if library.decoder is None:
            spaced = tokenizer.decode(tokenizer.encode_batch(["a"])[0]) == b" a"
            fallback = tokenizer.rules["model"].get("byte_fallback")
            library.decoder = _decoder(spaced) if fallback else tokenizers.decoders.ByteLevel()
        # It adds special ids, as at the beginning of a text; no text in training had them.
        library.post_processor = None
    elif kind == "sentencepiece":
        library = _of_sentencepiece(base.read(tokenizer.spec, path))
    else:
        library = _of_ranks(tokenizer)
    specials = [tokenizer.token_bytes[i].decode() for i in sorted(tokenizer.special_ids)]
    drawn = _drawn(CHARACTERS + str(tokenizer.rules.get("pattern", "")))
    around = map(trials.AROUND.format, specials)
    _check(tokenizer, library, [*trials.ORDINARY_TEXT.values(), *trials.CHARACTERS, *around, *drawn, *texts])
    end = tokenizer.token_bytes[tokenizer.eot_id].decode()
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "unk_token": UNKNOWN if UNKNOWN in specials else end,  # CTranslate2 needs one; no text becomes it
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    return {JSON: library.to_str(pretty=True) + "\n", CONFIG: json.dumps(about, indent=2) + "\n"}


def _of_ranks(tokenizer: tokenization.Tokenizer) -> tokenizers.Tokenizer:
    """Returns the form of tiktoken's and tekken's tokenizers, which merge bytes by rank and split text by a pattern."""
    if not tokenizer.rules.get("pattern"):
        raise ValueError(f"tokenizer {tokenizer.spec}: how it splits text before merging is not known")
    special = {tokenizer.token_bytes[i].decode(): i for i in sorted(tokenizer.special_ids)}
    ranks = {
        "".join(map(tokenizer_json.LETTERS.__getitem__, token)): i
        for i, token in enumerate(tokenizer.token_bytes)
        if token is not None and i not in tokenizer.special_ids
    }
    # All ids stand in the vocabulary, as the library numbers others itself.  A whole piece of text needs no merges.
    model = tokenizers.models.BPE(ranks | special, list(_merges(ranks)), ignore_merges=True)
    library = tokenizers.Tokenizer(model)
    if found := POSSESSIVE.search(tokenizer.rules["pattern"]):
        raise ValueError(f"its pattern has {found[0]}, which other tools read otherwise")
    with base.library_errors("its pattern is not one that other tools can read"):
        pattern = tokenizers.Regex(tokenizer.rules["pattern"])
    split = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    to_letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_letters])
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(list(special))
    return library


def _of_sentencepiece(content: bytes) -> tokenizers.Tokenizer:
    from sentencepiece import sentencepiece_model_pb2  # slow, and few runs have such a model

    proto = sentencepiece_model_pb2.ModelProto.FromString(content)
    kinds, trainer = sentencepiece_model_pb2.ModelProto.SentencePiece, sentencepiece_model_pb2.TrainerSpec
    pieces = {one.piece: i for i, one in enumerate(proto.pieces)}
    unknown = next(one.piece for one in proto.pieces if one.type == kinds.UNKNOWN)
    if proto.trainer_spec.model_type == trainer.BPE:
        normal = sorted((one for one in proto.pieces if one.type == kinds.NORMAL), key=lambda one: -one.score)
        ranks = {one.piece: rank for rank, one in enumerate(normal)}
        model: Any = tokenizers.models.BPE(
            pieces, list(_merges(ranks)), unk_token=unknown, byte_fallback=True, fuse_unk=True
        )
    elif proto.trainer_spec.model_type == trainer.UNIGRAM:
        never = min(one.score for one in proto.pieces) - 1000  # special pieces are no text, but the library tries all
        text = (kinds.NORMAL, kinds.USER_DEFINED)
        scores = [(one.piece, one.score if one.type in text else never) for one in proto.pieces]
        model = tokenizers.models.Unigram(scores, pieces[unknown], byte_fallback=True)
    else:
        raise ValueError("a SentencePiece model of words or characters has no such form")
    library = tokenizers.Tokenizer(model)
    written = proto.normalizer_spec
    steps: list[Any] = []
    if written.precompiled_charsmap:
        steps.append(tokenizers.normalizers.Precompiled(written.precompiled_charsmap))
    if written.add_dummy_prefix:
        steps.append(tokenizers.normalizers.Prepend(base.SPACE_MARK))
    steps.append(tokenizers.normalizers.Replace(" ", base.SPACE_MARK))
    library.normalizer = tokenizers.normalizers.Sequence(steps)
    library.decoder = _decoder(written.add_dummy_prefix)
    library.add_special_tokens([one.piece for one in proto.pieces if one.type in (kinds.CONTROL, kinds.UNKNOWN)])
    library.add_tokens([one.piece for one in proto.pieces if one.type == kinds.USER_DEFINED])
    return library


def _decoder(spaced: bool) -> Any:
    """Returns what reads pieces with U+2581 and bytes; `spaced`: without the space that stands before each text."""
    steps = [
        tokenizers.decoders.Replace(base.SPACE_MARK, " "),
        tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Fuse(),
        *([tokenizers.decoders.Strip(" ", 1, 0)] if spaced else []),
    ]
    return tokenizers.decoders.Sequence(steps)


def _merges(ranks: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yields the pair that makes each piece, in the order of merging; none for a piece that merges never make."""
    never = len(ranks) + max(ranks.values(), default=0)
    for piece, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        parts = list(piece)
        while len(parts) > 1:
            at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], never))
            if ranks.get(parts[at] + parts[at + 1], never) >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def _drawn(characters: str) -> list[str]:
    """Returns texts of runs of these characters, in which two readings of a pattern hardly ever agree."""
    draw = random.Random(0)
    return [
        "".join(draw.choice(characters) * draw.choice((1, 1, 1, 1, 2, 3, 4, 9)) for _ in range(40)) for _ in range(500)
    ]


def _check(tokenizer: tokenization.Tokenizer, library: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Raises ValueError if the library gives other ids or special tokens than our tokenizer, or another text back."""
    for i in sorted(tokenizer.special_ids):
        text = tokenizer.token_bytes[i].decode()
        if library.token_to_id(text) != i:
            raise ValueError(f"its special token {text!r} would be id {library.token_to_id(text)}, not {i}")
    library.encode_special_tokens = True  # for the comparison, as we encode special tokens as text
    with base.library_errors("other tools cannot encode text with it"):
        found = [one.ids for one in library.encode_batch_fast(texts, add_special_tokens=False)]
    library.encode_special_tokens = False
    read = library.decode_batch(found, skip_special_tokens=False)
    for text, ids, back, own in zip(texts, found, read, tokenizer.encode_batch(texts), strict=True):
        if ids != own.tolist():
            raise ValueError(f"its form for other tools gives other ids for {text[:40]!r}")
        kept = tokenizer.decode(own).decode()
        if back not in (kept, kept.removeprefix(" ")):
            raise ValueError(f"its form for other tools does not give {text[:40]!r} back")
