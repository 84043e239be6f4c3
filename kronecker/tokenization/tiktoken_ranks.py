"""tiktoken: rank files, its named encodings, and GPT-2's, whose rank file is part of this package."""

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import tiktoken
from etils import epath

from kronecker.tokenization import base
from kronecker.tokenization.base import BYTE_SYMBOLS, END_OF_TEXT

ASSETS = Path(__file__).parents[1] / "assets"


@dataclasses.dataclass(frozen=True)
class _Encoding:
    """What a rank file lacks: the pattern that splits text before merging, and the special tokens."""

    sha256: str
    pattern: str
    special: Mapping[str, int] | None  # None: only <|endoftext|>, with the id after the last rank


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
    # The three special tokens that Qwen 1 to 3 share.  Its chat tools also apply NFC, which would change bytes of text.
    "qwen": _Encoding(
        sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        pattern=_CL100K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"),
        special={END_OF_TEXT: 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
    ),
}


def shipped_gpt2() -> base.Tokenizer:
    """Returns GPT-2's tokenizer; raises ValueError if this package's rank file is damaged."""
    path = ASSETS / "gpt2.tiktoken"
    content = base.read("gpt2", path)
    if hashlib.sha256(content).hexdigest() != _ENCODINGS["gpt2"].sha256:
        raise ValueError(f"tokenizer gpt2: {path} is damaged (wrong sha256); install kronecker again")
    return _from_content("gpt2", "gpt2", content, _ENCODINGS["gpt2"])


def registered(spec: str, name: str) -> base.Tokenizer:
    """Returns a named encoding of tiktoken; raises ValueError if its rank file is not cached and not downloadable."""
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # of requests: OSError; a wrong hash: ValueError
        raise ValueError(
            f"tokenizer {spec}: its rank file could not be downloaded ({type(error).__name__}); without a network, set "
            "TIKTOKEN_CACHE_DIR to a folder that contains it, or give a rank file as tiktoken:PATH"
        ) from error
    # Not tiktoken's pattern: a release may write it in another, equivalent way, and so change the fingerprint.
    pattern = _ENCODINGS[name].pattern if name in _ENCODINGS else encoding._pat_str
    return _from_encoding(spec, name, encoding, pattern)


def from_file(spec: str, argument: str) -> base.Tokenizer:
    """Returns the tokenizer of a rank file, "PATH" or "PATH@NAME".

    Raises FileNotFoundError if the file does not exist; ValueError if it is no rank file, or is an unknown one without
    @NAME.
    """
    path, _, borrowed = argument.rpartition("@")
    if borrowed not in _ENCODINGS:
        path, borrowed = argument, ""
    content = base.read(spec, path)
    sha256 = hashlib.sha256(content).hexdigest()
    known = next((name for name, encoding in _ENCODINGS.items() if encoding.sha256 == sha256), "")
    name = borrowed or known
    if not name:
        raise ValueError(
            f"tokenizer {spec}: sha256 {sha256[:12]} is not that of {', '.join(_ENCODINGS)}; download the file again "
            f"if it is meant to be one of them, or write tiktoken:{path}@NAME to split text as one of them does"
        )
    if name == known:
        return _from_content(spec, name, content, _ENCODINGS[name])
    return _from_content(spec, epath.Path(path).stem, content, dataclasses.replace(_ENCODINGS[name], special=None))


def from_ranks(
    spec: str, name: str, ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int]
) -> base.Tokenizer:
    """Returns a tokenizer that merges with tiktoken.

    Args:
      ranks: id of each token; lower ids merge first; they may start above 0.
      pattern: the regular expression that splits text before merging.
      special: literal text -> id.

    Raises:
      ValueError: if two tokens have the same rank, a byte has none, or the pattern is no regular expression.
    """
    if len(set(ranks.values())) < len(ranks) or not all(bytes([value]) in ranks for value in range(BYTE_SYMBOLS)):
        raise ValueError(
            f"tokenizer {spec}: a rank file needs distinct ranks and all 256 single bytes; download the file again"
        )
    try:
        library = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=dict(special))
    except ValueError as error:
        raise ValueError(f"tokenizer {spec}: {' '.join(str(error).split())}; download the file again") from error
    return _from_encoding(spec, name, library, pattern)


def _from_content(spec: str, name: str, content: bytes, encoding: _Encoding) -> base.Tokenizer:
    try:
        ranks = {
            base64.b64decode(token, validate=True): int(rank) for token, rank in map(bytes.split, content.splitlines())
        }
    except ValueError as error:
        raise ValueError(f"tokenizer {spec}: not a rank file ({error}); its lines must be 'base64 rank'") from error
    special = encoding.special or {END_OF_TEXT: max(ranks.values(), default=0) + 1}
    return from_ranks(spec, name, ranks, encoding.pattern, special)


def _from_encoding(spec: str, name: str, encoding: tiktoken.Encoding, pattern: str) -> base.Tokenizer:
    def single(token_id: int) -> bytes | None:
        try:
            return encoding.decode_single_token_bytes(token_id)
        except KeyError:
            return None

    return base.assemble(
        spec,
        name,
        token_bytes=tuple(map(single, range(encoding.n_vocab))),
        special={text: encoding.encode_single_token(text) for text in encoding.special_tokens_set},
        rules={"pattern": pattern},  # the vocabulary decides the rest: its ids are the merge ranks
        # Not encode_to_numpy: in tiktoken 0.9 it encodes special tokens in the text as their ids.
        encode=lambda texts, num_threads: encoding.encode_ordinary_batch(texts, num_threads=num_threads),
    )
