"""Tries a tokenizer on texts that it must keep: its definition alone cannot show all that it would change."""

import sys
from collections.abc import Iterable

from kronecker.tokenization import base

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
# Every character of Unicode's first plane, and one of each 256 of the others, in texts of 256 characters.
_SURROGATES = range(0xD800, 0xE000)
_CODES = [code for code in (*range(1 << 16), *range(1 << 16, sys.maxunicode, 256)) if code not in _SURROGATES]
CHARACTERS = tuple("".join(map(chr, _CODES[at : at + 256])) for at in range(0, len(_CODES), 256))
AROUND = "{0}{0} {0}  {0}\t{0}\n{0}a{0}"  # a token at the ends, twice in a row, beside letters and white space


def check(tokenizer: base.Tokenizer, tokens: Iterable[str] = ()) -> base.Tokenizer:
    """Returns the tokenizer; raises ValueError if it changes ordinary text, a character, or one of the `tokens`."""
    for what, text in ORDINARY_TEXT.items():
        found = tokenizer.decode(tokenizer.encode_batch([text], num_threads=1)[0])
        if found not in (text.encode(), b" " + text.encode()):
            raise ValueError(
                f"tokenizer {tokenizer.spec}: it changes {what}: {text!r} becomes {found.decode(errors='replace')!r}, "
                "so bits per byte would count the wrong bytes; use a tokenizer that does not change text"
            )
    texts = [*ORDINARY_TEXT.values(), *CHARACTERS, *map(AROUND.format, [*tokens, "".join(base.BYTE_PIECES)])]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        tokenizer.check_kept(text, ids)
    return tokenizer
