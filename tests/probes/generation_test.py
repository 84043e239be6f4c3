"""The generation probe: its flags by hand, unseen strings against tokens, and what a run writes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import arms, base
from kronecker import tokenization
from kronecker.embedding import bags, codec
from kronecker.model import build, sampling
from kronecker.probes import continuations, generation, unseen
from kronecker.schema import choices, resolution
from kronecker.training import restore

BYTES = (*(bytes([value]) for value in range(256)), b"<|endoftext|>", b" table", b" chair", b"ab", None)
TABLE_ID = 257
SPELLING_ARMS = ("kronecker", "kronecker_unit", "kronecker_tied", "head_tail", "hash_ngram")
TEMPLATE = continuations.Template("The {} and the {} are", ("kitchen", "garden"), ("harnoxel", "pludge"))


def tokenizer() -> tokenization.Tokenizer:
    """A byte a token, and a few tokens that text never becomes."""
    return tokenization.base.assemble(
        "bytes", "bytes", BYTES, {"<|endoftext|>": 256}, {}, lambda texts, _: [list(text.encode()) for text in texts]
    )


@functools.cache
def run_of(name: str, std: float = 0.3, **embedding) -> restore.Restored:
    """A tiny run with a body of large random parameters, whose predictions are far from uniform."""
    c = base.apply(base.get_config(), arms.ARMS[name])
    c.model.update({"layers": 1, "heads": 2, "d_model": 16, "context": 64, "vocab_multiple": 64})
    c.train.sequence, c.train.batch = 64, 2
    c.embedding.update({"pos_dim": 8} | embedding)
    c = resolution.with_vocabulary(resolution.resolve(c), len(BYTES))
    arm = build.build(c, BYTES)
    params = jax.jit(arm.model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), arm.bag)["params"]
    keys = iter(jax.random.split(jax.random.key(1), 100))
    noisy = jax.tree.map(lambda leaf: leaf + std * jax.random.normal(next(keys), leaf.shape), params)
    return restore.Restored(c, None, tokenizer(), arm, noisy | {"embed": params["embed"]}, 3, None)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], False),
        ([1, 1], False),  # two are no repetition
        ([1, 1, 1], True),
        ([1, 2, 1, 3, 1, 4], False),  # half, not more
        ([1, 2, 1, 3, 1], True),
        ([*range(12)], False),
        ([1, 2, 3] * 3 + [4, 5, 6, 7, 8], True),  # 9 of 14
        ([1, 2, 3] * 3 + [*range(4, 13)], False),  # 9 of 18
        ([7, 1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3], True),  # need not follow each other
        ([1, 2, 3, 4, 5, 6] * 2, False),  # a sentence twice is no circle
        ([1, 1, 1, 1, 2, 3, 4, 5, 6], False),  # "1 1" occurs twice without overlap
    ],
)
def test_a_text_in_circles_is_one_n_gram_for_more_than_half(ids: list[int], expected: bool):
    assert continuations.degenerate(ids) is expected


def test_an_echo_is_any_of_the_strings_without_the_space_around():
    assert continuations.echoes(b"a big harnoxels!", [b" zumba", b" harnoxel"])
    assert not continuations.echoes(b"a big Harnoxel", [b" harnoxel"])


def test_our_templates_are_twenty_with_one_to_three_slots():
    templates = continuations.templates()
    assert len({template.text for template in templates}) == 20
    assert {len(template.words) for template in templates} == {1, 2, 3}
    tokens = set(tokenization.load("gpt2").token_bytes)
    novel = [string for template in templates for string in template.novel]
    assert len(set(novel)) == len(novel)
    assert not {string.encode() for string in novel} & tokens
    assert not {b" " + string.encode() for string in novel} & tokens
    for template in templates:
        assert all(a != b for a, b in zip(template.words, template.misspelled(0), strict=True))
        assert template.misspelled(0) == template.misspelled(0)


def test_a_template_is_filled_and_split_at_its_slots():
    assert TEMPLATE.filled(TEMPLATE.words) == "The kitchen and the garden are"
    parts, strings = TEMPLATE.around(tokenizer())
    assert [bytes(part) for part in parts] == [b"The", b" and the", b" are"]
    assert strings == [b" harnoxel", b" pludge"]
    parts, strings = continuations.Template("({})", ("kitchen",), ("harnoxel",)).around(tokenizer())
    assert ([bytes(part) for part in parts], strings) == ([b"(", b")"], [b"harnoxel"])


@pytest.mark.parametrize(("words", "novel"), [(("one",), ("a", "b")), (("a", "b"), ()), ((), ())])
def test_a_template_needs_a_word_and_a_string_for_each_slot(words: tuple, novel: tuple):
    with pytest.raises(ValueError, match=r"has 2 slots \{\}, . words and . novel strings"):
        continuations.Template("The {} and {}", words, novel)
    with pytest.raises(ValueError, match="has 0 slots"):
        continuations.Template("The", (), ())


def test_a_word_without_a_typo_is_refused():
    with pytest.raises(ValueError, match="no operator can misspell 'it'; give a longer word"):
        continuations.Template("The {} is", ("it",), ("harnoxel",)).misspelled(0)


def logits_after(arm: build.Arm, params: dict, ids: list[int]) -> np.ndarray:
    return np.asarray(jax.jit(arm.model.apply)({"params": params}, np.array([ids]), arm.bag))


@pytest.mark.parametrize("name", SPELLING_ARMS)
def test_a_string_that_is_a_token_is_embedded_as_that_token(name: str):
    run = run_of(name, **({"pos_dim": 4} if name == "head_tail" else {}))
    arm, (same, other) = unseen.extend(run.arm, run.config, BYTES, [b" table", b" tabel"])
    assert (same, other) == (320, 321)  # behind the padded vocabulary
    want = logits_after(run.arm, run.params, [1, TABLE_ID, 2])
    np.testing.assert_allclose(logits_after(arm, run.params, [1, same, 2]), want, atol=1e-5)
    assert not np.allclose(logits_after(arm, run.params, [1, other, 2])[0, 1:, :256], want[0, 1:, :256], atol=1e-2)


@pytest.mark.parametrize("norm", choices.NORMS)
def test_an_unseen_strings_vector_is_its_code_times_the_projection(norm: str):
    run = run_of("kronecker", norm=norm)
    arm, (new,) = unseen.extend(run.arm, run.config, BYTES, [b"unheardof"])
    code = codec.dense_code(codec.byte_table([b"unheardo"], 8), np.array([0]), norm)  # P is 8
    want = code @ np.asarray(run.params["embed"]["projection"], np.float64)
    inference, params = build.with_table(arm, run.params)
    np.testing.assert_allclose(params["embed"]["table"][new], want[0], atol=1e-4)
    assert inference.bag is None


@pytest.mark.parametrize("name", [*SPELLING_ARMS, "random_code", "shuffled_code", "table_plus_kronecker"])
def test_tokens_keep_their_vectors_and_the_head_its_ids(name: str):
    run = run_of(name)
    arm, _ = unseen.extend(run.arm, run.config, BYTES, [b" tabel", b"harnoxel", b"ba"])
    ids = [256, 3, TABLE_ID, 259, 77]
    before, after = logits_after(run.arm, run.params, ids), logits_after(arm, run.params, ids)
    assert after.shape == before.shape == (1, 5, 320)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_random_code_knows_the_length_of_a_string_and_not_its_spelling():
    run = run_of("random_code")
    arm, (same,) = unseen.extend(run.arm, run.config, BYTES, [b" table"])
    assert arm.bag.lengths[same] == arm.bag.lengths[TABLE_ID] == 6
    assert not np.array_equal(arm.bag.symbols[same], arm.bag.symbols[TABLE_ID])
    assert bags.sharing(arm.bag) == bags.sharing(run.arm.bag)


def test_a_string_that_would_change_tokens_codes_is_refused():
    run = run_of("random_code")
    with pytest.raises(ValueError, match=r"adding \[b'x'\] would change codes of tokens"):
        unseen.extend(run.arm, run.config, BYTES, [b"xy", b"x"])


def test_an_empty_string_and_a_table_are_refused():
    run = run_of("kronecker")
    with pytest.raises(ValueError, match="an empty byte string has no code"):
        unseen.extend(run.arm, run.config, BYTES, [b"a", b""])
    run = run_of("table_tied")
    with pytest.raises(ValueError, match="arm table_tied is a table"):
        unseen.extend(run.arm, run.config, BYTES, [b"ab"])


@pytest.fixture(scope="module", params=["table_untied", "kronecker", "kronecker_tied"])
def run(request: pytest.FixtureRequest) -> restore.Restored:
    return run_of(request.param)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.95}])
def test_a_run_writes_the_same_with_a_cache_and_without(run: restore.Restored, options: dict):
    texts = [
        generation.measure(run, [TEMPLATE], cache=cache, new_tokens=50, **options).texts for cache in (True, False)
    ]
    assert texts[0] == texts[1]  # prompts of 30 and the context of 64 are in between
    assert any(text.tokens > 40 for text in texts[0])


@pytest.fixture(scope="module")
def measured() -> list[generation.Measured]:
    other = continuations.Template("A {} is", ("trumpet",), ("wexlatron",))
    return [generation.measure(run_of(name), [TEMPLATE, other]) for name in ("table_tied", "kronecker", "kronecker")]


def test_every_prompt_is_written_on_from_under_every_condition(measured: list[generation.Measured]):
    table, kronecker, again = measured
    assert kronecker == again
    assert [text.condition for text in table.texts] == [c for c in generation.CONDITIONS for _ in range(2)]
    assert [text.prompt for text in kronecker.of("normal")] == ["The kitchen and the garden are", "A trumpet is"]
    assert [text.prompt for text in kronecker.of("forced")] == [
        "The ⟨harnoxel⟩ and the ⟨pludge⟩ are",
        "A ⟨wexlatron⟩ is",
    ]
    assert kronecker.of("misspelled")[1].prompt == f"A {TRUMPET} is"
    assert all(text.tokens <= 30 for text in table.texts)


TRUMPET = continuations.Template("A {} is", ("trumpet",), ("wexlatron",)).misspelled(0)[0]


def test_a_table_is_given_the_plain_prompt_instead_and_that_is_said(measured: list[generation.Measured]):
    table, kronecker, _ = measured
    assert [text.continuation for text in table.of("forced")] == [text.continuation for text in table.of("novel")]
    assert [text.continuation for text in kronecker.of("forced")] != [
        text.continuation for text in kronecker.of("novel")
    ]
    summary, _ = generation.describe(table, kronecker)
    given = {(row[0], row[1]): row[2] for row in summary.rows}
    assert given["table_tied-seed0", "forced"] == "tokens"
    assert given["kronecker-seed0", "forced"] == "one position"
    assert any("table_tied-seed0: a table cannot embed a byte string" in note for note in summary.notes)
    assert "a table cannot" not in " ".join(generation.describe(kronecker)[0].notes)


def test_a_forced_prompt_has_one_id_for_each_string(monkeypatch: pytest.MonkeyPatch):
    prompts = []
    original = sampling.Sampler.sample

    def watched(self, prompt, **options):
        prompts.append(list(prompt))
        return original(self, prompt, **options)

    monkeypatch.setattr(sampling.Sampler, "sample", watched)
    generation.measure(run_of("kronecker"), [TEMPLATE], new_tokens=1)
    assert prompts[0] == [256, *b"The kitchen and the garden are"]
    assert prompts[-1] == [256, *b"The", 320, *b" and the", 321, *b" are"]


def test_two_runs_are_compared_prompt_by_prompt(measured: list[generation.Measured]):
    told, texts = generation.describe(*measured[:2])
    assert len(told.rows) == 8
    assert len(texts.rows) == 16
    (paired,) = generation.compare(*measured[:2])
    row = paired.rows[0]
    flagged = [np.mean([text.degenerate for text in one.of("normal")]) for one in measured[:2]]
    assert row[:5] == ("flagged, share", "normal", *flagged, flagged[1] - flagged[0])


def test_runs_on_other_prompts_and_no_prompts_are_refused(measured: list[generation.Measured]):
    run = run_of("table_untied")
    with pytest.raises(ValueError, match="there are no prompts"):
        generation.measure(run, [])
    other = generation.measure(run, [TEMPLATE], new_tokens=1)
    with pytest.raises(ValueError, match="were given different prompts"):
        generation.compare(measured[0], other)
