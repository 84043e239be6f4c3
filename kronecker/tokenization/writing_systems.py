"""The script of a token: the Unicode script of its first letter that has one."""

import functools
import unicodedata

from fontTools import unicodedata as scripts

NOT_UTF8 = "bytes that are not UTF-8"
OTHER_LETTERS = "other letters"
DIGITS, WHITE_SPACE, SYMBOLS = "digits", "white space", "punctuation and symbols"
_WEAK = {WHITE_SPACE: 0, SYMBOLS: 1, DIGITS: 2, OTHER_LETTERS: 3}  # used only if no character has a script
_NO_SCRIPT = ("Zinh", "Zyyy", "Zzzz")  # Unicode's inherited, common and unknown


def script(token: bytes) -> str:
    """Returns the script of a token's first letter, or the kind of its characters if it has no letter."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return max(map(_script_of_character, text), key=lambda name: _WEAK.get(name, len(_WEAK)), default=SYMBOLS)


@functools.cache
def _script_of_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] in "LM":
        code = scripts.script(character)
        if code not in _NO_SCRIPT:
            return scripts.script_name(code)
        return OTHER_LETTERS if kind[0] == "L" else SYMBOLS
    if kind[0] == "N":
        return DIGITS
    return WHITE_SPACE if character.isspace() else SYMBOLS
