"""Specs, raw bytes per id, ordinary text, fingerprints, and what a bad file says."""

import base64
import hashlib
import inspect
import itertools
import json
import lzma
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers as library

from kronecker import tokenizers

SHARED = Path(__file__).parents[2] / "shared"
RANK_FILES = {"gpt2": 50_257, "cl100k_base": 100_277, "o200k_base": 200_019, "qwen": 151_646}
EOT_IDS = {"gpt2": 50_256, "cl100k_base": 100_257, "o200k_base": 199_999, "qwen": 151_643}
TEXT = "Ünïcode, 日本語, हिन्दी and emoji 👩‍🚀!\n\n\tdef f(x):\r\n        return 'it''s'  \n<|endoftext|> </s> <s>"


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"needs ../shared/{path}")
    return SHARED / path


def shared_spec(name: str) -> str:
    if name == "deepseek_v3":
        return f"tokenizers:{shared('tokenizers/deepseek_v3.tokenizer.json')}"
    return f"tiktoken:{shared(f'tokenizers/{name}.tiktoken')}"


@pytest.fixture(scope="module")
def documents() -> list[str]:
    with lzma.open(shared("corpus/multilingual.jsonl.xz"), "rt") as lines:
        return [json.loads(line)["text"] for line in itertools.islice(lines, 150)]


