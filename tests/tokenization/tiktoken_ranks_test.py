"""Long runs of white space, rank files of unknown pattern, named encodings, and wrong ranks."""

import random
import time
from pathlib import Path

import pytest
import tiktoken
from tokenizer_files import tekken_json, write_ranks

from kronecker import tokenization
from kronecker.tokenization import tiktoken_ranks

NAMES = tuple(tiktoken_ranks._ENCODINGS)
WHITE = (" ", "\t", "\n", "\r\n", "\u00a0", "\u3000", " \n", "\t ", "\x1c")
OTHERS = ("a", "B", "1", "!", "'s", "é", "😀", "/", "x1", " x", "ʰ", "don't", "١", "e\u0301")


@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_another_engine_are_those_of_tiktoken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each text has one run or more of white space, alone or mixed, between other text, and no run is long enough to
    make tiktoken fail."""
    path = write_ranks(tmp_path / "mine.tiktoken")
    merges = b"ICA= 256\nCgo= 257\nICAg 258\nDQo= 259\nCSA= 260\nIHg= 261\nIQo= 262\nICAgIA== 263\n"
    path.write_bytes(path.read_bytes() + merges)
    random_ = random.Random(0)
    texts = [
        "".join(random_.choice(random_.choice((WHITE, OTHERS))) * random_.choice((1, 1, 2, 9, 40)) for _ in range(8))
        for _ in range(1000)
    ]
    expected = tokenization.load(f"tiktoken:{path}@{name}").encode_batch(texts)
    monkeypatch.setattr(tiktoken_ranks, "LONG_RUN", 2)
    monkeypatch.setattr(tiktoken_ranks, "KEPT_OF_RUN", 3)
    found = tokenization.load(f"tiktoken:{path}@{name}").encode_batch(texts)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("unit", [" ", "\r\n", " \t\n\u2003"])
def test_a_run_of_white_space_gets_the_same_ids_beyond_tiktokens_limit_as_below(
    unit: str, monkeypatch: pytest.MonkeyPatch
):
    gpt2 = tokenization.load("gpt2")
    below, beyond = (f"x{unit * (size // len(unit))} y" for size in (990_000, 1_200_000))
    (theirs,) = gpt2.encode_batch([below], 1)
    started = time.monotonic()
    (ids,) = gpt2.encode_batch([beyond], 1)
    assert time.monotonic() - started < 20
    assert gpt2.check_kept(beyond, ids) == len(beyond.encode())
    monkeypatch.setattr(tiktoken_ranks, "_has_long_run", lambda text: False)
    assert theirs.tolist() == gpt2.encode_batch([below], 1)[0].tolist()
    middle, more = len(theirs) // 2, len(ids) - len(theirs)
    assert ids[:middle].tolist() == theirs[:middle].tolist()
    assert ids[middle + more :].tolist() == theirs[middle:].tolist()


def test_other_long_runs_are_encoded_in_bounded_time():
    gpt2 = tokenization.load("gpt2")
    text = "\n".join(unit * (100_000 // len(unit)) for unit in ("a", "A", "1", "!", "é", "😀", "你", "\0", "ab ", "'s"))
    started = time.monotonic()
    (ids,) = gpt2.encode_batch([text], 1)
    assert gpt2.check_kept(text, ids) == len(text.encode())
    assert time.monotonic() - started < 20


def test_engines_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch):
    gpt2 = tokenization.load("gpt2")
    monkeypatch.setattr(tiktoken.Encoding, "_encode_single_piece", lambda *_: [0])
    with pytest.raises(
        ValueError, match=r"of white space in a row, .* another engine gives other ids; shorten such runs"
    ):
        gpt2.encode_batch([" " * 600_000], 1)


def test_a_panic_of_a_library_is_an_error_of_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    sizes = {"pattern": r"(?:\S|\s)+(?!z)|.|\n", "default_vocab_size": 268, "default_num_special_tokens": 10}
    tekken = tokenization.load(f"tekken:{tekken_json(tmp_path, config=sizes)}")
    with pytest.raises(ValueError, match=r"^tokenizer tekken:\S+: it cannot encode text \(.*Stack") as raised:
        tekken.encode_batch(["ab" * 600_000], 1)
    assert "\n" not in str(raised.value)
    assert "panicked" in capfd.readouterr().err


def test_a_pattern_that_leaves_out_text_is_refused(tmp_path: Path):
    sizes = {"pattern": r" ?\p{L}+|\s+", "default_vocab_size": 268, "default_num_special_tokens": 10}
    with pytest.raises(ValueError, match="it changes quotation marks and digits"):
        tokenization.load(f"tekken:{tekken_json(tmp_path, config=sizes)}")


def test_an_unknown_rank_file_is_counted_and_encodes_nothing_until_its_pattern_is_stated(tmp_path: Path):
    path = write_ranks(tmp_path / "mine.tiktoken")
    tokenizer = tokenization.load(f"tiktoken:{path}")
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.token_bytes[65]) == ("mine", 257, b"A")
    with pytest.raises(
        ValueError, match=r"sha256 \w{12} is not that of gpt2, .*, llama3, so how it splits .*@NAME to state"
    ):
        tokenizer.check_trainable()
    tokenization.load(f"tiktoken:{path}@llama3").check_trainable()


def test_the_special_tokens_of_llama_3_and_qwen_3_have_their_published_ids():
    llama, qwen = (tiktoken_ranks._ENCODINGS[name].special for name in ("llama3", "qwen3"))
    assert sorted(llama.values()) == list(range(128_000, 128_256))
    assert sorted(qwen.values()) == list(range(151_643, 151_669))
    found = [
        llama[f"<|{name}|>"] for name in ("begin_of_text", "end_of_text", "start_header_id", "eot_id", "python_tag")
    ]
    assert found == [128_000, 128_001, 128_006, 128_009, 128_010]
    assert llama["<|reserved_special_token_247|>"] == 128_255
    assert (qwen["<|im_end|>"], qwen["<tool_call>"], qwen["</think>"]) == (151_645, 151_657, 151_668)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"YWE= 2147483648\n", r"it has 258 ids, from 0 to 2,147,483,649; ids must start at 0 .* leave out at most"),
        (b"YWE= 16777217\n", "from 0 to 16,777,218"),
        (b"YWE= -1\n", "it has 258 ids, from -1 to 256"),
        (b"YWE= 5\n", r"b'\\x05' and b'aa' have one rank, 5"),
        (b"YQ== 300\n", r"not a rank file \(line 257: b'a' has rank 97 already\)"),
        (b"YWE= 1e3\n", "line 257: invalid literal"),
        (b"YWE= " + b"9" * 5000, "line 257: Exceeds the limit"),
        (b"YWE=\n", "line 257: not enough values"),
        (b"\xff\xfe 256\n", "line 257: Only base64 data"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["", "@gpt2"])
def test_a_wrong_rank_is_refused_at_once(line: bytes, message: str, suffix: str, tmp_path: Path):
    path = write_ranks(tmp_path / "mine.tiktoken")
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ValueError, match=message) as raised:
        tokenization.load(f"tiktoken:{path}{suffix}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pattern", ["", r"a*|\s+"])
def test_a_pattern_that_also_matches_no_text_is_refused_before_tiktoken_panics(pattern: str):
    with pytest.raises(ValueError, match=r"tokenizer mine: its pattern '.*' also matches no text; download it again"):
        tiktoken_ranks.from_ranks("mine", "mine", {bytes([value]): value for value in range(256)}, pattern, {})
