"""What the families of tokenizers share: the Tokenizer, its fingerprint, and the text that it has to keep as it is."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from kronecker.schema import choices, keys

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>")
BYTE_SYMBOLS = 256
SPACE_MARK = "▁"  # U+2581, how byte-fallback vocabularies write a space
BYTE_PIECES = {f"<0x{value:02X}>": bytes([value]) for value in range(BYTE_SYMBOLS)}

# Canonical composition (NFC) leaves all of it alone, as many real tokenizers apply that.
ORDINARY_TEXT = {
    "spaces": "a b",
    "runs of spaces": "a   b",
    "spaces at the ends": "  a  ",
    "line ends and tabs": "a\n\n\tb\r\nc",
    "capital letters": "From aB to CD",
    "quotation marks and digits": "``a'' 'b' \"c\" 1234",
    "accents and scripts": "naïve Ünï 日本語 हिन्दी ไทย 한국어 العربية 😀",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer's vocabulary and its encoder.  Pickling one stores its spec; unpickling loads it again.

    What encoding keeps: byte-level vocabularies keep every byte of a text.  Those that write a space as U+2581
    (SentencePiece, Metaspace) may put one space in front of a text and read a U+2581 in it as a space.  A normaliser
    may compose characters (NFC, NFKC); one that changes ORDINARY_TEXT is refused.  `text_bytes` counts the text as
    encoded: where a space is put in front, one byte a text too many, and bits per byte come out too low by that share.

    Attributes:
      spec: what `load` made it from.
      name: short, for labels and folder names.
      vocab_size: V, the largest id + 1.
      eot_id: the id that ends a document.
      token_bytes: raw bytes of each id; a special token's are its literal text; None for an id that has none.
      special_ids: ids that ordinary text never encodes to.
      text_bytes: int32 (V,), bytes of text an id stands for: 0 for special ids and ids without bytes.
      fingerprint: sha256 of all that decides which ids a text becomes.
    """

    spec: str
    name: str
    eot_id: int
    token_bytes: tuple[bytes | None, ...] = dataclasses.field(repr=False)
    special_ids: frozenset[int] = dataclasses.field(repr=False)
    text_bytes: np.ndarray = dataclasses.field(repr=False)
    fingerprint: str
    _encode: Callable[[list[str], int], list[list[int]]] = dataclasses.field(repr=False)
    _decoded: Callable[[], tuple[bytes | None, ...]] = dataclasses.field(repr=False)

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    def encode_batch(self, texts: list[str], num_threads: int = 0) -> list[np.ndarray]:
        """Returns the ids, uint32 (tokens,), of each text; no special id is among them.

        `num_threads` of 0 is one a core.  The `tokenizers` library sizes its own pool: any value but 1 means all of it.
        """
        return [np.array(ids, np.uint32) for ids in self._encode(texts, num_threads or os.cpu_count() or 1)]

    def decode(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of `ids`, joined; the inverse of encoding, and not always valid UTF-8."""
        return b"".join(self.token_bytes[i] or b"" for i in ids)

    def bytes_from(self, byte_source: str) -> tuple[bytes | None, ...]:
        """Returns the bytes of each id that a code is built from; None for an id that has none.

        "raw" gives `token_bytes`; "decode" what the author's package takes: the byte of a piece `<0xNN>`, the literal
        text of a special token, else the UTF-8 of the library's `decode([id])`.  That loses fragments of characters in
        U+FFFD, and the leading space of every token where a space is put in front of texts, so that far more tokens
        share a code.

        Raises ValueError if the source is not known.
        """
        if byte_source not in choices.BYTE_SOURCES:
            raise ValueError(f"embedding.byte_source is {byte_source!r}; allowed: {', '.join(choices.BYTE_SOURCES)}")
        return self.token_bytes if byte_source == "raw" else self._decoded()


def assemble(
    spec: str,
    name: str,
    token_bytes: tuple[bytes | None, ...],
    special: dict[str, int],
    rules: dict[str, Any],
    encode: Callable[[list[str], int], list[list[int]]],
    library_decoded: Callable[[], tuple[bytes | None, ...]] | None = None,
) -> Tokenizer:
    """Returns the Tokenizer of what a family read from its file.

    Args:
      token_bytes: raw bytes of each id.
      special: literal text -> id of the tokens that text never encodes to.
      rules: what, beside the vocabulary, decides which ids a text becomes; JSON can hold it.
      encode: texts, threads -> ids of each.
      library_decoded: bytes of each id by the library's own decode; None: as a byte-level library decodes.

    Raises:
      ValueError: if no special token ends a text.
    """
    eot_id = next((special[text] for text in END_OF_TEXT_NAMES if text in special), None)
    if eot_id is None:
        raise ValueError(
            f"tokenizer {spec}: no special token ends a text; it needs one of {' '.join(END_OF_TEXT_NAMES)}"
        )
    special_ids = frozenset(special.values())
    text_bytes = [0 if i in special_ids else len(token or b"") for i, token in enumerate(token_bytes)]
    digest = hashlib.sha256(json.dumps([rules, eot_id, sorted(special_ids)], sort_keys=True).encode())
    for token in token_bytes:
        digest.update(b"none;" if token is None else b"%d:%b;" % (len(token), token))
    return Tokenizer(
        spec=spec,
        name=name,
        eot_id=eot_id,
        token_bytes=token_bytes,
        special_ids=special_ids,
        text_bytes=np.array(text_bytes, np.int32),
        fingerprint=digest.hexdigest(),
        _encode=encode,
        _decoded=library_decoded or (lambda: decoded(token_bytes)),
    )


def refuse_changed_text(tokenizer: Tokenizer) -> None:
    """Raises a ValueError if ORDINARY_TEXT does not come back byte for byte, one space in front aside."""
    for what, text in ORDINARY_TEXT.items():
        found = tokenizer.decode(tokenizer.encode_batch([text], num_threads=1)[0])
        if found not in (text.encode(), b" " + text.encode()):
            raise ValueError(
                f"tokenizer {tokenizer.spec}: it changes {what}: {text!r} becomes {found.decode(errors='replace')!r}, "
                "and bits per byte would count other bytes than the text's; use a tokenizer that keeps text as it is"
            )


def label(path: epath.PathLike) -> str:
    """Returns a short name for a tokenizer's file: its own, or its folder's for NAME/tokenizer.json and the like."""
    path = epath.Path(path)
    name = path.name.removesuffix(".json").removesuffix(".model").removesuffix(".tokenizer")
    return path.absolute().parent.name if name in ("tokenizer", "tekken") else name


def read(spec: str, path: epath.PathLike) -> bytes:
    """Returns a file's content; raises FileNotFoundError if there is none, ValueError if it cannot be read."""
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"tokenizer {spec}: {path} does not exist; it takes {keys.TOKENIZERS.words}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"tokenizer {spec}: {path} cannot be read ({error.strerror}); expected a file") from error


def decoded(token_bytes: Sequence[bytes | None]) -> tuple[bytes | None, ...]:
    """Returns the bytes that a byte-level tokenizer's `decode([id])` gives, as the author's package takes them.

    Every part of a token that is not UTF-8 becomes U+FFFD, so all fragments of characters share a few byte strings.
    This is byte_source "decode" of byte-level vocabularies, whose raw bytes say all there is to know; those with byte
    fallback differ: `Tokenizer.bytes_from` covers both.
    """
    return tuple(None if token is None else token.decode(errors="replace").encode() for token in token_bytes)
