"""Specs, raw bytes per id, ordinary text, fingerprints, and what a bad file says."""

import collections
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
from tokenizer_files import (
    TEKKEN_SIZES,
    byte_fallback_json,
    byte_level_json,
    sentencepiece_model,
    tekken_json,
    write_ranks,
)

from kronecker import tokenization
from kronecker.tokenization import byte_bpe, tiktoken_ranks

SHARED = Path(__file__).parents[3] / "shared"
RANK_FILES = {"gpt2": 50_257, "cl100k_base": 100_277, "o200k_base": 200_019, "qwen": 151_646}
EOT_IDS = {"gpt2": 50_256, "cl100k_base": 100_257, "o200k_base": 199_999, "qwen": 151_643}
FILES = {
    **{name: f"tiktoken:tokenizers/{name}.tiktoken" for name in RANK_FILES},
    "deepseek_v3": "tokenizers:tokenizers/deepseek_v3.tokenizer.json",
    "tekken_240911": "tekken:tokenizers/tekken_240911.json",
    "mistral_32000": "sentencepiece:tokenizers/mistral_32000.model",
}
LANGUAGES = 23  # codes; Chinese has three
TEXT = "Ünïcode, 日本語, हिन्दी and emoji 👩‍🚀!\n\n\tdef f(x):\r\n        return 'it''s'  \n<|endoftext|> </s> <s>"


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"needs ../shared/{path}")
    return SHARED / path


