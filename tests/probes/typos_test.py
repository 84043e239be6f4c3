"""Typos: what each operator makes of a word, which word is hit; the pairs: how many, how different, how repeatable."""

import collections
import hashlib
import json
import re
from pathlib import Path

import pytest

from kronecker import tokenization
from kronecker.probes import prompts, typos

GOLDEN = "b9ad76ad1460"  # of our pairs under seed 0; another value makes results of different versions incomparable


@pytest.mark.parametrize(
    ("operator", "word", "expected"),
    [
        ("transpose", "abcde", ["acbde", "abdce"]),
        ("transpose", "letter", ["lteter", "letetr"]),  # the two t are no typo
        ("drop", "letter", ["ltter", "leter", "lettr"]),
        ("double", "letter", ["leetter", "lettter", "letteer"]),
        ("vowel", "cat", ["cet", "cit", "cot", "cut"]),
        ("vowel", "cAt", ["cEt", "cIt", "cOt", "cUt"]),
        ("vowel", "rhythm", []),
        ("neighbour", "aqa", ["aaa", "awa"]),
        ("neighbour", "aga", ["aba", "afa", "aha", "ata", "ava", "aya"]),
    ],
)
def test_an_operator_makes_every_typo_of_its_kind_of_the_inner_letters(operator: str, word: str, expected: list[str]):
    assert typos.OPERATORS[operator](word) == expected


@pytest.mark.parametrize("operator", typos.OPERATORS)
@pytest.mark.parametrize("word", ["", "a", "it", "Strengths", "aaaaaa"])
def test_no_operator_leaves_a_word_as_it_was_or_touches_its_ends(operator: str, word: str):
    made = typos.OPERATORS[operator](word)
    assert word not in made
    assert len(made) == len(set(made))
    assert all((typo[0], typo[-1]) == (word[0], word[-1]) for typo in made)


def test_the_neighbours_of_a_key_have_it_for_a_neighbour():
    near = typos._NEIGHBOURS
    assert len(near) == 26
    assert all(a in near[b] and a != b for a in near for b in near[a])
    assert set(near["s"]) == set("adwezx")


def hit(prompt: str, operator: str = "drop", seed: int = 0) -> tuple[str, str]:
    """Returns the one word that a typo changed and what it became."""
    before, after = (re.findall("[A-Za-z]+", text) for text in (prompt, typos.misspell(prompt, operator, seed)))
    (change,) = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    return change


def test_the_longest_word_is_hit_and_the_first_of_equals_but_never_the_last():
    assert hit("The table is under the enormous lamp")[0] == "enormous"
    assert hit("Green and black paint")[0] == "Green"
    assert hit("These people live in Constantinople")[0] == "people"


def test_a_shorter_word_is_hit_where_the_operator_cannot_change_the_longest():
    assert hit("The rhythms of music are old", "vowel")[0] == "music"


@pytest.mark.parametrize("prompt", ["", "Constantinople", "The cat sat on the refrigerator"])
def test_a_prompt_without_a_word_to_hit_is_refused(prompt: str):
    with pytest.raises(ValueError, match=r"drop can misspell no word of .* at least 5 letters"):
        typos.misspell(prompt, "drop", 0)


def test_an_operator_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="operator is 'swap'; allowed: transpose, drop,"):
        typos.misspell("The enormous lamp", "swap", 0)


def test_another_seed_draws_another_typo_of_the_same_word():
    drawn = {hit("The enormous lamp", "neighbour", seed) for seed in range(20)}
    assert {word for word, _ in drawn} == {"enormous"}
    assert len(drawn) > 5


def test_our_pairs_are_330_in_11_categories_and_differ_in_one_word():
    pairs = prompts.pairs()
    assert collections.Counter(pair.category for pair in pairs) == dict.fromkeys(prompts.clean_prompts(), 30)
    assert len(prompts.clean_prompts()) == 11
    assert len({pair.clean for pair in pairs}) == len({pair.typo for pair in pairs}) == 330
    for pair in pairs:
        assert hit(pair.clean, pair.operator)[1] in pair.typo
        assert pair.clean.rsplit(" ", 1)[-1] == pair.typo.rsplit(" ", 1)[-1] or pair.category == "code"


def test_every_operator_is_as_frequent_in_each_category():
    count = collections.Counter((pair.category, pair.operator) for pair in prompts.pairs())
    assert len(count) == 11 * 5
    assert set(count.values()) == {6}


def test_our_pairs_are_the_golden_ones_and_those_of_another_seed_are_others():
    pairs, others = prompts.pairs(), prompts.pairs(seed=1)
    assert hashlib.sha256(repr([pair.typo for pair in pairs]).encode()).hexdigest()[:12] == GOLDEN
    assert [pair.clean for pair in pairs] == [pair.clean for pair in others]
    same = sum(a.typo == b.typo for a, b in zip(pairs, others, strict=True))
    assert same < 120  # a short word has few typos


def test_both_prompts_of_a_pair_end_in_the_same_token_and_are_short():
    tokenizer = tokenization.load("gpt2")
    for pair in prompts.pairs():
        clean, typo = tokenizer.encode_batch([pair.clean, pair.typo])
        assert clean[-1] == typo[-1]
        assert max(len(clean), len(typo)) < 32


def written(folder: Path, content: object) -> Path:
    file = folder / "pairs.json"
    file.write_text(json.dumps(content))
    return file


ENTRY = {"category": "a", "clean": "The clean one", "typo": "The claen one"}


@pytest.mark.parametrize("content", [[ENTRY], {"seed": 1, "prompt_pairs": [ENTRY | {"kl": 0.1}]}])
def test_pairs_are_read_from_a_list_and_from_a_result_file(tmp_path: Path, content: object):
    assert prompts.read_pairs(written(tmp_path, content)) == [prompts.Pair("a", "The clean one", "The claen one")]


def test_an_operator_in_a_file_is_read(tmp_path: Path):
    (pair,) = prompts.read_pairs(written(tmp_path, [ENTRY | {"operator": "transpose"}]))
    assert pair.operator == "transpose"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no prompt pairs"),
        ({"pairs": [ENTRY]}, "no prompt pairs"),
        ("text", "no prompt pairs"),
        ([ENTRY, {"clean": "x", "typo": ""}], "pair 1: category and typo must be non-empty text"),
        ([["a", "b", "c"]], "pair 0: category and clean and typo must be non-empty text"),
        ([ENTRY | {"typo": ENTRY["clean"]}], "pair 0 has the same text twice, 'The clean one'"),
        ([ENTRY, ENTRY | {"typo": "caf\ud83d"}], "pair 1 has half of a surrogate pair, which is no character"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path: Path, content: object, message: str):
    with pytest.raises(ValueError, match=message):
        prompts.read_pairs(written(tmp_path, content))


@pytest.mark.parametrize(
    "content", [b"{", b"", b"[" * 10**5, json.dumps([ENTRY]).encode("utf-16"), b'["\xff"]', b"NaN"]
)
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "pairs.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"pairs\.json(: no prompt pairs| is not JSON in UTF-8 \()"):
        prompts.read_pairs(tmp_path / "pairs.json")


def test_groups_keep_the_order_and_leave_out_what_is_not_known():
    pairs = [prompts.Pair("b", "x", "y", "drop"), prompts.Pair("a", "x", "y"), prompts.Pair("b", "x", "y", "vowel")]
    assert list(prompts.groups(pairs, "category").items()) == [("b", [0, 2]), ("a", [1])]
    assert prompts.groups(pairs, "operator") == {"drop": [0], "vowel": [2]}