def byte_fallback_json(folder: Path, **model: object) -> Path:
    vocab = ["<unk>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "▁", "a", "b", "ab", "▁ab"]
    definition = library.Tokenizer(
        library.models.BPE(
            vocab={token: i for i, token in enumerate(vocab)},
            merges=[("a", "b"), ("▁", "ab")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    definition.normalizer = library.normalizers.Replace(" ", "▁")
    definition.add_special_tokens(["<unk>", "</s>"])
    definition.add_tokens(["<table>"])
    for name, value in model.items():
        getattr(definition, name)(value)
    definition.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_gpt2_ships_with_the_package_and_has_the_published_ids():
    gpt2 = tokenizers.load("gpt2")
    assert (gpt2.vocab_size, gpt2.eot_id, gpt2.ids_without_bytes) == (50_257, 50_256, ())
    assert gpt2.encode_batch(["Hello world"])[0].tolist() == [15496, 995]
    assert gpt2.token_bytes[995] == b" world"


def test_the_shipped_gpt2_gives_back_the_bytes_of_source_code_and_of_many_scripts():
    gpt2 = tokenizers.load("gpt2")
    texts = [Path(inspect.__file__).read_text(), "naïve \u00a0 日本語 हिन्दी ไทย 😀\u200d \0\r\n\t<|endoftext|>", ""]
    for text, ids in zip(texts, gpt2.encode_batch(texts), strict=True):
        assert gpt2.decode(ids) == text.encode()
        assert gpt2.text_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("name", [*RANK_FILES, "deepseek_v3"])
def test_the_bytes_of_the_ids_of_real_text_are_the_text(name: str, documents: list[str]):
    tokenizer = tokenizers.load(shared_spec(name))
    for text, ids in zip(documents, tokenizer.encode_batch(documents), strict=True):
        assert tokenizer.decode(ids) == text.encode()
        assert tokenizer.text_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("name", RANK_FILES)
def test_a_known_rank_file_gets_its_own_specials_and_vocabulary_size(name: str):
    tokenizer = tokenizers.load(shared_spec(name))
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id) == (name, RANK_FILES[name], EOT_IDS[name])
    assert tokenizer.token_bytes[tokenizer.eot_id] == b"<|endoftext|>"


def test_the_sixteen_ids_that_cl100k_leaves_out_have_no_bytes():
    tokenizer = tokenizers.load(shared_spec("cl100k_base"))
    assert tokenizer.ids_without_bytes == (100_256, *range(100_261, 100_276))
    assert not tokenizer.text_bytes[list(tokenizer.ids_without_bytes)].any()


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_a_rank_file_encodes_as_tiktokens_own_encoding_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: list[str]
):
    spec = shared_spec(name)
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    shutil.copy(spec.removeprefix("tiktoken:"), tmp_path / hashlib.sha1(url.encode()).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    by_path, by_name = tokenizers.load(spec), tokenizers.load(f"tiktoken:{name}")
    for ours, theirs in zip(by_path.encode_batch(documents), by_name.encode_batch(documents), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert by_path.fingerprint == by_name.fingerprint


def test_qwen_splits_digits_one_by_one():
    qwen = tokenizers.load(shared_spec("qwen"))
    assert [qwen.token_bytes[i] for i in qwen.encode_batch(["12345"])[0]] == [b"1", b"2", b"3", b"4", b"5"]


def test_special_tokens_written_in_a_document_are_text(tmp_path: Path):
    for spec in ("gpt2", f"tokenizers:{byte_fallback_json(tmp_path)}"):
        tokenizer = tokenizers.load(spec)
        (ids,) = tokenizer.encode_batch([TEXT])
        assert not tokenizer.special_ids & set(ids.tolist())
        assert tokenizer.decode(ids) == TEXT.encode()


def test_byte_fallback_vocabularies_give_raw_bytes_and_spaces(tmp_path: Path):
    tokenizer = tokenizers.load(f"tokenizers:{byte_fallback_json(tmp_path)}")
    assert tokenizer.token_bytes[2 + 0xE6] == b"\xe6"
    assert tokenizer.token_bytes[tokenizer.vocab_size - 2] == b" ab"
    assert tokenizer.token_bytes[tokenizer.eot_id] == b"</s>"


def test_added_tokens_that_are_not_special_stand_for_their_text(tmp_path: Path):
    tokenizer = tokenizers.load(f"tokenizers:{byte_fallback_json(tmp_path)}")
    (ids,) = tokenizer.encode_batch(["a<table>b"])
    assert [tokenizer.token_bytes[i] for i in ids] == [b"a", b"<table>", b"b"]
    assert tokenizer.text_bytes[ids].tolist() == [1, 7, 1]


def test_a_tokenizer_json_is_named_after_itself_or_its_folder(tmp_path: Path):
    path = byte_fallback_json(tmp_path)
    shutil.copy(path, tmp_path / "mine.tokenizer.json")
    assert tokenizers.load(f"tokenizers:{path}").name == tmp_path.name
    assert tokenizers.load(f"tokenizers:{tmp_path / 'mine.tokenizer.json'}").name == "mine"


def test_truncation_and_padding_stored_in_a_tokenizer_json_are_ignored(tmp_path: Path):
    tokenizer = tokenizers.load(f"tokenizers:{byte_fallback_json(tmp_path, enable_truncation=4)}")
    assert len(tokenizer.encode_batch(["a" * 100])[0]) == 100


def test_deepseeks_end_of_text_is_found_and_its_literal_bytes_are_kept():
    tokenizer = tokenizers.load(shared_spec("deepseek_v3"))
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (129_280, 1)
    assert tokenizer.token_bytes[1] == "<｜end▁of▁sentence｜>".encode()


@pytest.mark.parametrize("kind", ["gpt2", "tokenizers"])
def test_the_number_of_threads_does_not_change_the_ids(kind: str, tmp_path: Path):
    tokenizer = tokenizers.load("gpt2" if kind == "gpt2" else f"tokenizers:{byte_fallback_json(tmp_path)}")
    texts = [TEXT[i:] for i in range(40)]
    for one, many in zip(tokenizer.encode_batch(texts, 1), tokenizer.encode_batch(texts), strict=True):
        assert one.tolist() == many.tolist()


def test_a_pickled_tokenizer_comes_back_whole():
    gpt2 = tokenizers.load("gpt2")
    content = pickle.dumps(gpt2)
    assert len(content) < 200
    copy = pickle.loads(content)
    assert (copy.fingerprint, copy.token_bytes) == (gpt2.fingerprint, gpt2.token_bytes)


def write_ranks(path: Path, count: int = 256) -> Path:
    lines = (base64.b64encode(bytes([value])) + b" %d\n" % value for value in range(count))
    path.write_bytes(b"".join(lines))
    return path


def test_an_unknown_rank_file_borrows_a_known_pattern(tmp_path: Path):
    path = write_ranks(tmp_path / "mine.tiktoken")
    tokenizer = tokenizers.load(f"tiktoken:{path}@cl100k_base")
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id) == ("mine", 257, 256)
    assert tokenizer.decode(tokenizer.encode_batch([TEXT])[0]) == TEXT.encode()


def test_the_fingerprint_follows_the_pattern_and_the_file(tmp_path: Path):
    gpt2_copy = shutil.copy(tokenizers.ASSETS / "gpt2.tiktoken", tmp_path / "other_name.tiktoken")
    assert tokenizers.load(f"tiktoken:{gpt2_copy}").fingerprint == tokenizers.load("gpt2").fingerprint
    names = ("gpt2", "cl100k_base", "o200k_base", "qwen")
    assert len({tokenizers.load(f"tiktoken:{gpt2_copy}@{name}").fingerprint for name in names}) == len(names)


def test_without_a_network_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # the discard port: refused at once
    with pytest.raises(ValueError, match=r"^tokenizer tiktoken:p50k_base: .*TIKTOKEN_CACHE_DIR.*tiktoken:PATH$"):
        tokenizers.load("tiktoken:p50k_base")


@pytest.mark.parametrize("spec", ["", "gpt3", "gpt2:x", "tiktoken:", "tokenizers", "sentencepiece:a.model"])
def test_a_spec_of_no_known_form_lists_the_forms(spec: str):
    with pytest.raises(ValueError, match=r"takes one of gpt2, tiktoken:NAME, tiktoken:PATH, .*bpe:SIZE$"):
        tokenizers.load(spec)


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_a_missing_file_is_named(kind: str):
    with pytest.raises(FileNotFoundError, match=r"^tokenizer \w+:nowhere/x\.json: nowhere/x\.json does not exist"):
        tokenizers.load(f"{kind}:nowhere/x.json")


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (b"IQ== 0\n", "tiktoken:{}", "sha256 .* is none of gpt2, cl100k_base, o200k_base, qwen"),
        (b"\x00\xff\n", "tiktoken:{}@gpt2", "not a rank file, whose lines are 'base64 rank'"),
        (b"IQ== 0\n", "tiktoken:{}@gpt2", "all 256 bytes; this one has not"),
        (b'{"model": ', "tokenizers:{}", "not a tokenizer.json"),
        (b'{"model": {"type": "BPE"}}', "tokenizers:{}", "not a tokenizer.json"),
        (b"\xff\xfe", "tokenizers:{}", "not a tokenizer.json"),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected(content: bytes, spec: str, message: str, tmp_path: Path):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        tokenizers.load(spec.format(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read"):
        tokenizers.load(f"tokenizers:{tmp_path}")


def test_a_damaged_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = (tokenizers.ASSETS / "gpt2.tiktoken").read_bytes()
    (tmp_path / "gpt2.tiktoken").write_bytes(content[:-10])
    monkeypatch.setattr(tokenizers, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        tokenizers.load("gpt2")


def test_a_vocabulary_without_an_end_of_text_is_refused(tmp_path: Path):
    definition = library.Tokenizer(library.models.BPE(vocab={"a": 0}, merges=[]))
    definition.pre_tokenizer = library.pre_tokenizers.ByteLevel()
    definition.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="no special token ends a text; it needs one of"):
        tokenizers.load(f"tokenizers:{tmp_path / 't.json'}")


def test_a_vocabulary_whose_tokens_have_no_bytes_is_refused(tmp_path: Path):
    definition = library.Tokenizer(library.models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    definition.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="neither byte-level nor with byte fallback"):
        tokenizers.load(f"tokenizers:{tmp_path / 't.json'}")


TRAIN = """
import pathlib, sys
from kronecker import tokenizers
texts = [p.read_text() for p in sorted(pathlib.Path(pathlib.__file__).parent.glob("[a-d]*.py"))]
tokenizers.train_bpe(texts, 1000, sys.argv[1])
"""


def train_in_a_process(path: Path, threads: int) -> bytes:
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-c", TRAIN, str(path)], env=environment, check=True)
    return path.read_bytes()


def test_training_a_bpe_is_deterministic_for_any_number_of_threads(tmp_path: Path):
    one, two = (train_in_a_process(tmp_path / f"{threads}.json", threads) for threads in (1, 2))
    assert one == two


def test_a_trained_bpe_round_trips_and_has_the_size_asked_for(tmp_path: Path):
    path = tmp_path / "bpe.json"
    tokenizers.train_bpe([Path(__file__).read_text()], 400, path)
    tokenizer = tokenizers.load(f"tokenizers:{path}")
    assert tokenizer.vocab_size == 400
    assert tokenizer.token_bytes[tokenizer.eot_id] == b"<|endoftext|>"
    assert tokenizer.decode(tokenizer.encode_batch([TEXT])[0]) == TEXT.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["bpe.json"]


def test_a_bpe_too_small_for_the_bytes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"bpe:256.*at least 257"):
        tokenizers.train_bpe(["a"], 256, tmp_path / "bpe.json")
