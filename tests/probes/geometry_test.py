"""The metrics of an input embedding's geometry, on cases worked out by hand."""

import numpy as np
import pytest

from kronecker import tokenization
from kronecker.embedding import codec
from kronecker.probes import geometry, subjects, words


@pytest.mark.parametrize(
    ("token", "form"),
    [
        (b" Running", "running"),
        ("\u2581The".encode(), "the"),
        (b"don't,", "don't"),
        (b"--\n", ""),
        (b"", ""),
        ("Ähnlich".encode(), "ähnlich"),
        (b"\xff", "\ufffd"),
        (b"++x", "++x"),  # a symbol, not punctuation
    ],
)
def test_canonical_forms_drop_case_space_and_outer_punctuation(token: bytes, form: str):
    assert words.canonical(token) == form


# The table of examples in the paper's section 2, by hand: equal positions over sqrt(L1 L2).
@pytest.mark.parametrize(
    ("a", "b", "cosine"),
    [
        ("mistake", "mistkae", 5 / 7),
        ("separate", "seperate", 7 / 8),
        ("color", "colour", 4 / 30**0.5),
        ("compute", "commute", 6 / 7),
        ("nation", "notion", 5 / 6),
        ("run", "RUN", 0),
        ("run", " run", 0),
        ("nation", "creation", 0),
        ("", "x", 0),
    ],
)
def test_code_cosines_are_the_papers(a: str, b: str, cosine: float):
    assert geometry.code_cosine(a.encode(), b.encode()) == pytest.approx(cosine)


def test_loose_counts_neighbours_of_another_form():
    assert geometry.loose(["run", "running", "run", "ran"], "run") == 0.5
    assert np.isnan(geometry.loose([], "run"))


def test_a_family_is_the_mean_of_its_words_that_have_a_score():
    families = {"a": ("x", "y", "z"), "b": ("w",)}
    means = geometry.family_means({"x": 0.0, "y": 1.0}, families)
    assert means["a"] == 0.5
    assert np.isnan(means["b"])


def test_anisotropy_of_a_shifted_cloud():
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((4000, 32))
    centred, shifted = geometry.anisotropy(cloud), geometry.anisotropy(cloud + 3.0)
    assert centred.mean_cosine == pytest.approx(0, abs=0.01)
    assert shifted.mean_cosine == pytest.approx(9 / (9 + 1), abs=0.02)  # |mean|^2 / (|mean|^2 + variance), a coordinate
    assert shifted.mean_norm == pytest.approx(3 * 32**0.5, rel=0.01)
    assert shifted.typical_norm == pytest.approx((10 * 32) ** 0.5, rel=0.02)


def test_zero_rows_take_no_part_in_anisotropy_and_one_row_has_none():
    assert geometry.anisotropy(np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])).mean_cosine == pytest.approx(1)
    assert np.isnan(geometry.anisotropy(np.array([[1.0, 0.0]])).mean_cosine)


def test_random_pairs_are_of_two_different_numbers_and_reach_all():
    left, right = geometry.random_pairs(3, 1000).T
    assert (left != right).all()
    assert {*zip(left.tolist(), right.tolist(), strict=True)} == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_pairs_by_spelling_are_what_their_names_say():
    forms = ["nation", "Nation".lower(), "nations", "national", "zebra", "it", "x1y2", ""]
    drawn = geometry.pairs_by_spelling(forms, pairs=50)
    assert drawn["same canonical"].tolist() == [[0, 1]]
    assert drawn["one stem"].tolist() == [[0, 2], [0, 3], [2, 3]]  # 1, 2 and 2 edits apart
    assert {tuple(sorted(pair)) for pair in drawn["unrelated"].tolist()} <= {(0, 4), (2, 4), (3, 4)}
    assert len(drawn["unrelated"]) > 0


def test_pairs_of_a_vocabulary_with_nothing_to_pair_are_none():
    assert [len(pairs) for pairs in geometry.pairs_by_spelling(["word"]).values()] == [0, 0, 0]


def test_jaccard_and_stability():
    assert geometry.jaccard({"a", "b"}, {"b", "c"}) == pytest.approx(1 / 3)
    assert np.isnan(geometry.jaccard((), ()))
    found = {"m": {"run": ["a", "b"]}, "n": {"run": ["b", "c"]}, "o": {"run": ["a", "b"], "more": ["x"]}}
    assert geometry.stability(found) == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


def test_a_part_of_the_probe_counts_either_way_but_nothing_does_not():
    assert geometry.holds_part("blorption", ["option", "blorp"])
    assert geometry.holds_part("run", ["rerun"])
    assert not geometry.holds_part("run", ["", "ran"])


@pytest.fixture(scope="module")
def gpt2() -> tokenization.Tokenizer:
    return tokenization.load("gpt2")


def test_the_codec_finds_spellings_of_a_word_and_leaves_out_itself(gpt2: tokenization.Tokenizer):
    subject = subjects.Codec("codec", gpt2, pos_dim=32)
    (ids,) = subject.nearest(["compute"], 5)
    found = [gpt2.token_bytes[i] for i in ids]
    assert b"compute" not in found
    assert all(geometry.code_cosine(b"compute", token) > 0.5 for token in found)


def test_the_codec_answers_pairs_as_the_dense_codes_do(gpt2: tokenization.Tokenizer):
    pairs = np.random.default_rng(0).integers(0, gpt2.vocab_size, size=(50, 2))
    table = codec.byte_table(gpt2.token_bytes, 16)
    left, right = (codec.dense_code(table, ids, "length") for ids in pairs.T)
    assert subjects.Codec("codec", gpt2, 16).pair_cosines(pairs) == pytest.approx((left * right).sum(axis=1))


def test_the_codecs_mean_vector_is_that_of_the_dense_codes():
    tokens = [b"ab", b"a", b"xyz", None]
    tokenizer = type("Vocabulary", (), {"token_bytes": tokens, "vocab_size": 4})()
    codes = codec.dense_code(codec.byte_table(tokens, 4), np.arange(3), "length")
    found = subjects.Codec("codec", tokenizer, 4).anisotropy()
    assert found.mean_norm == pytest.approx(np.linalg.norm(codes.mean(axis=0)))


def test_a_tables_word_of_several_tokens_is_their_mean_and_none_of_them_is_its_neighbour(gpt2: tokenization.Tokenizer):
    matrix = np.random.default_rng(0).standard_normal((50_304, 8)).astype(np.float32)
    tokens = gpt2.encode_batch(["zebrafish"])[0]
    assert len(tokens) > 1
    matrix[123] = matrix[tokens].mean(axis=0) * 2
    (ids,) = subjects.Table("table", matrix, gpt2).nearest(["zebrafish"], 5)
    assert ids[0] == 123
    assert not set(ids.tolist()) & set(tokens.tolist())


def test_a_table_with_fewer_rows_than_the_tokenizer_has_ids_is_refused(gpt2: tokenization.Tokenizer):
    with pytest.raises(ValueError, match="100 rows, but gpt2 has 50,257 ids; give the tokenizer"):
        subjects.Table("table", np.ones((100, 4)), gpt2)
