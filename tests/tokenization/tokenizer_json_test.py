"""tokenizer.json files that lose, add or draw text are refused by name; others keep it, and their flags count."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers as library
from tokenizer_files import byte_fallback_json, byte_level_json, unigram_json

from kronecker import tokenization


def edited(path: Path, **parts: Any) -> str:
    """Writes other parts into a file; a dict is merged into the part that is there.  Returns the spec."""
    definition = json.loads(path.read_text())
    for name, value in parts.items():
        merged = isinstance(value, dict) and isinstance(definition[name], dict)
        definition[name] = definition[name] | value if merged else value
    path.write_text(json.dumps(definition))
    return f"tokenizers:{path}"


def with_added(path: Path, *tokens: library.AddedToken | str) -> str:
    definition = library.Tokenizer.from_file(str(path))
    definition.add_tokens(list(tokens))
    definition.save(str(path))
    return f"tokenizers:{path}"


def kept(spec: str, *texts: str) -> list[list[bytes | None]]:
    tokenizer = tokenization.load(spec)
    encoded = tokenizer.encode_batch(list(texts))
    for text, ids in zip(texts, encoded, strict=True):
        tokenizer.check_kept(text, ids)
    return [[tokenizer.token_bytes[i] for i in ids] for ids in encoded]


def test_a_byte_level_file_without_all_bytes_is_refused_with_their_names(tmp_path: Path):
    definition = library.Tokenizer(library.models.BPE())
    definition.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "".join(map(chr, range(0x21, 0x7F))) + " éß日本語हि😀"
    trainer = library.trainers.BpeTrainer(special_tokens=["<|endoftext|>"], show_progress=False)
    definition.train_from_iterator([text.replace("z", "").replace("~", "")], trainer)
    definition.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=r"no token for \d+ bytes, so text with them would be lost: .*0x7A \(z\) 0x7E"):
        tokenization.load(f"tokenizers:{tmp_path / 't.json'}")


def test_byte_fallback_without_all_bytes_is_refused_with_their_names(tmp_path: Path):
    path = byte_fallback_json(tmp_path)
    path.write_text(path.read_text().replace("<0xE6>", "e6").replace("<0x0A>", "0a"))
    with pytest.raises(ValueError, match="no token for 2 bytes, so text with them would be lost: 0x0A 0xE6;"):
        tokenization.load(f"tokenizers:{path}")


SPLIT = {"type": "Split", "pattern": {"String": "q"}, "behavior": "Removed", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
EVERYTHING = {"type": "Split", "pattern": {"Regex": r"\w+|\W+"}, "behavior": "Removed", "invert": True}


def sequence(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(stages)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": {"dropout": 0.3}}, r'draws ids at random \(dropout is 0.3\).*set "dropout" of the model to null'),
        ({"model": {"continuing_subword_prefix": "##"}}, "its pieces carry the continuing_subword_prefix '##'"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "its pieces carry the end_of_word_suffix '</w>'"),
        ({"pre_tokenizer": sequence(SPLIT, BYTE_LEVEL)}, r"removes \{'String': 'q'\} from text"),
        ({"pre_tokenizer": sequence({"type": "CharDelimiterSplit", "delimiter": "q"}, BYTE_LEVEL)}, "not keep text"),
        ({"pre_tokenizer": sequence({"type": "Punctuation", "behavior": "Removed"}, BYTE_LEVEL)}, "removes punct"),
        ({"pre_tokenizer": sequence(EVERYTHING | {"pattern": {"Regex": "[^z]"}}, BYTE_LEVEL)}, "it does not keep text"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its ids have no bytes"),
        ({"normalizer": {"type": "Nmt"}}, "it changes line ends and tabs"),
        ({"normalizer": {"type": "Prepend", "prepend": "x"}}, "it changes spaces: 'a b' becomes 'xa b'"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "not a tokenizer.json"),
        ({"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}, "its pieces '[ab]' and '[ab]' have one id, 0"),
    ],
)  # fmt: skip
def test_a_byte_level_file_that_would_change_text_is_refused(parts: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message) as raised:
        tokenization.load(edited(byte_level_json(tmp_path), **parts))
    assert "\n" not in str(raised.value)


def test_a_dropout_of_zero_and_a_split_that_keeps_all_of_a_text_are_accepted(tmp_path: Path):
    spec = edited(byte_level_json(tmp_path), model={"dropout": 0.0}, pre_tokenizer=sequence(EVERYTHING, BYTE_LEVEL))
    kept(spec, "a quick  \n\tbrown fox: 10,200 q!")


def test_a_normaliser_may_compose_characters_and_then_write_bytes_as_letters(tmp_path: Path):
    stages = [library.normalizers.NFC(), library.normalizers.ByteLevel()]
    path = byte_level_json(tmp_path, normalizer=library.normalizers.Sequence(stages))
    spec = edited(path, pre_tokenizer=None)
    assert b"".join(kept(spec, "ab e\u0301 \U0001f600")[0]) == "ab é 😀".encode()


def test_a_byte_level_file_may_prepend_a_space_to_a_text_and_nowhere_else(tmp_path: Path):
    path = byte_level_json(tmp_path)
    spec = edited(path, pre_tokenizer={"add_prefix_space": True})
    assert kept(spec, "ab") == [[b" ", b"a", b"b"]]
    with pytest.raises(
        ValueError, match=r"it does not keep text: from byte \d+ a text has .*<note>.*, its ids have ' "
    ):
        tokenization.load(with_added(path, "<note>"))


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_an_added_token_that_takes_the_blanks_beside_it_is_refused(side: str, tmp_path: Path):
    spec = with_added(byte_level_json(tmp_path), library.AddedToken("<note>", **{side: True}))
    with pytest.raises(
        ValueError, match="its added token '<note>' has lstrip or rstrip, so the blanks beside it would be"
    ):
        tokenization.load(spec)


def test_the_flags_of_added_tokens_are_part_of_the_fingerprint(tmp_path: Path):
    found = {}
    for flag in ("single_word", "normalized", "special"):
        for value in (False, True):
            path = byte_level_json(tmp_path)
            token = library.AddedToken("<note>", **({"normalized": False} | {flag: value}))
            found[flag, value] = tokenization.load(with_added(path, token)).fingerprint
    assert len(set(found.values())) == 4  # all three are false in three of the six files
    plain = tokenization.load(f"tokenizers:{byte_level_json(tmp_path)}").fingerprint
    moved = edited(byte_level_json(tmp_path), padding=None, decoder=None, post_processor=BYTE_LEVEL)
    assert tokenization.load(moved).fingerprint == plain


def test_added_tokens_that_are_pieces_keep_the_bytes_of_the_piece(tmp_path: Path):
    path = byte_fallback_json(tmp_path)
    definition = json.loads(path.read_text())
    size = len(definition["model"]["vocab"])
    definition["added_tokens"].pop()
    definition["model"]["vocab"] |= {text: size + i for i, text in enumerate(("▁▁", "▁▁▁", "\n\n", "▁<b>"))}
    path.write_text(json.dumps(definition))
    spec = with_added(path, "▁▁", "▁▁▁", "\n\n", "▁<b>", "<i>")
    assert kept(spec, "a   b\n\na <b><i>")[0] == [b"a", b"   ", b"b", b"\n\n", b"a", b" <b>", b"<i>"]


def test_an_added_token_whose_piece_has_other_bytes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"does not keep text: from byte \d+ a text has 'Ġ"):
        tokenization.load(with_added(byte_level_json(tmp_path), "Ġ"))
    with pytest.raises(ValueError, match="does not keep text: from byte 0 a text has '<0x41>"):
        tokenization.load(with_added(byte_fallback_json(tmp_path), "<0x41>"))


def test_a_normaliser_that_prepends_before_each_added_token_is_refused(tmp_path: Path):
    path = byte_fallback_json(tmp_path)
    prepend, replace = library.normalizers.Prepend("▁"), library.normalizers.Replace(" ", "▁")
    definition = library.Tokenizer.from_file(str(path))
    definition.normalizer = library.normalizers.Sequence([prepend, replace])
    definition.save(str(path))
    with pytest.raises(ValueError, match=r"it does not keep text: from byte .* a text has .*, its ids have"):
        tokenization.load(f"tokenizers:{path}")
    edited(path, added_tokens=[token for token in json.loads(path.read_text())["added_tokens"] if token["special"]])
    assert kept(f"tokenizers:{path}", "ab") == [[b" ab"]]


def test_a_special_token_that_text_can_become_is_refused(tmp_path: Path):
    path = byte_level_json(tmp_path)
    definition = json.loads(path.read_text())
    definition["added_tokens"].append(
        definition["added_tokens"][0] | {"id": definition["model"]["vocab"]["q"], "content": "q"}
    )
    path.write_text(json.dumps(definition))
    with pytest.raises(ValueError, match=r"a text became the special id \d+, b'q', which counts as no text"):
        tokenization.load(f"tokenizers:{path}")


def test_a_unigram_keeps_text_on_bytes_and_is_refused_with_byte_fallback(tmp_path: Path):
    path = unigram_json(tmp_path)
    kept(f"tokenizers:{path}", "ab  ab </s> é\n")
    pieces = [["<unk>", 0.0], *([f"<0x{value:02X}>", -9.0] for value in range(256)), ["▁", -2.0]]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    spec = edited(
        path,
        model={"vocab": pieces, "byte_fallback": True},
        added_tokens=[],
        pre_tokenizer=None,
        normalizer=replace,
    )
    with pytest.raises(ValueError, match="it does not keep text: from byte 0 a text has '<0x00>"):  # read as a byte
        tokenization.load(spec)


def test_a_word_model_is_refused(tmp_path: Path):
    path = byte_level_json(tmp_path)
    model = {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}
    definition = json.loads(path.read_text())
    path.write_text(json.dumps(definition | {"model": model, "added_tokens": []}))
    with pytest.raises(ValueError, match=r"its ids have no bytes \(model WordLevel\)"):
        tokenization.load(f"tokenizers:{path}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"~": 94', '"~": 2147483648', "it has 257 ids, from 0 to 2,147,483,648; ids must .* leave out at most 65,536"),
        ('"~": 94', '"~": 16777217', "from 0 to 16,777,217; ids must start at 0"),
        ('"~": 94', '"~": -1', "not a tokenizer.json that its library can read"),
        ('"~": 94', '"~": 93', "its pieces '[}~]' and '[}~]' have one id, 93; download the file again"),
        ('"~": 94', '"}": 94', "the key '}' stands twice in an object"),
        ('"normalizer": null', '"normalizer": ' + "[" * 100_000, "not a tokenizer.json .*nested too deeply"),
        ('"vocab": {', '"vocab": [', "not a tokenizer.json"),
        ("{", "", "not a tokenizer.json"),
    ],
)
def test_a_file_with_wrong_ids_or_nesting_is_refused_at_once(old: str, new: str, message: str, tmp_path: Path):
    path = byte_level_json(tmp_path)
    text = json.dumps(json.loads(path.read_text()))
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as raised:
        tokenization.load(f"tokenizers:{path}")
    assert "\n" not in str(raised.value)


def test_an_added_token_with_the_id_of_another_piece_is_refused(tmp_path: Path):
    path = byte_level_json(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text())).replace('"~": 94', '"~": 258'))
    with pytest.raises(ValueError, match="its added token '<b>' and its piece '~' have one id, 258"):
        tokenization.load(with_added(path, "<a>", "<b>"))


def test_ids_may_leave_gaps(tmp_path: Path):
    path = byte_level_json(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text())).replace('"~": 94', '"~": 5000'))
    tokenizer = tokenization.load(f"tokenizers:{path}")
    assert (tokenizer.vocab_size, tokenizer.token_bytes.count(None)) == (5001, 5001 - 257)
    assert tokenizer.decode(tokenizer.encode_batch(["~"])[0]) == b"~"
