"""What the codec report counts, against known counts of real vocabularies, and what its command prints and writes."""

import dataclasses
import functools
import io
import json
import subprocess
from pathlib import Path

import commands
import pytest

from kronecker import tokenization
from kronecker.embedding import codec
from kronecker.probes import vocabulary_coverage
from kronecker.tokenization import writing_systems

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

# Known counts: tokenizer -> ids, % longer than 16 and than 32 bytes, not UTF-8, colliding at P = 8, 16, 32 when tokens
# are cut at P.  Percentages are of ordinary tokens.  Qwen's ids do not count its three special tokens.
KNOWN = {
    "tiktoken:gpt2.tiktoken": (50_257, "0.14", "0.028", 344, 7_571, 44, 17),
    "tiktoken:cl100k_base.tiktoken": (100_277, "0.80", "0.21", 773, 11_918, 356, 205),
    "tiktoken:o200k_base.tiktoken": (200_019, "1.99", "0.13", 1_562, 36_694, 2_072, 176),
    "tiktoken:qwen.tiktoken": (151_643 + 3, "1.26", "0.16", 1_448, 18_562, 749, 205),
    "tekken:tekken_240911.json": (131_072, "0.94", "0.043", 1_435, 21_558, 484, 44),
}


@functools.cache
def load(spec: str) -> tokenization.Tokenizer:
    kind, _, name = spec.partition(":")
    if not (SHARED / "tokenizers" / name).exists():
        pytest.skip(f"needs ../shared/tokenizers/{name}")
    return tokenization.load(f"{kind}:{SHARED / 'tokenizers' / name}")


@functools.cache
def cut_at(spec: str, pos_dim: int) -> vocabulary_coverage.Coverage:
    return vocabulary_coverage.cover(load(spec), pos_dim, "head_raw")


@pytest.fixture(scope="module")
def gpt2() -> vocabulary_coverage.Coverage:
    return vocabulary_coverage.cover(tokenization.load("gpt2"), 16)


@pytest.mark.parametrize("spec", KNOWN)
def test_real_vocabularies_have_their_known_counts(spec: str):
    ids, over_16, over_32, not_utf8, *colliding = KNOWN[spec]
    found = [cut_at(spec, pos_dim) for pos_dim in (8, 16, 32)]
    assert [one.ids for one in found] == [ids] * 3
    assert [one.not_utf8 for one in found] == [not_utf8] * 3
    assert [one.ordinary.colliding for one in found] == colliding
    for one, share in zip(found[1:], (over_16, over_32), strict=True):
        decimals = len(share.partition(".")[2])
        assert f"{100 * (1 - one.ordinary.coverage):.{decimals}f}" == share


def test_mean_coverage_of_six_vocabularies_is_near_the_papers():
    specs = [*KNOWN, "tokenizers:deepseek_v3.tokenizer.json"]
    means = vocabulary_coverage.mean_coverage([cut_at(spec, pos_dim) for spec in specs for pos_dim in (16, 32, 64)])
    assert {p: round(100 * share, 2) for p, share in means.items()} == {16: 99.02, 32: 99.89, 64: 99.96}
    for pos_dim, share in vocabulary_coverage.PAPER_COVERAGE.items():
        assert means[pos_dim] == pytest.approx(share, abs=0.005)


def test_byte_duplicates_of_a_sentencepiece_vocabulary_collide_at_any_length():
    found = vocabulary_coverage.cover(load("sentencepiece:mistral_32000.model"), 64)
    assert (found.ordinary.colliding, found.groups) == (250, 125)
    assert all(len({raw for _, raw in group}) == 1 for group in found.examples)


def test_decoded_bytes_of_a_sentencepiece_vocabulary_merge_words_with_and_without_their_space():
    found = vocabulary_coverage.cover(load("sentencepiece:mistral_32000.model"), 64, byte_source="decode")
    assert found.ordinary.colliding == 10_665
    assert found.without_bytes == {codec.EMPTY: 1}


def small(token_bytes: list[bytes | None], special: frozenset[int] = frozenset()) -> tokenization.Tokenizer:
    return dataclasses.replace(tokenization.load("gpt2"), token_bytes=tuple(token_bytes), special_ids=special)


def test_counts_are_of_ordinary_tokens_and_special_ones_have_their_own_row():
    tokens = [b"abcde", b"abcdf", b"abc", "д".encode(), b"\xff", b"<special>", None]
    found = vocabulary_coverage.cover(small(tokens, frozenset({5})), 4)
    assert found.ordinary == vocabulary_coverage.Count(tokens=5, bytes=16, longest=5, truncated=2, colliding=2)
    assert found.by_script == {
        "Latin": vocabulary_coverage.Count(3, 13, 5, 2, 2),
        "Cyrillic": vocabulary_coverage.Count(1, 2, 2, 0, 0),
        writing_systems.NOT_UTF8: vocabulary_coverage.Count(1, 1, 1, 0, 0),
        vocabulary_coverage.SPECIAL: vocabulary_coverage.Count(1, 9, 9, 1, 0),
    }
    assert (found.ids, found.not_utf8, found.groups) == (7, 1, 1)
    assert found.without_bytes == {codec.NO_BYTES: 1}
    assert found.examples == (((0, b"abcde"), (1, b"abcdf")),)


def test_an_ordinary_token_may_collide_with_a_special_one():
    found = vocabulary_coverage.cover(small([b"<special>", b"<specific>"], frozenset({0})), 4)
    assert (found.ordinary.colliding, found.by_script[vocabulary_coverage.SPECIAL].colliding) == (1, 1)


