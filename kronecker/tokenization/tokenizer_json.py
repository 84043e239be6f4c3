"""tokenizer.json of the tokenizers library: byte-level vocabularies, and those that write a space as U+2581."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tokenizers

from kronecker.tokenization import base

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def from_file(spec: str, path: str) -> base.Tokenizer:
    """Returns the tokenizer of a tokenizer.json.

    Added tokens that are not special are recognised in text, as by the library; their bytes are their own text.

    Raises FileNotFoundError if the file does not exist; ValueError if it is damaged, has no end-of-text token, is
    neither byte-level nor with byte fallback, or changes ordinary text.
    """
    content = base.read(spec, path)
    try:
        definition = json.loads(content)
        library = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        reason = str(error).splitlines()[0]
        raise ValueError(f"tokenizer {spec}: not a tokenizer.json ({reason}); download the file again") from error
    library.encode_special_tokens = True  # despite its name, it encodes special tokens in the text as plain text
    library.no_truncation()
    library.no_padding()
    byte_level = any(
        part["type"] == "ByteLevel" for part in _parts([definition.get("pre_tokenizer"), definition.get("decoder")])
    )
    to_bytes = _raw_bytes_rule(spec, definition, byte_level)
    _refuse_replacements(spec, definition.get("normalizer"))
    tokens = {token_id: to_bytes(token) for token, token_id in library.get_vocab(with_added_tokens=False).items()}
    added = library.get_added_tokens_decoder()
    tokens |= {token_id: token.content.encode() for token_id, token in added.items()}
    special = {token.content: token_id for token_id, token in added.items() if token.special}
    token_bytes = tuple(tokens.get(token_id) for token_id in range(max(tokens) + 1))

    def encode(texts: list[str], num_threads: int) -> list[list[int]]:
        batches = [[text] for text in texts] if num_threads == 1 else [texts]
        return [
            encoding.ids for batch in batches for encoding in library.encode_batch_fast(batch, add_special_tokens=False)
        ]

    def other_forms(text: str) -> Iterable[str]:
        written = library.normalizer.normalize_str(text) if library.normalizer else text
        return (written,) if byte_level else base.with_spaces(written)

    tokenizer = base.assemble(
        spec,
        base.label(path),
        token_bytes=token_bytes,
        special=special,
        rules={key: definition.get(key) for key in ("normalizer", "pre_tokenizer", "model")},
        encode=encode,
        library_decoded=lambda: _decoded(library, len(token_bytes), frozenset(special.values())),
        other_forms=other_forms,
    )
    base.refuse_changed_text(tokenizer)
    return tokenizer


def _decoded(library: tokenizers.Tokenizer, vocab_size: int, special_ids: frozenset[int]) -> tuple[bytes | None, ...]:
    def one(token_id: int, text: str) -> bytes | None:
        piece = library.id_to_token(token_id)
        if piece is None:
            return None
        byte = BYTE_PIECE.fullmatch(piece)
        if byte:
            return bytes.fromhex(byte[1])
        return (piece if token_id in special_ids else text).encode()

    texts = library.decode_batch([[token_id] for token_id in range(vocab_size)], skip_special_tokens=False)
    return tuple(map(one, range(vocab_size), texts))


def _raw_bytes_rule(spec: str, definition: dict[str, Any], byte_level: bool) -> Callable[[str], bytes | None]:
    if byte_level:
        byte_of = _byte_level_alphabet()
        # Text never encodes to a token with a letter outside the alphabet.
        return lambda token: bytes(map(byte_of.get, token)) if byte_of.keys() >= set(token) else None
    if definition["model"].get("byte_fallback") or any(
        part["type"] == "ByteFallback" for part in _parts(definition.get("decoder"))
    ):
        return lambda token: base.BYTE_PIECES.get(token) or token.replace(base.SPACE_MARK, " ").encode()
    raise ValueError(
        f"tokenizer {spec}: its ids have no bytes; use a tokenizer that is byte-level or has byte fallback"
    )


def _refuse_replacements(spec: str, normalizer: Any) -> None:
    """Checks the definition, because a Replace may change only rare strings, which no test text contains."""
    for part in _parts(normalizer):
        if part["type"] == "Replace" and (part["pattern"], part["content"]) != ({"String": " "}, base.SPACE_MARK):
            raise ValueError(
                f"tokenizer {spec}: its normaliser replaces {part['pattern']} by {part['content']!r}, so bits per byte "
                "would count the wrong bytes; use a tokenizer that does not change text"
            )


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