def shared_spec(name: str) -> str:
    kind, _, path = FILES[name].partition(":")
    return f"{kind}:{shared(path)}"


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Real text: up to six documents of each language, fifty of prose and fifty technical ones."""
    texts: dict[str, list[str]] = collections.defaultdict(list)
    for corpus, lines, each in (("multilingual", 2000, 6), ("prose", 50, 50), ("technical", 50, 50)):
        with lzma.open(shared(f"corpus/{corpus}.jsonl.xz"), "rt") as stream:
            for document in map(json.loads, itertools.islice(stream, lines)):
                of_language = texts[corpus + document["lang"]]
                of_language += [document["text"]] * (len(of_language) < each)
    assert len(texts) == LANGUAGES + 2
    return [text for of_language in texts.values() for text in of_language]


def small_spec(family: str, folder: Path) -> str:
    makers = {"tokenizers": byte_fallback_json, "sentencepiece": sentencepiece_model, "tekken": tekken_json}
    return f"{family}:{makers[family](folder)}" if family in makers else family


def test_gpt2_ships_with_the_package_and_has_the_published_ids():
    gpt2 = tokenization.load("gpt2")
    assert (gpt2.vocab_size, gpt2.eot_id) == (50_257, 50_256)
    assert None not in gpt2.token_bytes
    assert gpt2.encode_batch(["Hello world"])[0].tolist() == [15496, 995]
    assert gpt2.token_bytes[995] == b" world"


def test_the_shipped_gpt2_gives_back_the_bytes_of_source_code_and_of_many_scripts():
    gpt2 = tokenization.load("gpt2")
    texts = [Path(inspect.__file__).read_text(), "naïve \u00a0 日本語 हिन्दी ไทย 😀\u200d \0\r\n\t<|endoftext|>", ""]
    for text, ids in zip(texts, gpt2.encode_batch(texts), strict=True):
        assert gpt2.decode(ids) == text.encode()
        assert gpt2.text_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("name", FILES)
def test_the_bytes_of_the_ids_of_real_text_are_the_text(name: str, documents: list[str]):
    tokenizer = tokenization.load(shared_spec(name))
    in_front = b" " if name == "mistral_32000" else b""
    for text, ids in zip(documents, tokenizer.encode_batch(documents), strict=True):
        assert tokenizer.decode(ids) == in_front + text.encode()
        assert tokenizer.text_bytes[ids].sum() == len(in_front) + len(text.encode())


@pytest.mark.parametrize("name", RANK_FILES)
def test_a_known_rank_file_gets_its_own_specials_and_vocabulary_size(name: str):
    tokenizer = tokenization.load(shared_spec(name))
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id) == (name, RANK_FILES[name], EOT_IDS[name])
    assert tokenizer.token_bytes[tokenizer.eot_id] == b"<|endoftext|>"


def test_the_sixteen_ids_that_cl100k_leaves_out_have_no_bytes():
    tokenizer = tokenization.load(shared_spec("cl100k_base"))
    missing = [i for i, token in enumerate(tokenizer.token_bytes) if token is None]
    assert missing == [100_256, *range(100_261, 100_276)]
    assert not tokenizer.text_bytes[missing].any()


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_a_rank_file_encodes_as_tiktokens_own_encoding_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: list[str]
):
    spec = shared_spec(name)
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    shutil.copy(spec.removeprefix("tiktoken:"), tmp_path / hashlib.sha1(url.encode()).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    by_path, by_name = tokenization.load(spec), tokenization.load(f"tiktoken:{name}")
    for ours, theirs in zip(by_path.encode_batch(documents), by_name.encode_batch(documents), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert by_path.fingerprint == by_name.fingerprint


def test_qwen_splits_digits_one_by_one():
    qwen = tokenization.load(shared_spec("qwen"))
    assert [qwen.token_bytes[i] for i in qwen.encode_batch(["12345"])[0]] == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("family", ["gpt2", "tokenizers", "sentencepiece", "tekken"])
def test_special_tokens_written_in_a_document_are_text(family: str, tmp_path: Path):
    tokenizer = tokenization.load(small_spec(family, tmp_path))
    text = TEXT + " [INST] <SPECIAL_3> <unk> <0x41>"
    (ids,) = tokenizer.encode_batch([text])
    assert not tokenizer.special_ids & set(ids.tolist())
    assert tokenizer.decode(ids).removeprefix(b" ") == text.encode()


def test_byte_fallback_vocabularies_give_raw_bytes_and_spaces(tmp_path: Path):
    tokenizer = tokenization.load(f"tokenizers:{byte_fallback_json(tmp_path)}")
    assert tokenizer.token_bytes[2 + 0xE6] == b"\xe6"
    assert tokenizer.token_bytes[tokenizer.vocab_size - 2] == b" ab"
    assert tokenizer.token_bytes[tokenizer.eot_id] == b"</s>"


def test_added_tokens_that_are_not_special_stand_for_their_text(tmp_path: Path):
    tokenizer = tokenization.load(f"tokenizers:{byte_fallback_json(tmp_path)}")
    (ids,) = tokenizer.encode_batch(["a<table>b"])
    assert [tokenizer.token_bytes[i] for i in ids] == [b"a", b"<table>", b"b"]
    assert tokenizer.text_bytes[ids].tolist() == [1, 7, 1]


def test_a_tokenizer_json_is_named_after_itself_or_its_folder(tmp_path: Path):
    path = byte_fallback_json(tmp_path)
    shutil.copy(path, tmp_path / "mine.tokenizer.json")
    assert tokenization.load(f"tokenizers:{path}").name == tmp_path.name
    assert tokenization.load(f"tokenizers:{tmp_path / 'mine.tokenizer.json'}").name == "mine"


def test_truncation_and_padding_stored_in_a_tokenizer_json_are_ignored(tmp_path: Path):
    tokenizer = tokenization.load(f"tokenizers:{byte_fallback_json(tmp_path, enable_truncation=4)}")
    assert len(tokenizer.encode_batch(["a" * 100])[0]) == 100


def test_deepseeks_end_of_text_is_found_and_its_literal_bytes_are_kept():
    tokenizer = tokenization.load(shared_spec("deepseek_v3"))
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (129_280, 1)
    assert tokenizer.token_bytes[1] == "<｜end▁of▁sentence｜>".encode()


@pytest.mark.parametrize("family", ["gpt2", "tokenizers", "sentencepiece", "tekken"])
def test_the_number_of_threads_does_not_change_the_ids(family: str, tmp_path: Path):
    tokenizer = tokenization.load(small_spec(family, tmp_path))
    texts = [TEXT[i:] for i in range(40)]
    for one, many in zip(tokenizer.encode_batch(texts, 1), tokenizer.encode_batch(texts), strict=True):
        assert one.tolist() == many.tolist()


@pytest.mark.parametrize("family", ["gpt2", "tokenizers", "sentencepiece", "tekken"])
def test_a_pickled_tokenizer_comes_back_whole(family: str, tmp_path: Path):
    tokenizer = tokenization.load(small_spec(family, tmp_path))
    content = pickle.dumps(tokenizer)
    assert len(content) < 400
    copy = pickle.loads(content)
    assert (copy.fingerprint, copy.token_bytes) == (tokenizer.fingerprint, tokenizer.token_bytes)


def test_mistrals_sentencepiece_model_has_its_published_ids():
    tokenizer = tokenization.load(shared_spec("mistral_32000"))
    assert (tokenizer.vocab_size, tokenizer.eot_id, sorted(tokenizer.special_ids)) == (32_000, 2, [0, 1, 2])
    assert tokenizer.encode_batch(["Hello world"])[0].tolist() == [22557, 1526]
    assert tokenizer.token_bytes[:4] == (b"<unk>", b"<s>", b"</s>", b"\0")
    assert tokenizer.token_bytes[1526] == b" world"
    assert tokenizer.text_bytes[:4].tolist() == [0, 0, 0, 1]


def test_tekkens_special_ids_come_first_and_its_vocabulary_is_cut_to_the_default_size():
    tokenizer = tokenization.load(shared_spec("tekken_240911"))
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (131_072, 2)
    assert tokenizer.special_ids == set(range(1000))
    assert tokenizer.encode_batch(["Hello, world!"])[0].tolist() == [22177, 1044, 4304, 1033]
    assert tokenizer.token_bytes[2:4] == (b"</s>", b"[INST]")
    assert tokenizer.token_bytes[999:1002] == (b"<SPECIAL_999>", b"\0", b"\x01")


def test_tekken_files_of_later_versions_name_their_special_tokens(tmp_path: Path):
    named = [{"rank": i, "token_str": text} for i, text in enumerate(("<a>", "</s>"))]
    tokenizer = tokenization.load(f"tekken:{tekken_json(tmp_path, special_tokens=named)}")
    assert tokenizer.eot_id == 1
    assert tokenizer.token_bytes[:3] == (b"<a>", b"</s>", b"<SPECIAL_2>")


def test_user_defined_pieces_are_found_in_text_and_stand_for_it(tmp_path: Path):
    tokenizer = tokenization.load(f"sentencepiece:{sentencepiece_model(tmp_path, user_defined_symbols=['<table>'])}")
    (ids,) = tokenizer.encode_batch(["a<table>b"])
    assert b"<table>" in [tokenizer.token_bytes[i] for i in ids]
    assert tokenizer.text_bytes[ids].sum() == len(" a<table>b")


def test_sentencepiece_reads_its_own_mark_for_a_space_as_a_space(tmp_path: Path):
    tokenizer = tokenization.load(small_spec("sentencepiece", tmp_path))
    assert tokenizer.decode(tokenizer.encode_batch(["a▁b"])[0]) == b" a b"
    assert tokenizer.encode_batch([""])[0].tolist() == []


def test_decoded_bytes_of_a_byte_level_vocabulary_follow_from_its_own():
    tokenizer = tokenization.load("gpt2")
    assert tokenizer.bytes_from("decode") == tokenization.decoded(tokenizer.token_bytes) != tokenizer.token_bytes


def test_decoded_bytes_are_what_the_library_decodes_an_id_to():
    tokenizer = tokenization.load(shared_spec("deepseek_v3"))
    decoded = tokenizer.bytes_from("decode")
    assert decoded == tokenization.decoded(tokenizer.token_bytes)
    assert sum(one != other for one, other in zip(decoded, tokenizer.token_bytes, strict=True)) == 1470


@pytest.mark.parametrize("family", ["tokenizers", "sentencepiece"])
def test_decoded_bytes_keep_byte_pieces_and_special_texts(family: str, tmp_path: Path):
    tokenizer = tokenization.load(small_spec(family, tmp_path))
    decoded = tokenizer.bytes_from("decode")
    byte = tokenizer.token_bytes.index(b"\xe6")
    assert (decoded[byte], decoded[tokenizer.eot_id]) == (b"\xe6", b"</s>")


def test_decoded_bytes_lose_the_space_that_is_put_in_front_of_texts():
    tokenizer = tokenization.load(shared_spec("mistral_32000"))
    decoded = tokenizer.bytes_from("decode")
    assert (tokenizer.token_bytes[1526], decoded[1526]) == (b" world", b"world")
    space = tokenizer.token_bytes.index(b" ", 3 + 256)
    assert decoded[space] == b""


def test_an_unknown_byte_source_is_refused():
    with pytest.raises(ValueError, match=r"^embedding.byte_source is 'utf8'; allowed: raw, decode$"):
        tokenization.load("gpt2").bytes_from("utf8")


def normalizers(*names: str) -> library.normalizers.Normalizer:
    return library.normalizers.Sequence([getattr(library.normalizers, name)() for name in names])


LOSSY = {
    "capital letters": {"normalizer": normalizers("Lowercase")},
    "accents and scripts": {"normalizer": normalizers("NFD", "StripAccents")},
    "spaces at the ends": {"normalizer": normalizers("Strip")},
    "spaces": {"pre_tokenizer": library.pre_tokenizers.WhitespaceSplit()},
}


@pytest.mark.parametrize("loss", LOSSY)
def test_a_tokenizer_json_that_changes_ordinary_text_is_refused(loss: str, tmp_path: Path):
    path = byte_level_json(tmp_path, **LOSSY[loss])
    with pytest.raises(ValueError, match="bits per byte would count the wrong bytes") as raised:
        tokenization.load(f"tokenizers:{path}")
    assert f": it changes {loss}: " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_json_that_composes_characters_is_accepted(tmp_path: Path):
    tokenizer = tokenization.load(f"tokenizers:{byte_level_json(tmp_path, normalizer=normalizers('NFC'))}")
    assert tokenizer.decode(tokenizer.encode_batch(["e\u0301"])[0]) == "é".encode()


def test_a_tokenizer_json_that_replaces_ordinary_text_is_refused(tmp_path: Path):
    path = byte_level_json(tmp_path, normalizer=library.normalizers.Replace("colour", "color"))
    with pytest.raises(ValueError, match=r"its normaliser replaces \{'String': 'colour'\} by 'color'"):
        tokenization.load(f"tokenizers:{path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_extra_whitespaces": True}, "it changes runs of spaces: 'a   b' becomes ' a b'"),
        (
            {"normalization_rule_name": "nfkc_cf"},
            "it changes capital letters: 'From aB to CD' becomes ' from ab to cd'",
        ),
        ({"byte_fallback": False}, "no byte fallback, so characters outside its vocabulary have no bytes"),
    ],
)
def test_a_sentencepiece_model_that_loses_text_is_refused(options: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        tokenization.load(f"sentencepiece:{sentencepiece_model(tmp_path, **options)}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": []}, "it has 0 of the 258 tokens of its default vocabulary; download the file again"),
        ({"vocab": {}}, "0 of the 258 tokens"),
        ({"vocab": [{"rank": 0}]}, "not a tekken.json .*token_bytes"),
        ({"vocab": [{"rank": 0, "token_bytes": "%"}]}, "not a tekken.json"),
        ({"config": {}}, "not a tekken.json .*default_vocab_size"),
        ({"config": TEKKEN_SIZES | {"pattern": "("}}, "download the file again"),
        ({"config": TEKKEN_SIZES | {"default_vocab_size": 200}}, "all 256 single bytes; download"),
        (
            {"special_tokens": [{"rank": 70, "token_str": "</s>"}]},
            "special tokens must be 10 distinct texts with ids 0 to 9",
        ),
        ({"special_tokens": [{"rank": 0, "token_str": "<SPECIAL_4>"}]}, "special tokens must be 10 distinct texts"),
    ],
)
def test_a_tekken_file_with_parts_missing_is_refused(changes: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        tokenization.load(f"tekken:{tekken_json(tmp_path, **changes)}")


def test_an_unknown_rank_file_borrows_a_known_pattern(tmp_path: Path):
    path = write_ranks(tmp_path / "mine.tiktoken")
    tokenizer = tokenization.load(f"tiktoken:{path}@cl100k_base")
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id) == ("mine", 257, 256)
    assert tokenizer.decode(tokenizer.encode_batch([TEXT])[0]) == TEXT.encode()


def test_the_fingerprint_follows_the_pattern_and_the_file(tmp_path: Path):
    gpt2_copy = shutil.copy(tiktoken_ranks.ASSETS / "gpt2.tiktoken", tmp_path / "other_name.tiktoken")
    assert tokenization.load(f"tiktoken:{gpt2_copy}").fingerprint == tokenization.load("gpt2").fingerprint
    names = ("gpt2", "cl100k_base", "o200k_base", "qwen")
    assert len({tokenization.load(f"tiktoken:{gpt2_copy}@{name}").fingerprint for name in names}) == len(names)


def test_without_a_network_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # the discard port: refused at once
    with pytest.raises(ValueError, match=r"^tokenizer tiktoken:p50k_base: .*TIKTOKEN_CACHE_DIR.*tiktoken:PATH$"):
        tokenization.load("tiktoken:p50k_base")


@pytest.mark.parametrize("spec", ["", "gpt3", "gpt2:x", "tiktoken:", "tokenizers", "sentencepiece", "tekken:"])
def test_a_spec_of_no_known_form_lists_the_forms(spec: str):
    with pytest.raises(ValueError, match=r"must be one of gpt2, tiktoken:NAME, tiktoken:PATH, .*bpe:SIZE$"):
        tokenization.load(spec)


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers", "sentencepiece", "tekken"])
def test_a_missing_file_is_named(kind: str):
    with pytest.raises(FileNotFoundError, match=r"^tokenizer \w+:nowhere/x\.json: nowhere/x\.json does not exist"):
        tokenization.load(f"{kind}:nowhere/x.json")


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (b"IQ== 0\n", "tiktoken:{}", "no token for 255 bytes, so text with them would be lost: 0x00 .*all 256 single"),
        (b"IQ== 0\nIQ== 1\n", "tiktoken:{}", r"not a rank file \(line 2: b'!' has rank 0 already\)"),
        (b"IQ== 0\nIg== 0\n", "tiktoken:{}@gpt2", "b'!' and b'\"' have one rank, 0; download"),
        (b"\x00\xff\n", "tiktoken:{}@gpt2", "not a rank file .*; its lines must be 'base64 rank'"),
        (b"IQ== 0\n", "tiktoken:{}@gpt2", "all 256 single bytes; download"),
        (b'{"model": ', "tokenizers:{}", "not a tokenizer.json"),
        (b'{"model": {"type": "BPE"}}', "tokenizers:{}", "not a tokenizer.json"),
        (b"\xff\xfe", "tokenizers:{}", "not a tokenizer.json"),
        (b"", "sentencepiece:{}", "not a SentencePiece model, or is damaged"),
        (b"\xff\xfe", "sentencepiece:{}", "not a SentencePiece model, or is damaged"),
        (b"", "tekken:{}", "not a tekken.json"),
        (b"\xff\xfe", "tekken:{}", "not a tekken.json"),
        (b"[]", "tekken:{}", "not a tekken.json"),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected(content: bytes, spec: str, message: str, tmp_path: Path):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        tokenization.load(spec.format(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json is a pipe or a device; put a file there"):
        tokenization.load(f"tokenizers:{tmp_path}/tokenizer.json")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read"):
        tokenization.load(f"tokenizers:{tmp_path}")


def test_a_damaged_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = (tiktoken_ranks.ASSETS / "gpt2.tiktoken").read_bytes()
    (tmp_path / "gpt2.tiktoken").write_bytes(content[:-10])
    monkeypatch.setattr(tiktoken_ranks, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        tokenization.load("gpt2")


def test_a_vocabulary_whose_tokens_have_no_bytes_is_refused(tmp_path: Path):
    definition = library.Tokenizer(library.models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    definition.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="use a tokenizer that is byte-level or has byte fallback"):
        tokenization.load(f"tokenizers:{tmp_path / 't.json'}")


TRAIN = """
import pathlib, sys
from kronecker import tokenization
texts = [p.read_text() for p in sorted(pathlib.Path(pathlib.__file__).parent.glob("[a-d]*.py"))]
tokenization.train_bpe(texts, 1000, sys.argv[1])
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
    tokenization.train_bpe([Path(__file__).read_text()], 400, path)
    tokenizer = tokenization.load(f"tokenizers:{path}")
    assert tokenizer.vocab_size == 400
    assert tokenizer.token_bytes[tokenizer.eot_id] == b"<|endoftext|>"
    assert tokenizer.decode(tokenizer.encode_batch([TEXT])[0]) == TEXT.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["bpe.json"]


def test_a_bpe_is_trained_on_the_start_of_a_very_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(byte_bpe, "LONGEST_RUN", 2000)
    files = [tmp_path / "long.json", tmp_path / "cut.json"]
    for file, length in zip(files, (1_000_000, 2000), strict=True):
        tokenization.train_bpe(["a text " * 100 + " \t" * (length // 2) + "end", TEXT], 300, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    tokenizer = tokenization.load(f"tokenizers:{files[0]}")
    text = "x" + " \t" * 100_000
    assert tokenizer.check_kept(text, tokenizer.encode_batch([text], 1)[0]) == len(text)


def test_a_bpe_too_small_for_the_bytes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"bpe:256.*at least 257"):
        tokenization.train_bpe(["a"], 256, tmp_path / "bpe.json")
