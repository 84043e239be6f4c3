"""Ids that keep their text, the id that ends a document, and text that cannot be encoded."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tokenizer_files import byte_fallback_json, byte_level_json, sentencepiece_model, tekken_json, write_ranks

from kronecker import tokenization

GPT2_FINGERPRINT = "37e1ecde13abb929efef7d08cb76bc444582eb833f4bb8f1aa01ec4ca217c155"


def test_ids_that_keep_a_text_are_counted_in_bytes_and_others_show_the_first_difference():
    gpt2 = tokenization.load("gpt2")
    text = "naïve 日本語 and so on" * 30_000
    (ids,) = gpt2.encode_batch([text])
    assert gpt2.check_kept(text, ids) == len(text.encode())
    assert gpt2.check_kept("", ids[:0]) == 0
    with pytest.raises(ValueError, match=r"from byte 6 a text has ' 日本語 and', its ids have 'nothing more'"):
        gpt2.check_kept("naïve 日本語 and", gpt2.encode_batch(["naïve"])[0])
    with pytest.raises(ValueError, match="from byte 5 a text has 'nothing more', its ids have '!'"):
        gpt2.check_kept("words", gpt2.encode_batch(["words!"])[0])
    with pytest.raises(ValueError, match=r"a text became the special id 50256, b'<\|endoftext\|>'"):
        gpt2.check_kept("<|endoftext|>", np.array([50256], np.uint32))


def test_a_prepended_space_a_mark_for_a_space_and_a_declared_normaliser_are_allowed(tmp_path: Path):
    marks = tokenization.load(f"sentencepiece:{sentencepiece_model(tmp_path, normalization_rule_name='nfkc')}")
    (ids,) = marks.encode_batch(["ﬁ ▁x"])
    assert marks.check_kept("ﬁ ▁x", ids) == len(" fi  x")
    with pytest.raises(ValueError, match="it does not keep text: from byte 2 a text has 'f  x', its ids have 'i  x'"):
        marks.check_kept("ﬀ ▁x", ids)
    path = byte_level_json(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "NFC"}}))
    composing = tokenization.load(f"tokenizers:{path}")
    (ids,) = composing.encode_batch(["e\u0301 "])
    assert composing.check_kept("e\u0301 ", ids) == len("é ".encode())
    with pytest.raises(ValueError, match="from byte 0 a text has 'e ', its ids have 'é '"):
        composing.check_kept("e ", ids)


def test_the_shipped_fingerprint_is_that_of_published_results():
    assert tokenization.load("gpt2").fingerprint == GPT2_FINGERPRINT


def specials(**ids: int) -> list[dict[str, object]]:
    return [{"rank": rank, "token_str": f"<{name}>"} for name, rank in ids.items()]


def test_a_tokenizer_without_an_end_of_text_counts_and_lists_its_special_tokens(tmp_path: Path):
    path = tekken_json(tmp_path, special_tokens=specials(a=0, b=1))
    tokenizer = tokenization.load(f"tekken:{path}")
    assert tokenizer.vocab_size == 268
    listed = "'<a>', '<b>', '<SPECIAL_2>', "
    with pytest.raises(
        ValueError, match=f"no end-of-text token, none of .*; set --config.data.end_of_text .*: {listed}"
    ):
        tokenizer.check_trainable()


@pytest.mark.parametrize("family", ["tekken", "tokenizers", "sentencepiece", "tiktoken"])
def test_the_text_of_any_special_token_may_end_documents(family: str, tmp_path: Path):
    spec, text, token_id = {
        "tekken": lambda: (f"tekken:{tekken_json(tmp_path)}", "<s>", 1),
        "tokenizers": lambda: (f"tokenizers:{byte_fallback_json(tmp_path)}", "<unk>", 0),
        "sentencepiece": lambda: (f"sentencepiece:{sentencepiece_model(tmp_path)}", "<s>", 1),
        "tiktoken": lambda: (f"tiktoken:{write_ranks(tmp_path / 't.tiktoken')}@gpt2", "<|endoftext|>", 256),
    }[family]()
    found, named = tokenization.load(spec), tokenization.load(spec, text)
    assert named.eot_id == token_id
    assert (named.fingerprint == found.fingerprint) == (found.eot_id == token_id)
    copy = pickle.loads(pickle.dumps(named))
    assert (copy.eot_id, copy.fingerprint) == (named.eot_id, named.fingerprint)
    for other in ("a", "<table>", "\ud800"):
        with pytest.raises(
            ValueError, match=r"it has no special token .*; set --config.data.end_of_text to the text of"
        ):
            tokenization.load(spec, other)


@pytest.mark.parametrize("family", ["gpt2", "tokenizers", "sentencepiece", "tekken"])
def test_half_a_surrogate_pair_is_refused_with_its_place(family: str, tmp_path: Path):
    makers = {"tokenizers": byte_fallback_json, "sentencepiece": sentencepiece_model, "tekken": tekken_json}
    tokenizer = tokenization.load(f"{family}:{makers[family](tmp_path)}" if family in makers else family)
    with pytest.raises(ValueError, match=r"character 3 of a text is '\\ud800', half of a surrogate pair"):
        tokenizer.encode_batch(["a", "abc\ud800"])
