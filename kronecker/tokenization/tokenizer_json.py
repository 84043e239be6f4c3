"""tokenizer.json of the tokenizers library: byte-level vocabularies, and those that write a space as U+2581."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tokenizers

from kronecker.tokenization import base, trials

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Keys that decide no id: texts are encoded whole and without special tokens, and ids are never decoded for training.
DECORATION = {"version", "truncation", "padding", "post_processor", "decoder"}
PLAIN_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def from_file(spec: str, path: str) -> base.Tokenizer:
    """Returns the tokenizer of a tokenizer.json.

    Added tokens that are not special are recognised in text, as by the library.  Their bytes are the vocabulary's, as
    for Gemma's runs of spaces, or their own text if they are no piece of it.

    Raises FileNotFoundError if the file does not exist; ValueError if it is damaged, is neither byte-level nor with
    byte fallback, draws ids at random, or changes text.
    """
    content = base.read(spec, path)
    definition = base.read_json(spec, content, "tokenizer.json")
    model = definition.get("model")
    if isinstance(model, dict) and model.get("type", "BPE") == "BPE":  # with some the library ends the process
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if found := model.get(name):
                raise ValueError(
                    f"tokenizer {spec}: its pieces carry the {name} {found!r}, which is not text; use one without it"
                )
    with base.library_errors(f"tokenizer {spec}: not a tokenizer.json that its library can read"):
        library = tokenizers.Tokenizer.from_str(content.decode())
    library.encode_special_tokens = True  # despite its name, it encodes special tokens in the text as plain text
    library.no_truncation()
    library.no_padding()
    pieces = library.get_vocab(with_added_tokens=False)
    added = library.get_added_tokens_decoder()
    splitting = list(_parts([_state(library.normalizer), _state(library.pre_tokenizer)]))
    byte_level = any(part["type"] == "ByteLevel" for part in splitting)
    normalized_to_letters = any(part["type"] == "ByteLevel" for part in _parts(_state(library.normalizer)))
    has_bytes = byte_level or bool(definition["model"].get("byte_fallback"))
    if fault := next(_faults(library, splitting, pieces, has_bytes), None):
        raise ValueError(f"tokenizer {spec}: {fault}")
    single = _BYTE_LETTERS if byte_level else {piece: value[0] for piece, value in base.BYTE_PIECES.items()}
    base.refuse_missing_bytes(spec, {single[piece] for piece in single.keys() & pieces.keys()})
    to_bytes = _bytes_of_letters if byte_level else _bytes_of_text
    tokens = {token_id: to_bytes(piece) for piece, token_id in pieces.items()}
    for token_id, token in added.items():
        if token.special or tokens.get(token_id) is None:
            tokens[token_id] = token.content.encode()
    special = {token.content: token_id for token_id, token in added.items() if token.special}
    token_bytes = base.by_id(spec, tokens)
    prefixed = any(part.get("add_prefix_space") for part in splitting)

    def encode(texts: list[str], num_threads: int) -> list[list[int]]:
        batches = [[text] for text in texts] if num_threads == 1 else [texts]
        return [
            encoding.ids for batch in batches for encoding in library.encode_batch_fast(batch, add_special_tokens=False)
        ]

    def other_forms(text: str) -> Iterable[str]:
        written = library.normalizer.normalize_str(text) if library.normalizer else text
        if byte_level:
            if normalized_to_letters:
                written = (_bytes_of_letters(written) or b"").decode()
            return (written, " " + written) if prefixed else (written,)
        return base.with_spaces(written)

    tokenizer = base.assemble(
        spec,
        base.label(path),
        token_bytes=token_bytes,
        special=special,
        rules=_rules(definition),
        encode=encode,
        library_decoded=lambda: _decoded(library, len(token_bytes), frozenset(special.values())),
        other_forms=other_forms,
    )
    return trials.check(tokenizer, (token.content for token in added.values()))


def _rules(definition: dict[str, Any]) -> dict[str, Any]:
    """Returns what decides ids.  Text never becomes a special token, so one with plain flags adds only its id."""
    rules = dict.fromkeys(("normalizer", "pre_tokenizer", "model"))
    rules |= {key: value for key, value in definition.items() if key not in DECORATION}
    added = [token for token in rules.pop("added_tokens", None) or () if not PLAIN_SPECIAL.items() <= token.items()]
    return rules | {"added_tokens": added} if added else rules


def _faults(
    library: tokenizers.Tokenizer, splitting: Iterable[dict[str, Any]], pieces: Mapping[str, int], has_bytes: bool
) -> Iterator[str]:
    """Yields what is known to lose or change text, or to draw ids at random, and what to do about it."""
    model = library.model
    kind = type(model).__name__
    if kind not in ("BPE", "Unigram") or not has_bytes:
        yield f"its ids have no bytes (model {kind}); use a tokenizer that is byte-level or has byte fallback"
    of_id: dict[int, str] = {}
    for piece, token_id in pieces.items():
        if of_id.setdefault(token_id, piece) != piece:
            yield f"its pieces {of_id[token_id]!r} and {piece!r} have one id, {token_id}; download the file again"
    for name in ("dropout", "alpha", "nbest_size"):
        if getattr(model, name, None):
            yield (
                f"it draws ids at random ({name} is {getattr(model, name):g}), so one text has many encodings; set "
                f'"{name}" of the model to null in the file'
            )
    for part in splitting:
        if part["type"] == "Replace" and (part["pattern"], part["content"]) != ({"String": " "}, base.SPACE_MARK):
            # Only rare strings may be replaced, which no trial contains.
            yield (
                f"its normaliser replaces {part['pattern']} by {part['content']!r}, so bits per byte would count the "
                "wrong bytes; use a tokenizer that does not change text"
            )
        if part.get("behavior") == "Removed" and not part.get("invert"):
            yield f"its pre-tokenizer removes {part.get('pattern', 'punctuation')} from text; set another behavior"
    for token_id, token in library.get_added_tokens_decoder().items():
        if of_id.get(token_id, token.content) != token.content:
            yield (
                f"its added token {token.content!r} and its piece {of_id[token_id]!r} have one id, {token_id}; "
                "download the file again"
            )
        if not token.special and (token.lstrip or token.rstrip):
            yield (
                f"its added token {token.content!r} has lstrip or rstrip, so the blanks beside it would be lost; set "
                "both to false in the file"
            )


def _decoded(library: tokenizers.Tokenizer, vocab_size: int, special_ids: frozenset[int]) -> tuple[bytes | None, ...]:
    def one(token_id: int, text: str) -> bytes | None:
        piece = library.id_to_token(token_id)
        if piece is None:
            return None
        if byte := BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return (piece if token_id in special_ids else text).encode()

    texts = library.decode_batch([[token_id] for token_id in range(vocab_size)], skip_special_tokens=False)
    return tuple(map(one, range(vocab_size), texts))


def _bytes_of_letters(piece: str) -> bytes | None:
    """Text never encodes to a piece with a letter outside the alphabet."""
    return bytes(map(_BYTE_LETTERS.get, piece)) if _BYTE_LETTERS.keys() >= set(piece) else None


def _bytes_of_text(piece: str) -> bytes:
    return base.BYTE_PIECES.get(piece) or piece.replace(base.SPACE_MARK, " ").encode()


def _state(component: Any) -> Any:
    """Returns the JSON of a normaliser or pre-tokenizer as the library has read it."""
    return component and json.loads(component.__getstate__())


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if "type" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for child in part:
            yield from _parts(child)


def _byte_level_alphabet() -> dict[str, int]:
    """Returns character -> byte of GPT-2's alphabet: printable Latin-1 maps to itself, the rest follow from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(base.BYTE_SYMBOLS) if value not in printable]
    return {chr(value): value for value in printable} | {chr(0x100 + i): value for i, value in enumerate(others)}


_BYTE_LETTERS = _byte_level_alphabet()
LETTERS = {value: letter for letter, value in _BYTE_LETTERS.items()}  # byte -> its character
