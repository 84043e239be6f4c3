"""Bytes, lengths, truncation and collisions."""

from typing import Any

import numpy as np
import pytest

from kronecker import tokenization
from kronecker.embedding import codec, fixed_code
from kronecker.schema import choices


def cosine(first: str, second: str) -> float:
    table = codec.byte_table([first.encode(), second.encode()], 16)
    codes = codec.dense_code(table, np.arange(2), "length")
    return float(codes[0] @ codes[1])


# The paper's published cosines.
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("mistake", "mistkae", 0.714),
        ("separate", "seperate", 0.875),
        ("color", "colour", 0.730),
        ("compute", "commute", 0.857),
        ("run", "RUN", 0.0),
        ("run", " run", 0.0),
    ],
)
def test_raw_cosines_are_the_published_ones(first: str, second: str, expected: float):
    assert cosine(first, second) == pytest.approx(expected, abs=5e-4)


def test_the_unit_code_has_norm_one_and_the_z_code_mean_zero_and_std_one():
    table = codec.byte_table([b"a", b"kronecker", b"x" * 16], 16)
    ids = np.arange(3)
    np.testing.assert_allclose(np.linalg.norm(codec.dense_code(table, ids, "length"), axis=1), 1)
    code = codec.dense_code(table, ids, "z")
    np.testing.assert_allclose(code.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(code.std(axis=1, ddof=1), 1, rtol=1e-4)


def test_the_z_code_divides_by_the_samples_deviation_plus_epsilon():
    (code,) = codec.dense_code(codec.byte_table([b"cab"], 3), np.arange(1), "z")
    unit = np.zeros(3 * codec.CHAR_DIM)
    unit[[3 * ord("c"), 3 * ord("a") + 1, 3 * ord("b") + 2]] = 1 / np.sqrt(3)
    deviation = np.sqrt(((unit - unit.mean()) ** 2).sum() / (len(unit) - 1))
    np.testing.assert_allclose(code, (unit - unit.mean()) / (deviation + codec.Z_NORM_EPS), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["length", "z"])
def test_the_code_of_an_id_without_bytes_is_zero(norm: str):
    assert not codec.dense_code(codec.byte_table([None, b""], 4, padded_vocab=3), np.arange(3), norm).any()


def test_byte_zero_is_not_the_empty_token():
    table = codec.byte_table([b"\0", None, b"\0\0"], 4)
    assert table.lengths.tolist() == [1, 0, 2]
    assert codec.collisions(table) == []


def test_ids_without_bytes_are_reported_with_their_reason():
    table = codec.byte_table([b"a", None, b""], 4, padded_vocab=6)
    assert table.without_bytes == {codec.NO_BYTES: (1,), codec.EMPTY: (2,), codec.PADDING: (3, 4, 5)}


@pytest.mark.parametrize(
    ("token", "pos_dim", "kept"),
    [
        (b"abcdef", 4, b"abcd"),
        (b"abcd", 4, b"abcd"),
        ("abcé".encode(), 4, b"abc"),
        (b"a" + b"\x80" * 9, 5, b"a\x80\x80\x80\x80"),
        ("ab日".encode(), 4, b"ab"),
        ("😀😀".encode(), 4, "😀".encode()),
        ("日本".encode(), 1, b"\xe6"),  # no whole character fits: the token keeps its raw head
        (b"\x80\x81\x82\x83\x84\x85", 4, b"\x80\x81\x82\x83"),  # not UTF-8: raw head, never empty
    ],
)
def test_truncation_keeps_whole_characters_and_never_empties_a_token(token: bytes, pos_dim: int, kept: bytes):
    assert codec.truncate(token, pos_dim) == kept


@pytest.mark.parametrize(
    ("truncation", "pos_dim", "kept"),
    [
        ("head_raw", 4, b"ab\xe6\x97"),
        ("head_raw", 5, "ab日".encode()),
        ("head", 4, b"ab"),
        ("head_tail", 4, b"abyz"),
        ("head_tail", 5, b"ab\xe6yz"),  # the odd byte goes to the head
        ("head_tail", 1, b"a"),
        ("head_tail", 7, "ab日yz".encode()),
    ],
)
def test_each_truncation_keeps_its_bytes_of_a_long_token(truncation: str, pos_dim: int, kept: bytes):
    token = "ab日yz".encode()
    assert codec.truncate(token, pos_dim, truncation) == kept
    assert codec.byte_table([token], pos_dim, truncation=truncation).bytes.tobytes() == kept.ljust(pos_dim, b"\0")


@pytest.mark.parametrize("truncation", choices.TRUNCATIONS)
def test_no_truncation_changes_a_token_that_fits(truncation: str):
    for token in (b"", b"\0", "日本".encode(), b"\xff" * 6, b"abcde\xe6"):
        assert codec.truncate(token, 6, truncation) == token


def test_head_and_tail_tell_long_tokens_apart_by_their_endings():
    tokens = [b" disproportionate", b" disproportionately"]
    assert codec.collisions(codec.byte_table(tokens, 16)) == [(0, 1)]
    assert codec.collisions(codec.byte_table(tokens, 16, truncation="head_tail")) == []


def test_an_unknown_truncation_is_refused():
    message = r"^embedding.truncation is 'tail'; allowed: head, head_raw, head_tail$"
    with pytest.raises(ValueError, match=message):
        codec.byte_table([b"a"], 4, truncation="tail")


def test_decoded_bytes_are_utf8_with_a_replacement_for_every_fragment():
    tokens = [b" a", "日".encode(), b"\xe6\x97", b"\xe6\x97 ", b"\x80\x81", b"\0", b"", None]
    fragment = "\ufffd".encode()
    expected = (b" a", "日".encode(), fragment, fragment + b" ", 2 * fragment, b"\0", b"", None)
    assert tokenization.decoded(tokens) == expected


# On GPT-2 at P = 16 the author's package merges 255 fragments of characters into one code.
def test_gpt2_has_384_colliding_tokens_by_decoded_bytes_and_44_by_raw_bytes():
    token_bytes = tokenization.load("gpt2").token_bytes
    raw, decoded = (codec.collisions(codec.byte_table(b, 16)) for b in (token_bytes, tokenization.decoded(token_bytes)))
    assert sum(map(len, raw)) == 44
    assert (sum(map(len, decoded)), max(map(len, decoded))) == (384, 255)


def test_truncated_ids_and_collision_groups_are_named():
    table = codec.byte_table([b"abcde", b"abcdf", b"abc", b"abcd"], 4)
    assert table.truncated == (0, 1)
    assert codec.collisions(table) == [(0, 1, 3)]


def test_the_summary_counts_what_the_code_cannot_hold():
    table = codec.byte_table([b"abcde", b"abcdf", None, b"ab"], 4, padded_vocab=6)
    assert codec.summary(table) == (
        "codes of 6 ids at P = 4: 2 truncated, 2 share a code with another (1 groups), "
        "1 without bytes (the tokenizer gives none), 2 without bytes (vocabulary padding)"
    )


# At P = 8 a cut that keeps characters whole makes 11 more tokens collide than a raw cut.
@pytest.mark.parametrize(
    ("truncation", "pos_dim", "colliding"),
    [("head", 8, 7582), ("head_raw", 8, 7571), ("head", 16, 44), ("head_raw", 16, 44), ("head", 32, 17)],
)
def test_gpt2_collides_where_it_is_known_to(truncation: str, pos_dim: int, colliding: int):
    table = codec.byte_table(tokenization.load("gpt2").token_bytes, pos_dim, 50304, truncation)
    assert sum(map(len, codec.collisions(table))) == colliding
    assert table.without_bytes == {codec.PADDING: tuple(range(50257, 50304))}


def test_the_fingerprint_follows_the_bytes_and_the_lengths():
    assert codec.byte_table([b"a"], 4).fingerprint == codec.byte_table([b"a"], 4).fingerprint
    assert codec.byte_table([b"a\0"], 4).fingerprint != codec.byte_table([b"a"], 4).fingerprint


@pytest.mark.parametrize(("pos_dim", "bound"), [(0, "least 1"), (-1, "least 1"), (1 << 15, "most 32767")])
def test_a_code_with_no_positions_or_more_than_a_length_counts_is_refused(pos_dim: int, bound: str):
    with pytest.raises(ValueError, match=f"^embedding.pos_dim is {pos_dim}; it must be at {bound}$"):
        codec.byte_table([b"a"], pos_dim)


def test_a_vocabulary_without_ids_is_refused():
    with pytest.raises(ValueError, match=r"^token_bytes is empty; give the bytes of at least one id$"):
        codec.byte_table([], 4)


def test_a_vocabulary_larger_than_the_models_is_refused():
    with pytest.raises(ValueError, match="3 ids but the model's vocabulary has 2"):
        codec.byte_table([b"a", b"b", b"c"], 4, padded_vocab=2)


@pytest.mark.parametrize(
    ("strings", "said"),
    [
        ({b"a": 0}, "is a dict, not a list of bytes"),
        ({b"a": 0}.keys(), "is a dict_keys, not a list of bytes"),
        ({b"a", b"b"}, "is a set, not a list of bytes"),
        (frozenset(), "is a frozenset, not a list of bytes"),
        ("", "is a str, not a list of bytes"),
        (b"ab", "is a bytes, not a list of bytes"),
        (5, "is a int, not a list of bytes"),
        (np.array(5), "is a ndarray, not a list of bytes"),
        (iter([b"a"]), "is a list_iterator, not a list of bytes"),
        ([b"a", 0], "contains the int 0 at 1; give a list with the bytes of each id"),
        (np.arange(3), "contains the int64 .*0.* at 0"),
        ([[b"a"]], "contains the list .* at 0"),
        (["a" * 10**6], f"contains the str '{'a' * 59} at 0;"),
    ],
)
def test_what_is_no_list_of_bytes_is_refused_by_name(strings: Any, said: str):
    with pytest.raises(TypeError, match=f"^token_bytes {said}"):
        codec.byte_table(strings, 4)
    code = fixed_code.kronecker_code(codec.byte_table([b"a"], 4))
    with pytest.raises(TypeError, match=f"^token_bytes {said}"):
        code.for_vocabulary(strings)
    with pytest.raises(TypeError, match=f"^strings {said}"):
        code.encode_bytes(np.zeros((1024, 2)), strings)


def test_lists_tuples_and_arrays_of_bytes_are_the_same_vocabulary():
    strings = [b"a", bytearray(b"bc"), None]
    same = (tuple(strings), np.array(strings, object), dict(enumerate(strings)).values())
    assert {codec.byte_table(one, 4).fingerprint for one in (strings, *same)} == {
        codec.byte_table([b"a", b"bc", b""], 4).fingerprint
    }
