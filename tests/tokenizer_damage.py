"""Damages of tokenizer files, each from a seed: other values, parts and bytes in place of those of an intact file."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

NORMALIZERS: list[dict[str, Any]] = [
    *({"type": name} for name in ("NFC", "NFD", "NFKC", "Lowercase", "StripAccents", "Nmt", "ByteLevel")),
    *({"type": "Strip", "strip_left": left, "strip_right": not left} for left in (True, False)),
    *({"type": "Prepend", "prepend": text} for text in ("▁", "x", " ")),
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": "[q0]"}, "content": ""},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False, "lowercase": False},
]
PRE_TOKENIZERS: list[dict[str, Any]] = [
    *({"type": name} for name in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts")),
    *({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
      for prefix in (True, False) for regex in (True, False)),
    *({"type": "Digits", "individual_digits": each} for each in (True, False)),
    *({"type": "Punctuation", "behavior": behavior} for behavior in ("Removed", "Isolated", "Contiguous")),
    {"type": "CharDelimiterSplit", "delimiter": "q"},
    {"type": "FixedLength", "length": 3},
    *({"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": True}
      for mark in "▁_" for scheme in ("always", "first", "never")),
    *({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
      for pattern in ("q", "[^z]", r"\s", r"\d|\s", r"\w+|\W+")
      for behavior in ("Removed", "Isolated", "MergedWithNext", "MergedWithPrevious")
      for invert in (True, False)),
]  # fmt: skip
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
ADDED = [
    {"id": 999, "content": text} | {flag: flag == chosen for flag in FLAGS}
    for text in ("<n>", "ab", " ", "▁▁", "<0x41>", "é", "e\u0301", "Ġ")
    for chosen in (None, *FLAGS)
]
# Values of every type at the borders of what a file may hold.
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 300, 2**24 + 1, 2**31, 2**32, 2**64, 0.5, 1e308, "", "a", " ", "▁", "\n", "é"),
    *("<0x41>", "Ġ", "<|endoftext|>", "\ud800", "(", r"\s+", [], {}, [[]]),
    *(*NORMALIZERS, *PRE_TOKENIZERS[:10], *ADDED[:6]),
]
TEXTS = (
    "",
    "a",
    " ",
    "The quick  brown\tfox:\r\n\n jumps <n> over ab 10,200 zebras; q.e.d. <table> abab ▁▁ x",
    "  <|endoftext|></s> <unk><0x41><n>ab<table> ab<table>ab  ",
    "naïve e\u0301 ﬁ 日本語 हिन्दी 👩‍🚀 \0 \u00a0\u3000 \u2028",
)


def of_json(content: bytes, random_: random.Random) -> bytes:
    """Returns a JSON file with one or two of its nodes removed, replaced, copied from elsewhere, or changed."""
    tree = json.loads(content)
    for _ in range(random_.randint(1, 2)):
        places = list(_places(tree))
        container, key = random_.choice(random_.choice((places[:80], places)))  # most of a file is its vocabulary
        old = container[key]
        match random_.choice((*range(8), 6, 7)):
            case 0:
                del container[key]
            case 1:
                other, its_key = random_.choice(places)
                if its_key in _keys(other):
                    container[key] = copy.deepcopy(other[its_key])
            case 2 if isinstance(old, str):
                container[key] = old[1:] or random_.choice("▁Ġa ")
            case 3 if isinstance(container, list):
                container.insert(key, random_.choice(VALUES))
            case 4 | 5 if not isinstance(old, dict | list):
                container[key] = random_.choice([value for value in VALUES if type(value) is type(old)])
            case 6 if isinstance(tree.get("added_tokens"), list):
                tree["added_tokens"].append(random_.choice(ADDED))
            case 7 if "model" in tree:
                part, kind, parts = random_.choice(
                    (("normalizer", "normalizers", NORMALIZERS), ("pre_tokenizer", "pretokenizers", PRE_TOKENIZERS))
                )
                found = [random_.choice(parts), tree.get(part)]
                random_.shuffle(found)
                tree[part] = {"type": "Sequence", kind: [each for each in found if each]}
            case _:
                container[key] = random_.choice(VALUES)
    return json.dumps(tree).encode()


def of_bytes(content: bytes, random_: random.Random) -> bytes:
    """Returns a file with one to three pieces changed, cut, or doubled."""
    damaged = bytearray(content)
    for _ in range(random_.randint(1, 3)):
        at = random_.randrange(len(damaged) or 1)
        match random_.randrange(8):
            case 0:
                del damaged[at:]
            case 1:
                damaged[at:at] = damaged[at : at + random_.randint(1, 40)]
            case 2:
                del damaged[at : at + random_.randint(1, 40)]
            case _ if damaged:
                damaged[min(at, len(damaged) - 1)] = random_.randrange(256)
    return bytes(damaged)


def _keys(container: Any) -> Any:
    return container if isinstance(container, dict) else range(len(container))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict | list):
        for key in list(_keys(node)):
            yield node, key
            yield from _places(node[key])
