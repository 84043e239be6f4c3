"""Misspelled prompts: one typo in one word of a prompt, made by a named operator, the same on every machine.

    transpose   two neighbouring letters change places        mistake -> mistkae
    drop        a letter is left out                          mistake -> mistke
    double      a letter is written twice                     mistake -> misttake
    neighbour   a letter becomes a key beside its own         mistake -> misrake
    vowel       a vowel becomes another vowel                 mistake -> misteke

The typo is in the prompt's longest word, the first of equals: it is seldom a function word, so its meaning matters to
what follows.  The last word of a prompt never has a typo: both prompts then end in the same letters, and a difference
at the last position comes from the context.  Words under SHORTEST letters have none: one typo turns many of them into
other words.  A word's first and last letters stay: misspellings rarely concern the first, and the last makes other
forms of the word.  No word list is checked: in about one of our prompts in two hundred the result is another word.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable

SHORTEST = 5
VOWELS = "aeiou"
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each row begins half a key to the right of the one above
WORD = re.compile("[A-Za-z]+")


# Each returns a word with one typo, every way that changes it.
OPERATORS: dict[str, Callable[[str], list[str]]] = {
    "transpose": lambda word: _different(
        word, (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in _inner(word)[:-1])
    ),
    "drop": lambda word: _different(word, (word[:i] + word[i + 1 :] for i in _inner(word))),
    "double": lambda word: _different(word, (word[: i + 1] + word[i:] for i in _inner(word))),
    "neighbour": lambda word: _replaced(word, _NEIGHBOURS),
    "vowel": lambda word: _replaced(word, {letter: VOWELS.replace(letter, "") for letter in VOWELS}),
}


def misspell(prompt: str, operator: str, seed: int) -> str:
    """Returns `prompt` with one typo of `operator`, drawn by a hash of the three arguments.

    Another seed gives another typo in the same word.  Raises ValueError if there is no such operator, or no word that
    it can misspell.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator is {operator!r}; allowed: {', '.join(OPERATORS)}")
    words = [match for match in list(WORD.finditer(prompt))[:-1] if len(match.group()) >= SHORTEST]
    for match in sorted(words, key=lambda match: -len(match.group())):
        typo = misspell_word(match.group(), operator, seed, prompt)
        if typo:
            return prompt[: match.start()] + typo + prompt[match.end() :]
    raise ValueError(
        f"{operator} can misspell no word of {prompt!r}; "
        f"before its last word a prompt needs a word of at least {SHORTEST} letters"
    )


def misspell_word(word: str, operator: str, seed: int, context: str = "") -> str:
    """Returns `word` with one typo of `operator`, drawn by a hash of all arguments; empty if it has none."""
    candidates = OPERATORS[operator](word)
    digest = hashlib.sha256(f"{seed}|{operator}|{word}|{context}".encode()).digest()
    return candidates[int.from_bytes(digest[:8]) % len(candidates)] if candidates else ""


def _inner(word: str) -> range:
    return range(1, len(word) - 1)


def _different(word: str, typos: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(typo for typo in typos if typo != word))


def _replaced(word: str, replacements: dict[str, str]) -> list[str]:
    made = []
    for i in _inner(word):
        for other in replacements.get(word[i].lower(), ""):
            made.append(word[:i] + (other.upper() if word[i].isupper() else other) + word[i + 1 :])
    return made


def _neighbours() -> dict[str, str]:
    found = {letter: set() for row in KEYBOARD for letter in row}
    for upper, row in enumerate(KEYBOARD):
        pairs = list(itertools.pairwise(row))
        if upper + 1 < len(KEYBOARD):
            below = KEYBOARD[upper + 1]
            pairs += [*zip(row, below, strict=False), *zip(row[1:], below, strict=False)]
        for a, b in pairs:
            found[a].add(b)
            found[b].add(a)
    return {letter: "".join(sorted(others)) for letter, others in found.items()}


_NEIGHBOURS = _neighbours()
