"""Shared by the families of tokenizers: the Tokenizer, its fingerprint, and the form of its errors."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from etils import epath

from kronecker.runtime import storage
from kronecker.schema import choices, keys

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>")
BYTE_SYMBOLS = 256
SPACE_MARK = "▁"  # U+2581, which stands for a space in byte-fallback vocabularies
BYTE_PIECES = {f"<0x{value:02X}>": bytes([value]) for value in range(BYTE_SYMBOLS)}
IDS_AT_ONCE = 1 << 12  # decoded; more do not fit into the processor's cache
MOST_BYTES = 2**27  # of a file; that of 262,000 ids has 2**25
MOST_UNUSED = 1 << 16  # ids without a token: one id of 2^31 in a file would ask for gigabytes


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer's vocabulary and its encoder.  Pickling stores the spec; unpickling loads it again.

    Byte-level vocabularies keep every byte of a text.  Those that write a space as U+2581 (SentencePiece, Metaspace)
    may prepend one space to a text and treat a U+2581 in it as a space; a byte-level file may ask for that space too
    (add_prefix_space).  A normaliser may compose characters (NFC, NFKC).  A tokenizer that changes other text is
    refused when it is loaded; `check_kept` finds what no trial has.  `text_bytes` counts the text as encoded: a
    prepended space adds one byte per text, which lowers bits per byte by that share.

    Attributes:
      spec: the argument of `load`.
      name: short, for labels and folder names.
      vocab_size: V, the largest id + 1.
      end_of_text: data.end_of_text, the text of the special token that ends a document; empty: found by name.
      eot_id: its id; ValueError if there is none.
      token_bytes: raw bytes of each id; for a special token its literal text; None for an id without bytes.
      special_ids: ids that ordinary text never encodes to.
      text_bytes: int32 (V,), number of bytes of text per id: 0 for special ids and ids without bytes.
      rules: JSON of everything except the vocabulary that decides how a text is encoded.
      fingerprint: sha256 of everything that decides how a text is encoded.
    """

    spec: str
    name: str
    token_bytes: tuple[bytes | None, ...] = dataclasses.field(repr=False)
    special_ids: frozenset[int] = dataclasses.field(repr=False)
    text_bytes: np.ndarray = dataclasses.field(repr=False)
    rules: dict[str, Any] = dataclasses.field(repr=False)
    _encode: Callable[[list[str], int], list[list[int]]] = dataclasses.field(repr=False)
    _decoded: Callable[[], tuple[bytes | None, ...]] = dataclasses.field(repr=False)
    _other_forms: Callable[[str], Iterable[str]] = dataclasses.field(repr=False)
    end_of_text: str = ""

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @property
    def eot_id(self) -> int:
        self.check_end()
        return self._eot_id

    def check_end(self) -> None:
        """Raises a ValueError that lists the special tokens if none ends a document."""
        if self._eot_id is None:
            texts = [repr((self.token_bytes[i] or b"").decode()) for i in sorted(self.special_ids)]
            more = f" and {len(texts) - 20:,} more" if len(texts) > 20 else ""
            fault = (
                f"it has no special token {self.end_of_text!r}"
                if self.end_of_text
                else f"it has no end-of-text token, none of {' '.join(END_OF_TEXT_NAMES)}"
            )
            raise ValueError(
                f"tokenizer {self.spec}: {fault}; set --config.data.end_of_text to the text of the special token that "
                f"ends a document; it has: {', '.join(texts[:20]) or 'none'}{more}"
            )

    @functools.cached_property
    def _eot_id(self) -> int | None:
        ids = {self.token_bytes[i]: i for i in self.special_ids}
        names = (self.end_of_text,) if self.end_of_text else END_OF_TEXT_NAMES
        return next(
            (ids[name] for name in (name.encode(errors="surrogatepass") for name in names) if name in ids), None
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        rules = json.dumps([self.rules, self._eot_id, sorted(self.special_ids)], sort_keys=True)
        digest = hashlib.sha256(rules.encode())
        for token in self.token_bytes:
            digest.update(b"none;" if token is None else b"%d:%b;" % (len(token), token))
        return digest.hexdigest()

    def check_trainable(self) -> None:
        """Raises a ValueError if no text can be prepared: it cannot be split, or no id ends a document."""
        self.encode_batch([""])
        self.check_end()

    def encode_batch(self, texts: list[str], num_threads: int = 0) -> list[np.ndarray]:
        """Returns the ids, uint32 (tokens,), of each text, without special ids.

        `num_threads`: 0 means one per core.  The `tokenizers` library has its own pool: any value but 1 uses all of it.

        Raises ValueError if a text holds a lone surrogate, or the library cannot encode it.
        """
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"tokenizer {self.spec}: character {error.start:,} of a text is {text[error.start]!r}, half of a "
                    "surrogate pair, which has no bytes in UTF-8; replace it by U+FFFD"
                ) from error
        with library_errors(f"tokenizer {self.spec}: it cannot encode text"):
            encoded = self._encode(texts, num_threads or os.cpu_count() or 1)
        return [np.array(ids, np.uint32) for ids in encoded]

    def decode(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of `ids`, joined; the inverse of encoding, and not always valid UTF-8."""
        ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        parts = (self._pieces[ids[at : at + IDS_AT_ONCE]].tolist() for at in range(0, len(ids), IDS_AT_ONCE))
        return b"".join(map(b"".join, parts))

    @functools.cached_property
    def _pieces(self) -> np.ndarray:
        """The bytes of each id: to look up many at once in an array takes half the time of doing so in a tuple."""
        return np.array([token or b"" for token in self.token_bytes], object)

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
                f"tokenizer {self.spec}: a text became the special id {token_id}, {self.token_bytes[token_id]!r}, "
                "which counts as no text; use a tokenizer that keeps special ids apart"
            )
        return len(found)

    def _refuse_difference(self, text: str, found: bytes) -> None:
        with library_errors(f"tokenizer {self.spec}: it cannot normalise text"):
            forms = [form.encode() for form in (text, *self._other_forms(text))]
        if found not in forms:
            at, form = max((_first_difference(form, found), form) for form in forms)
            shown = [part[at : at + 20].decode(errors="replace") or "nothing more" for part in (form, found)]
            raise ValueError(
                f"tokenizer {self.spec}: it does not keep text: from byte {at} a text has {shown[0]!r}, its ids have "
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
        if byte_source == "raw":
            return self.token_bytes
        with library_errors(f"tokenizer {self.spec}: it cannot decode its ids"):
            return self._decoded()


def assemble(
    spec: str,
    name: str,
    token_bytes: tuple[bytes | None, ...],
    special: Mapping[str, int],
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
    """
    special_ids = frozenset(special.values())
    text_bytes = [0 if i in special_ids else len(token or b"") for i, token in enumerate(token_bytes)]
    return Tokenizer(
        spec=spec,
        name=name,
        token_bytes=token_bytes,
        special_ids=special_ids,
        text_bytes=np.array(text_bytes, np.int32),
        rules=rules,
        _encode=encode,
        _decoded=library_decoded or (lambda: decoded(token_bytes)),
        _other_forms=other_forms,
    )


def by_id(spec: str, tokens: Mapping[int, bytes | None]) -> tuple[bytes | None, ...]:
    """Returns the bytes of each id, None for one that is left out; raises ValueError if ids are negative or sparse."""
    first, size = min(tokens, default=-1), max(tokens, default=-1) + 1
    if first < 0 or size - len(tokens) > MOST_UNUSED:
        raise ValueError(
            f"tokenizer {spec}: it has {len(tokens):,} ids, from {first:,} to {size - 1:,}; ids must start at 0 or "
            f"above and leave out at most {MOST_UNUSED:,}; download the file again"
        )
    return tuple(map(tokens.get, range(size)))


def refuse_missing_bytes(spec: str, present: Set[int]) -> None:
    """Raises a ValueError that names the byte values for which a vocabulary has no token."""
    if missing := [value for value in range(BYTE_SYMBOLS) if value not in present]:
        names = [f"0x{value:02X}" + (f" ({chr(value)})" if 32 < value < 127 else "") for value in missing]
        shown = " ".join(names[:100])  # 95 are printable
        raise ValueError(
            f"tokenizer {spec}: it has no token for {len(missing)} bytes, so text with them would be lost: {shown}"
            f"{' ...' * (len(names) > 100)}; it needs all 256 single bytes; download the file again, or train it so"
        )


@contextlib.contextmanager
def library_errors(fault: str) -> Iterator[None]:
    """Turns what a tokenizer's library raises into a ValueError of one line.

    A panic of Rust code is no Exception, and its class cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, MemoryError) or not (isinstance(error, Exception) or panic):
            raise
        raise ValueError(f"{fault} ({' '.join(str(error).split())[:500]})") from error


def with_spaces(text: str) -> tuple[str, str]:
    """Returns the forms of a text whose spaces are written as U+2581: read back, and with one prepended space."""
    read = text.replace(SPACE_MARK, " ")
    return read, " " + read


def _first_difference(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other))
    unequal = np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size)
    return int(unequal.argmax()) if unequal.any() else size


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
        return storage.read_whole(path, MOST_BYTES)
    except OSError as error:
        raise ValueError(f"tokenizer {spec}: {path} cannot be read ({error.strerror}); give a file") from error
    except ValueError as error:
        raise ValueError(f"tokenizer {spec}: {error}") from error


def read_json(spec: str, content: bytes, kind: str) -> dict[str, Any]:
    """Returns the object that a file holds; raises ValueError if it holds none, or an object has a key twice."""
    try:
        definition = storage.parsed_json(content)
    except ValueError as error:
        raise ValueError(f"tokenizer {spec}: not a {kind} ({error}); download the file again") from error
    if not isinstance(definition, dict):
        raise ValueError(f"tokenizer {spec}: not a {kind} (it holds no object); download the file again")
    return definition


def decoded(token_bytes: Sequence[bytes | None]) -> tuple[bytes | None, ...]:
    """Returns the bytes of a byte-level tokenizer's `decode([id])`, which the author's package uses.

    Every part of a token that is not UTF-8 becomes U+FFFD, so all fragments of characters share a few byte strings.
    This is byte_source "decode" of byte-level vocabularies; for byte fallback see `Tokenizer.bytes_from`.
    """
    return tuple(None if token is None else token.decode(errors="replace").encode() for token in token_bytes)
