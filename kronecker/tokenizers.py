"""Tokenizers: text -> token ids, and the RAW bytes that each id stands for.

`load(spec)` makes one; FORMS lists what a spec can be and is what the command line prints.  The bytes come from the
vocabulary itself, never from `decode`, which replaces every token that is not valid UTF-8.  Text is ordinary text:
"<|endoftext|>" written in a document becomes the ids of those characters, never the special id.
"""

import base64
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from etils import epath

FORMS = {
    "gpt2": "GPT-2's 50,257 ids; ships with this package, needs no network",
    "tiktoken:NAME": "an encoding tiktoken knows, e.g. tiktoken:o200k_base; downloaded once into TIKTOKEN_CACHE_DIR",
    "tiktoken:PATH": "a rank file of gpt2, cl100k_base, o200k_base or qwen, recognised by its sha256",
    "tiktoken:PATH@NAME": "any other rank file: text is split as NAME splits it, <|endoftext|> follows the last rank",
    "tokenizers:PATH": "a tokenizer.json of the tokenizers library, byte-level or with byte fallback",
    "bpe:SIZE": "a byte-level BPE of SIZE ids, trained on the training text when the data are prepared",
}
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>")
ASSETS = Path(__file__).parent / "assets"

BYTE_SYMBOLS = 256
SPACE_MARK = "▁"  # U+2581, how byte-fallback vocabularies write a space


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer's vocabulary and its encoder.  Pickling one stores its spec; unpickling loads it again.

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

    @property
    def vocab_size(self) -> int:
        """Returns V."""
        return len(self.token_bytes)

    @property
    def ids_without_bytes(self) -> tuple[int, ...]:
        """Returns the ids below V that no token has."""
        return tuple(i for i, token in enumerate(self.token_bytes) if token is None)

    def encode_batch(self, texts: list[str], num_threads: int = 0) -> list[np.ndarray]:
        """Returns the ids, uint32 (tokens,), of each text; no special id is among them.

        Args:
          texts: ordinary text.
          num_threads: 0: one a core.  The `tokenizers` library sizes its own pool: any value but 1 means all of it.
        """
        return [np.array(ids, np.uint32) for ids in self._encode(texts, num_threads or os.cpu_count() or 1)]

    def decode(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of `ids`, joined; the inverse of encoding, and not always valid UTF-8."""
        return b"".join(self.token_bytes[i] or b"" for i in ids)

    def __reduce__(self) -> tuple[Callable[[str], "Tokenizer"], tuple[str]]:
        return load, (self.spec,)


def load(spec: str) -> Tokenizer:
    """Returns the tokenizer that `spec` names; see FORMS (all but bpe:SIZE, which data preparation trains first).

    Raises:
      FileNotFoundError: if the file is not there.
      ValueError: if the spec has no known form, or its file is damaged, unknown or without an end-of-text token.
    """
    kind, _, argument = spec.partition(":")
    if spec == "gpt2":
        return _shipped_gpt2()
    if kind == "tiktoken" and argument in tiktoken.list_encoding_names():
        return _registered(spec, argument)
    if kind == "tiktoken" and argument:
        return _rank_file(spec, argument)
    if kind == "tokenizers" and argument:
        return _tokenizer_json(spec, argument)
    raise ValueError(f"tokenizer is {spec!r}; it takes one of {', '.join(FORMS)}")


def train_bpe(texts: Iterable[str], size: int, path: epath.PathLike) -> None:
    """Trains a byte-level BPE and writes its tokenizer.json; the same texts always give the same file.

    Args:
      texts: the training text, in any number of pieces.
      size: ids in all; fewer come out when the text has too few distinct pairs.
      path: the file to write.

    Raises:
      ValueError: if `size` has no room for the 256 bytes and <|endoftext|>.
    """
    if size <= BYTE_SYMBOLS:
        raise ValueError(f"tokenizer is 'bpe:{size}'; SIZE must be at least 257: the 256 bytes and {END_OF_TEXT}")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    bpe.train_from_iterator(texts, trainer)
    epath.Path(path).write_text(bpe.to_str(pretty=True))


@dataclasses.dataclass(frozen=True)
class _Encoding:
    """What a rank file leaves out: how text is split before merging, and the special tokens."""

    sha256: str
    pattern: str
    special: Mapping[str, int] | None  # None: <|endoftext|> alone, after the last rank


_CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_CAPITALS, _O200K_SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_ENCODINGS = {
    "gpt2": _Encoding(
        sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        pattern=r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        special={END_OF_TEXT: 50256},
    ),
    "cl100k_base": _Encoding(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern=_CL100K_PATTERN,
        special={
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": _Encoding(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern=(
            rf"[^\r\n\p{{L}}\p{{N}}]?{_O200K_CAPITALS}*{_O200K_SMALL}+{_O200K_CONTRACTION}"
            rf"|[^\r\n\p{{L}}\p{{N}}]?{_O200K_CAPITALS}+{_O200K_SMALL}*{_O200K_CONTRACTION}"
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        special={END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
    ),
    # The three specials all of Qwen 1 to 3 agree on.  Its chat stacks also apply NFC, which would lose bytes of text.
    "qwen": _Encoding(
        sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        pattern=_CL100K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"),
        special={END_OF_TEXT: 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
    ),
}


def _shipped_gpt2() -> Tokenizer:
    path = ASSETS / "gpt2.tiktoken"
    content = _read("gpt2", path)
    if hashlib.sha256(content).hexdigest() != _ENCODINGS["gpt2"].sha256:
        raise ValueError(f"tokenizer gpt2: {path} is damaged, its sha256 is off; install the package again")
    return _from_ranks("gpt2", "gpt2", content, _ENCODINGS["gpt2"])


def _registered(spec: str, name: str) -> Tokenizer:
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a hash that is off is a ValueError
        raise ValueError(
            f"tokenizer {spec}: its rank file could not be fetched ({type(error).__name__}); without a network set "
            "TIKTOKEN_CACHE_DIR to a folder that holds it or give a rank file, tiktoken:PATH"
        ) from error
    # tiktoken respells its patterns from release to release; a fingerprint must not follow where the splits are equal.
    pattern = _ENCODINGS[name].pattern if name in _ENCODINGS else encoding._pat_str
    return _from_tiktoken(spec, name, encoding, pattern)


def _rank_file(spec: str, argument: str) -> Tokenizer:
    path, _, borrowed = argument.rpartition("@")
    if borrowed not in _ENCODINGS:
        path, borrowed = argument, ""
    content = _read(spec, path)
    sha256 = hashlib.sha256(content).hexdigest()
    known = next((name for name, encoding in _ENCODINGS.items() if encoding.sha256 == sha256), "")
    name = borrowed or known
    if not name:
        raise ValueError(
            f"tokenizer {spec}: sha256 {sha256[:12]} is none of {', '.join(_ENCODINGS)}; fetch the file again if it "
            f"should be, or write tiktoken:{path}@NAME to split text as one of them does"
        )
    if name == known:
        return _from_ranks(spec, name, content, _ENCODINGS[name])
    return _from_ranks(spec, epath.Path(path).stem, content, dataclasses.replace(_ENCODINGS[name], special=None))


def _from_ranks(spec: str, name: str, content: bytes, encoding: _Encoding) -> Tokenizer:
    try:
        ranks = {
            base64.b64decode(token, validate=True): int(rank) for token, rank in map(bytes.split, content.splitlines())
        }
    except ValueError as error:
        raise ValueError(f"tokenizer {spec}: not a rank file, whose lines are 'base64 rank' ({error})") from error
    if len(set(ranks.values())) < len(ranks) or not all(bytes([value]) in ranks for value in range(BYTE_SYMBOLS)):
        raise ValueError(f"tokenizer {spec}: a rank file has one rank a token and all 256 bytes; this one has not")
    special = encoding.special or {END_OF_TEXT: max(ranks.values()) + 1}
    library = tiktoken.Encoding(name, pat_str=encoding.pattern, mergeable_ranks=ranks, special_tokens=dict(special))
    return _from_tiktoken(spec, name, library, encoding.pattern)


def _from_tiktoken(spec: str, name: str, encoding: tiktoken.Encoding, pattern: str) -> Tokenizer:
    def single(token_id: int) -> bytes | None:
        try:
            return encoding.decode_single_token_bytes(token_id)
        except KeyError:
            return None

    return _assemble(
        spec,
        name,
        token_bytes=tuple(map(single, range(encoding.n_vocab))),
        special={text: encoding.encode_single_token(text) for text in encoding.special_tokens_set},
        rules={"pattern": pattern},  # the ids are the merge ranks, so the vocabulary says the rest
        # Not encode_to_numpy: tiktoken 0.9's turns special tokens written in the text into their ids.
        encode=lambda texts, num_threads: encoding.encode_ordinary_batch(texts, num_threads=num_threads),
    )


def _tokenizer_json(spec: str, path: str) -> Tokenizer:
    content = _read(spec, path)
    try:
        definition = json.loads(content)
        library = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer {spec}: not a tokenizer.json ({str(error).splitlines()[0]})") from error
    library.encode_special_tokens = True  # despite its name: special tokens in the text are text
    library.no_truncation()
    library.no_padding()
    to_bytes = _raw_bytes_rule(spec, definition)
    tokens = {token_id: to_bytes(token) for token, token_id in library.get_vocab(with_added_tokens=False).items()}
    added = library.get_added_tokens_decoder()
    tokens |= {token_id: token.content.encode() for token_id, token in added.items()}

    def encode(texts: list[str], num_threads: int) -> list[list[int]]:
        batches = [[text] for text in texts] if num_threads == 1 else [texts]
        return [
            encoding.ids for batch in batches for encoding in library.encode_batch_fast(batch, add_special_tokens=False)
        ]

    rules = {key: definition.get(key) for key in ("normalizer", "pre_tokenizer", "model")}
    return _assemble(
        spec,
        _label(epath.Path(path)),
        token_bytes=tuple(tokens.get(token_id) for token_id in range(max(tokens) + 1)),
        special={token.content: token_id for token_id, token in added.items() if token.special},
        rules=rules,
        encode=encode,
    )


def _label(path: epath.Path) -> str:
    label = path.name.removesuffix(".json").removesuffix(".tokenizer")
    return path.absolute().parent.name if label == "tokenizer" else label  # NAME/tokenizer.json, as the hub has it


def _raw_bytes_rule(spec: str, definition: dict[str, Any]) -> Callable[[str], bytes | None]:
    parts = [definition.get("pre_tokenizer"), definition.get("decoder")]
    if _has_type(parts, "ByteLevel"):
        byte_of = _byte_level_alphabet()
        # A token with a letter outside the alphabet cannot come out of text.
        return lambda token: bytes(map(byte_of.get, token)) if byte_of.keys() >= set(token) else None
    if definition["model"].get("byte_fallback") or _has_type(parts, "ByteFallback"):
        single = {f"<0x{value:02X}>": bytes([value]) for value in range(BYTE_SYMBOLS)}
        return lambda token: single.get(token) or token.replace(SPACE_MARK, " ").encode()
    raise ValueError(
        f"tokenizer {spec}: neither byte-level nor with byte fallback, so ids have no bytes; use one that is"
    )


def _has_type(part: Any, name: str) -> bool:
    if isinstance(part, dict):
        return part.get("type") == name or _has_type(list(part.values()), name)
    return isinstance(part, list) and any(_has_type(child, name) for child in part)


def _byte_level_alphabet() -> dict[str, int]:
    """Returns character -> byte of GPT-2's alphabet: printable Latin-1 stands for itself, the rest follow U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(BYTE_SYMBOLS) if value not in printable]
    return {chr(value): value for value in printable} | {chr(0x100 + i): value for i, value in enumerate(others)}


def _assemble(
    spec: str,
    name: str,
    token_bytes: tuple[bytes | None, ...],
    special: dict[str, int],
    rules: dict[str, Any],
    encode: Callable[[list[str], int], list[list[int]]],
) -> Tokenizer:
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
    )


def _read(spec: str, path: epath.PathLike) -> bytes:
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"tokenizer {spec}: {path} does not exist; it takes one of {', '.join(FORMS)}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"tokenizer {spec}: {path} cannot be read ({error.strerror}); expected a file") from error