def test_examples_take_the_scripts_in_turn_and_frequent_tokens_first():
    words = [b"aaaa1", b"aaaa2", b"bbbb1", b"bbbb2", "дома".encode(), "дом".encode(), b"aaaa3"]
    groups = vocabulary_coverage.cover(small(words), 4, examples=9).examples
    assert [[i for i, _ in group] for group in groups] == [[0, 1, 6], [4, 5], [2, 3]]
    assert vocabulary_coverage.cover(small(words), 4, examples=2).examples == groups[:2]


def test_a_tokenizer_without_collisions_has_no_examples():
    found = vocabulary_coverage.cover(small([b"a", b"b"]), 4)
    assert (found.groups, found.examples, found.ordinary.coverage) == (0, (), 1.0)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (" the", "Latin"),
        ("\u00e9", "Latin"),
        ("ｗ", "Latin"),  # full width
        ("1st", "Latin"),
        ("Привет", "Cyrillic"),
        ("हिन्दी", "Devanagari"),
        ("ि", "Devanagari"),  # a vowel sign alone
        ("漢字", "Han"),
        ("々", "Han"),
        ("ひらがな", "Hiragana"),
        ("ー", writing_systems.OTHER_LETTERS),  # common to two scripts
        ("コーヒー", "Katakana"),
        ("한국", "Hangul"),
        ("العربية", "Arabic"),
        ("ไทย", "Thai"),
        ("ᐁ", "Canadian Aboriginal"),
        ("2024.", writing_systems.DIGITS),
        (" \n\t\u00a0", writing_systems.WHITE_SPACE),
        (" ==", writing_systems.SYMBOLS),
        ("😀", writing_systems.SYMBOLS),
        ("\u0301", writing_systems.SYMBOLS),
        ("\0", writing_systems.SYMBOLS),
    ],
)
def test_a_token_belongs_to_the_script_of_its_first_letter(text: str, script: str):
    assert writing_systems.script(text.encode()) == script


def test_bytes_that_are_not_utf8_are_a_class_of_their_own():
    assert writing_systems.script(b"a\xe6\x97") == writing_systems.NOT_UTF8


def test_rows_add_up_to_the_total(gpt2: vocabulary_coverage.Coverage):
    ordinary = [count for name, count in gpt2.by_script.items() if name != vocabulary_coverage.SPECIAL]
    for field in ("tokens", "bytes", "truncated", "colliding"):
        assert sum(getattr(count, field) for count in ordinary) == getattr(gpt2.ordinary, field)
    assert max(count.longest for count in ordinary) == gpt2.ordinary.longest


def test_json_holds_the_counts_with_their_shares(gpt2: vocabulary_coverage.Coverage):
    written = json.loads(json.dumps(vocabulary_coverage.to_json([gpt2])))
    (report,) = written["reports"]
    assert report["ordinary"] == {
        "tokens": 50_256,
        "bytes": gpt2.ordinary.bytes,
        "longest": 128,
        "truncated": 72,
        "colliding": 44,
        "coverage": 1 - 72 / 50_256,
    }
    assert report["by_script"]["Latin"]["tokens"] == 47_004
    assert report["examples"][0][0] == {"id": 1783, "text": "-" * 16}
    assert written["mean_coverage"] == {"16": 1 - 72 / 50_256}


def printed(*found: vocabulary_coverage.Coverage) -> list[str]:
    screen = io.StringIO()
    vocabulary_coverage.show(found, screen)
    return screen.getvalue().splitlines()


def test_the_table_never_rounds_to_all_where_a_token_is_cut():
    tokens = [b"%05d" % i for i in range(50_000)]
    lines = printed(vocabulary_coverage.cover(small([*tokens, b"123456"]), 5))
    assert any("99.99 %" in line for line in lines)
    assert not any("100.00 %" in line for line in lines)


def test_examples_are_readable(gpt2: vocabulary_coverage.Coverage):
    lines = printed(gpt2)
    assert "  1783 '-' x 16   3880 '-' x 32   10097 '-' x 64   19351 '-' x 20   and 3 more" in lines
    assert "  28719 ' disproportionately'   30982 ' disproportionate'" in lines


def test_one_tokenizer_has_no_mean(gpt2: vocabulary_coverage.Coverage):
    assert not any("the paper's six" in line for line in printed(gpt2))


def run(*arguments: str) -> subprocess.CompletedProcess:
    return commands.run("scripts/codec_report.py", *arguments, COLUMNS="40")


def test_the_command_prints_whole_rows_on_a_narrow_screen_and_writes_json(tmp_path: Path):
    done = run("gpt2", "--pos_dim=8,32", "--truncation=head_raw", f"--json={tmp_path / 'report.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("gpt2  ")]
    assert [(row[6], row[-2]) for row in rows] == [("8", "7,571"), ("32", "17")]
    reports = json.loads((tmp_path / "report.json").read_text())["reports"]
    assert [report["ordinary"]["colliding"] for report in reports] == [7571, 17]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt3"], "error: tokenizer is 'gpt3'; it must be one of gpt2, "),
        (["--pos_dim=16,x"], "error: --pos_dim=16,x: give whole numbers, e.g. 16,32"),
        (["--pos_dim=0"], "error: embedding.pos_dim is 0; it must be at least 1"),
        (["--truncation=tail"], "head|head_raw|head_tail"),
        (["--json=tests"], "error: --json=tests is a folder; name a file"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
