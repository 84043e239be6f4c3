"""Shared by the families of tokenizers: the Tokenizer, its fingerprint, and text that a tokenizer must not change."""

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
IDS_AT_ONCE = 1 << 16  # joined at a time, which bounds memory
SPACE_MARK = "▁"  # U+2581, which stands for a space in byte-fallback vocabularies
BYTE_PIECES = {f"<0x{value:02X}>": bytes([value]) for value in range(BYTE_SYMBOLS)}

# Canonical composition (NFC), which many real tokenizers apply, changes none of it.
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
    """A tokenizer's vocabulary and its encoder.  Pickling stores the spec; unpickling loads it again.

    Byte-level vocabularies keep every byte of a text.  Those that write a space as U+2581 (SentencePiece, Metaspace)
    may prepend one space to a text and treat a U+2581 in it as a space.  A normaliser may compose characters (NFC,
    NFKC); one that changes ORDINARY_TEXT is refused.  `text_bytes` counts the text as encoded: a prepended space adds
    one byte per text, which lowers bits per byte by that share.

    Attributes:
      spec: the argument of `load`.
      name: short, for labels and folder names.
      vocab_size: V, the largest id + 1.
      eot_id: the id that ends a document.
      token_bytes: raw bytes of each id; for a special token its literal text; None for an id without bytes.
      special_ids: ids that ordinary text never encodes to.
      text_bytes: int32 (V,), number of bytes of text per id: 0 for special ids and ids without bytes.
      fingerprint: sha256 of everything that decides how a text is encoded.
    """

    spec: str
    name: str
    eot_id: int
    token_bytes: tuple[bytes | None, ...] = dataclasses.field(repr=False)
    special_ids: frozenset[int] = dataclasses.field(repr=False)
    text_bytes: np.ndarray = dataclasses.field(repr=False)
    fingerprint: str
    _encode: Callable[[list[str], int], list[list[int]]] = dataclasses.field(repr=False)
    _other_forms: Callable[[str], Iterable[str]] = dataclasses.field(repr=False)
    _bytes: np.ndarray = dataclasses.field(repr=False)  # of all ids, joined
    _sizes: np.ndarray = dataclasses.field(repr=False)  # of each id, and where it starts there
    _starts: np.ndarray = dataclasses.field(repr=False)
    _decoded: Callable[[], tuple[bytes | None, ...]] = dataclasses.field(repr=False)

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    def encode_batch(self, texts: list[str], num_threads: int = 0) -> list[np.ndarray]:
        """Returns the ids, uint32 (tokens,), of each text, without special ids.

        `num_threads`: 0 means one per core.  The `tokenizers` library has its own pool: any value but 1 uses all of it.
        """
        return [np.array(ids, np.uint32) for ids in self._encode(texts, num_threads or os.cpu_count() or 1)]

    def decode(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of `ids`, joined; the inverse of encoding, and not always valid UTF-8."""
        ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        return b"".join(self._joined(ids[at : at + IDS_AT_ONCE]) for at in range(0, len(ids), IDS_AT_ONCE))

    def _joined(self, ids: np.ndarray) -> bytes:
        """Gathers from one array, which takes a third of the time of joining Python's bytes."""
        sizes = self._sizes[ids]
        ends = np.cumsum(sizes)
        places = np.repeat(self._starts[ids] - ends + sizes, sizes)
        places += np.arange(places.size)
        return self._bytes[places].tobytes()

    def check_kept(self, text: str, ids: np.ndarray) -> int:
        """Returns the number of bytes of `text` as encoded, if its `ids` keep it; raises ValueError if they do not.

        They keep it if their bytes, joined, are the text's, or those of one of the other forms named above, and no id
        is special.  The error shows the first difference.
        """
        found = self.decode(ids)
        if found != text.encode():
            self._refuse_difference(text, found)
        if self.text_bytes[ids].sum(dtype=np.int64) != len(found):
            token_id = int(ids[np.isin(ids, sorted(self.special_ids))][0])
            raise ValueError(
                f"tokenizer {self.spec}: text became the special id {token_id} ({self.token_bytes[token_id]!r}), which "
                "counts as no text; use a tokenizer that keeps special ids apart"
            )
        return len(found)

    def _refuse_difference(self, text: str, found: bytes) -> None:
        forms = [form.encode() for form in (text, *self._other_forms(text))]
        if found not in forms:
            same = [_first_difference(form, found) for form in forms]
            at = max(same)
            form = forms[same.index(at)]
            shown = [part[at : at + 20].decode(errors="replace") or "nothing more" for part in (form, found)]
            raise ValueError(
                f"tokenizer {self.spec}: it does not keep text: from byte {at} the text has {shown[0]!r}, its ids "
                f"{shown[1]!r}, so bits per byte would count the wrong bytes; use a tokenizer that does not change text"
            )

    def bytes_from(self, byte_source: str) -> tuple[bytes | None, ...]:
        """Returns the bytes of each id for building codes; None for an id without bytes.

        "raw" returns `token_bytes`.  "decode" returns the bytes that the author's package uses: the byte of a piece
        `<0xNN>`, the literal text of a special token, otherwise the UTF-8 of the library's `decode([id])`.  Decoding
        turns fragments of characters into U+FFFD, and drops the leading space of every token if the tokenizer prepends
        a space, so far more tokens share a code.

        Raises ValueError if the source is unknown.
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
    other_forms: Callable[[str], Iterable[str]] = lambda text: (),
) -> Tokenizer:
    """Returns a Tokenizer.

    Args:
      token_bytes: raw bytes of each id.
      special: literal text -> id of the tokens that text never encodes to.
      rules: JSON of everything except the vocabulary that decides how a text is encoded.
      encode: (texts, threads) -> ids of each text.
      library_decoded: bytes of each id from the library's own decode; None: as a byte-level library decodes.
      other_forms: of a text: what its ids may stand for in its place.

    Raises:
      ValueError: if there is no end-of-text token.
    """
    eot_id = next((special[text] for text in END_OF_TEXT_NAMES if text in special), None)
    if eot_id is None:
        raise ValueError(
            f"tokenizer {spec}: it has no end-of-text token; use one that has one of {' '.join(END_OF_TEXT_NAMES)}"
        )
    special_ids = frozenset(special.values())
    text_bytes = [0 if i in special_ids else len(token or b"") for i, token in enumerate(token_bytes)]
    digest = hashlib.sha256(json.dumps([rules, eot_id, sorted(special_ids)], sort_keys=True).encode())
    for token in token_bytes:
        digest.update(b"none;" if token is None else b"%d:%b;" % (len(token), token))
    sizes = np.array([len(token or b"") for token in token_bytes], np.int64)
    return Tokenizer(
        spec=spec,
        name=name,
        eot_id=eot_id,
        token_bytes=token_bytes,
        special_ids=special_ids,
        text_bytes=np.array(text_bytes, np.int32),
        fingerprint=digest.hexdigest(),
        _encode=encode,
        _other_forms=other_forms,
        _bytes=np.frombuffer(b"".join(filter(None, token_bytes)), np.uint8),
        _sizes=sizes,
        _starts=np.cumsum(sizes) - sizes,
        _decoded=library_decoded or (lambda: decoded(token_bytes)),
    )


def _first_difference(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other))
    unequal = np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size)
    return int(unequal.argmax()) if unequal.any() else size


def with_spaces(text: str) -> tuple[str, str]:
    """Returns the forms of a text whose spaces are written as U+2581: read back, and with one prepended space."""
    read = text.replace(SPACE_MARK, " ")
    return read, " " + read


def refuse_changed_text(tokenizer: Tokenizer) -> None:
    """Raises a ValueError if encoding changes a byte of ORDINARY_TEXT, except for one prepended space."""
    for what, text in ORDINARY_TEXT.items():
        found = tokenizer.decode(tokenizer.encode_batch([text], num_threads=1)[0])
        if found not in (text.encode(), b" " + text.encode()):
            raise ValueError(
                f"tokenizer {tokenizer.spec}: it changes {what}: {text!r} becomes {found.decode(errors='replace')!r}, "
                "so bits per byte would count the wrong bytes; use a tokenizer that does not change text"
            )


def label(path: epath.PathLike) -> str:
    """Returns a short name for a tokenizer's file: its own name, or its folder's, as for NAME/tokenizer.json."""
    path = epath.Path(path)
    name = path.name.removesuffix(".json").removesuffix(".model").removesuffix(".tokenizer")
    return path.absolute().parent.name if name in ("tokenizer", "tekken") else name


def read(spec: str, path: epath.PathLike) -> bytes:
    """Returns a file's content; raises FileNotFoundError if it does not exist, ValueError if it cannot be read."""
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"tokenizer {spec}: {path} does not exist; tokenizer must be {keys.TOKENIZERS.words}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"tokenizer {spec}: {path} cannot be read ({error.strerror}); give a file") from error


def decoded(token_bytes: Sequence[bytes | None]) -> tuple[bytes | None, ...]:
    """Returns the bytes of a byte-level tokenizer's `decode([id])`, which the author's package uses.

    Every part of a token that is not UTF-8 becomes U+FFFD, so all fragments of characters share a few byte strings.
    This is byte_source "decode" of byte-level vocabularies; for byte fallback see `Tokenizer.bytes_from`.
    """
    return tuple(None if token is None else token.decode(errors="replace").encode() for token in token_bytes)
