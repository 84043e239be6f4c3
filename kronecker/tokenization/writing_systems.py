"""The script of a token: that of its first letter, from the letter's Unicode name."""

import functools
import unicodedata

NOT_UTF8 = "bytes that are not UTF-8"
OTHER_LETTERS = "other letters"
DIGITS, WHITE_SPACE, SYMBOLS = "digits", "white space", "punctuation and symbols"
_WEAK = {WHITE_SPACE: 0, SYMBOLS: 1, DIGITS: 2, OTHER_LETTERS: 3}  # what decides only where no script does
# First words of Unicode names; a script that is not here is among the other letters.
SCRIPTS = {
    **{name.upper(): name for name in ("Latin", "Greek", "Cyrillic", "Armenian", "Georgian", "Hebrew", "Arabic")},
    **{name.upper(): name for name in ("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu")},
    **{name.upper(): name for name in ("Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Tibetan", "Myanmar")},
    **{name.upper(): name for name in ("Khmer", "Ethiopic", "Hangul", "Hiragana", "Katakana")},
    **dict.fromkeys(("CJK", "IDEOGRAPHIC"), "Han"),
}


def script(token: bytes) -> str:
    """Returns the script of a token's first letter, or what a token without letters is made of."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return max(map(_script_of_character, text), key=_strength, default=SYMBOLS)


@functools.cache
def _script_of_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] in "LM":
        words = unicodedata.name(character, "").replace("-", " ").split()
        named = next((SCRIPTS[word] for word in words if word in SCRIPTS), None)
        return named or (OTHER_LETTERS if kind[0] == "L" else SYMBOLS)
    if kind[0] == "N":
        return DIGITS
    return WHITE_SPACE if character.isspace() else SYMBOLS


def _strength(name: str) -> int:
    return _WEAK.get(name, len(_WEAK))
