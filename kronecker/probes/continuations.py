"""Whether a continuation repeats itself, and prompts with slots for words, misspellings or unseen strings (6.12)."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from kronecker import tokenization
from kronecker.probes import typos

TEMPLATES = pathlib.Path(__file__).parents[1] / "assets" / "generation.json"
SLOT = "{}"
FEWEST = 3  # occurrences of an n-gram that counts as repeated


def degenerate(ids: Sequence[int]) -> bool:
    """Returns whether a continuation repeats itself.

    It does if an n-gram of ids, of any n, occurs FEWEST times or more without overlap and so covers more than half of
    the continuation.  The paper flags degenerate repetition without giving its rule; this rule is ours.
    """
    for n in range(1, len(ids) // FEWEST + 1):
        count: dict[tuple[int, ...], int] = {}
        free: dict[tuple[int, ...], int] = {}  # where its next occurrence may begin
        for start in range(len(ids) - n + 1):
            gram = tuple(ids[start : start + n])
            if start >= free.get(gram, 0):
                count[gram], free[gram] = count.get(gram, 0) + 1, start + n
        most = max(count.values())
        if most >= FEWEST and 2 * most * n > len(ids):
            return True
    return False


def echoes(continuation: bytes, strings: Sequence[bytes]) -> bool:
    return any(string.strip() in continuation for string in strings)


@dataclasses.dataclass(frozen=True)
class Template:
    """A prompt with slots."""

    text: str  # a `{}` marks a slot
    words: tuple[str, ...]  # of the slots, one each
    novel: tuple[str, ...]  # strings that are no words, one each

    def __post_init__(self) -> None:
        slots = self.text.count(SLOT)
        if not slots or {len(self.words), len(self.novel)} != {slots}:
            raise ValueError(
                f"{self.text!r} has {slots} slots {SLOT}, {len(self.words)} words and {len(self.novel)} novel strings; "
                "give one word and one novel string for each slot"
            )

    def filled(self, strings: Sequence[str]) -> str:
        parts = self.text.split(SLOT)
        return "".join(part + string for part, string in zip(parts, [*strings, ""], strict=True))

    def misspelled(self, seed: int) -> tuple[str, ...]:
        """Returns the words with a typo each, from the operators in turn.

        Raises ValueError if a word is too short for any typo.
        """
        operators = list(typos.OPERATORS)
        made = []
        for slot, word in enumerate(self.words):
            first = (len(self.text) + slot) % len(operators)
            in_turn = (operators[(first + i) % len(operators)] for i in range(len(operators)))
            found = (typos.misspell_word(word, operator, seed, self.text) for operator in in_turn)
            made.append(next(filter(None, found), ""))
            if not made[-1]:
                raise ValueError(f"{self.text!r}: no operator can misspell {word!r}; give a longer word")
        return tuple(made)

    def around(self, tokenizer: tokenization.Tokenizer) -> tuple[list[list[int]], list[bytes]]:
        """Returns the ids of the text before, between and after the slots, and the novel strings as bytes.

        A space before a slot becomes part of the string, as it is part of a token.  The parts are encoded one by one,
        so a tokenizer that adds a space before every text adds one after every slot.
        """
        *before, last = self.text.split(SLOT)
        strings = [
            (" " if part.endswith(" ") else "").encode() + string.encode()
            for part, string in zip(before, self.novel, strict=True)
        ]
        parts = [part.removesuffix(" ") for part in before] + [last]
        return [ids.tolist() for ids in tokenizer.encode_batch(parts)], strings


def templates() -> list[Template]:
    """Returns our 20 prompts; the paper's are in its author's repository."""
    listed = json.loads(TEMPLATES.read_text(encoding="utf-8"))
    return [Template(entry["text"], tuple(entry["words"]), tuple(entry["novel"])) for entry in listed]
