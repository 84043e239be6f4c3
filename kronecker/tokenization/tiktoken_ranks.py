"""tiktoken: rank files, its named encodings, and GPT-2's, whose rank file is part of this package."""

import base64
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import regex
import tiktoken
from etils import epath

from kronecker.tokenization import base, trials
from kronecker.tokenization.base import END_OF_TEXT

ASSETS = Path(__file__).parents[1] / "assets"
LONG_RUN = 1 << 19  # characters of white space; tiktoken panics at some 1,000,000, when a stack of its search is full
KEPT_OF_RUN = 1000  # characters at each end of a run, where two engines are compared


@dataclasses.dataclass(frozen=True)
class _Encoding:
    """What a rank file lacks: the pattern that splits text before merging, and the special tokens."""

    sha256: str
    pattern: str
    special: Mapping[str, int]


_CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
_QWEN_PATTERN = _CL100K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN3_SPECIAL = (
    *(END_OF_TEXT, "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
_LLAMA3_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
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
        sha256=_QWEN_SHA256,
        pattern=_QWEN_PATTERN,
        special={END_OF_TEXT: 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
    ),
    # The same ranks with all tokens that Qwen 3 adds, so a file needs @qwen3 to get them.
    "qwen3": _Encoding(
        sha256=_QWEN_SHA256,
        pattern=_QWEN_PATTERN,
        special={text: 151643 + i for i, text in enumerate(_QWEN3_SPECIAL)},
    ),
    # Llama 3 to 3.3, with the names that 3.1 and later use; 3.0 calls more of them reserved.
    "llama3": _Encoding(
        sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
        pattern=_CL100K_PATTERN,
        special={text: 128000 + i for i, text in enumerate(_LLAMA3_SPECIAL)},
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
    return from_ranks(spec, name, encoding._mergeable_ranks, pattern, encoding._special_tokens)


def from_file(spec: str, argument: str) -> base.Tokenizer:
    """Returns the tokenizer of a rank file, "PATH" or "PATH@NAME".

    An unknown file without @NAME encodes no text, because no rank file holds the pattern; its tokens can be counted.

    Raises FileNotFoundError if the file does not exist; ValueError if it is no rank file.
    """
    path, _, stated = argument.rpartition("@")
    if stated not in _ENCODINGS:
        path, stated = argument, ""
    content = base.read(spec, path)
    sha256 = hashlib.sha256(content).hexdigest()
    known = [name for name, encoding in _ENCODINGS.items() if encoding.sha256 == sha256]
    name = stated or next(iter(known), None)
    if name in known:
        return _from_content(spec, name, content, _ENCODINGS[name])
    ranks = _ranks(spec, content)
    special = {END_OF_TEXT: max(ranks.values(), default=-1) + 1}
    own_name = epath.Path(path).stem
    if stated:
        return from_ranks(spec, own_name, ranks, _ENCODINGS[stated].pattern, special)

    def refuse(texts: list[str], num_threads: int) -> list[list[int]]:
        raise ValueError(
            f"sha256 {sha256[:12]} is not that of {', '.join(_ENCODINGS)}, so how it splits text before merging is not "
            "known, and another way gives other ids; download the file again if it is meant to be one of them, or "
            f"write tiktoken:{path}@NAME to state that its own way is that of NAME"
        )

    return base.assemble(spec, own_name, _token_bytes(spec, ranks, special), special, {"pattern": None}, refuse)


def from_ranks(
    spec: str, name: str, ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int]
) -> base.Tokenizer:
    """Returns a tokenizer that merges with tiktoken, lower ids first, after `pattern` has split the text.

    The ids of `ranks` may start above 0; `special` is literal text -> id.  Raises ValueError if two tokens have one
    rank, a byte has none, ids are negative or sparse, or the pattern is no regular expression or leaves out text.
    """
    token_bytes = _token_bytes(spec, ranks, special)
    with contextlib.suppress(regex.error):  # tiktoken's own engine reads some that this one does not
        if regex.search(pattern, ""):
            raise ValueError(f"tokenizer {spec}: its pattern {pattern!r:.200} also matches no text; download it again")
    with base.library_errors(f"tokenizer {spec}: tiktoken refuses it; download the file again"):
        library = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=dict(special))
    # The vocabulary decides the rest: its ids are the merge ranks.
    rules = {"pattern": pattern}
    tokenizer = base.assemble(spec, name, token_bytes, special, rules, functools.partial(_encode, library))
    return trials.check(tokenizer, special)


def _token_bytes(spec: str, ranks: Mapping[bytes, int], special: Mapping[str, int]) -> tuple[bytes | None, ...]:
    tokens = {rank: token for token, rank in ranks.items()}
    if len(tokens) < len(ranks):
        one, rank = next((token, rank) for token, rank in ranks.items() if tokens[rank] != token)
        raise ValueError(
            f"tokenizer {spec}: {one!r} and {tokens[rank]!r} have one rank, {rank}; download the file again"
        )
    base.refuse_missing_bytes(spec, {token[0] for token in ranks if len(token) == 1})
    return base.by_id(spec, tokens | {token_id: text.encode() for text, token_id in special.items()})


def _from_content(spec: str, name: str, content: bytes, encoding: _Encoding) -> base.Tokenizer:
    return from_ranks(spec, name, _ranks(spec, content), encoding.pattern, encoding.special)


def _ranks(spec: str, content: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            token, rank = line.split()
            token = base64.b64decode(token, validate=True)
            if ranks.setdefault(token, int(rank)) != int(rank):
                raise ValueError(f"{token!r} has rank {ranks[token]} already")
        except ValueError as error:
            raise ValueError(
                f"tokenizer {spec}: not a rank file (line {number:,}: {error}); its lines must be 'base64 rank'"
            ) from error
    return ranks


def _encode(library: tiktoken.Encoding, texts: list[str], num_threads: int) -> list[list[int]]:
    long = {i for i, text in enumerate(texts) if _has_long_run(text)}
    short = [text for i, text in enumerate(texts) if i not in long]
    one_by_one = num_threads == 1  # the library would hand each text to a thread, which costs more than a short text
    batch = functools.partial(library.encode_ordinary_batch, num_threads=num_threads)
    encoded = map(library.encode_ordinary, short) if one_by_one else iter(batch(short))
    return [_encode_pieces(library, text) if i in long else next(encoded) for i, text in enumerate(texts)]


def _has_long_run(text: str) -> bool:
    return len(text) > LONG_RUN and any(
        text[at : at + LONG_RUN // 2].isspace() for at in range(0, len(text), LONG_RUN // 2)
    )


def _encode_pieces(library: tiktoken.Encoding, text: str) -> list[int]:
    """Returns the ids of a text with a long run of white space, at which tiktoken's own search for pieces panics.

    Two engines for regular expressions may differ, as by their version of Unicode.  So both are compared on the same
    text with shorter runs.
    """
    pieces = regex.compile(library._pat_str)

    def encode(text: str) -> list[int]:
        return [i for piece in pieces.finditer(text) for i in library._encode_single_piece(piece[0])]

    cut = regex.sub(rf"\s{{{KEPT_OF_RUN},}}", lambda run: run[0][:KEPT_OF_RUN] + run[0][-KEPT_OF_RUN:], text)
    if encode(cut) != library.encode_ordinary(cut):
        raise ValueError(
            f"a text has more than {LONG_RUN // 2:,} characters of white space in a row, at which tiktoken may fail, "
            "and another engine gives other ids; shorten such runs"
        )
    return encode(text)
