"""Each arm against its definition: cells, parameters, initial scale, the tied head."""

import dataclasses
import pkgutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import arms, base, gpt2
from kronecker import schema, tokenization
from kronecker.embedding import bags, codec, controls, implementations, selfcheck
from kronecker.model import accounting, build, output_head
from kronecker.schema import resolution

GPT2_BYTES = tokenization.load("gpt2").token_bytes
WORDS = [b"run", b" running", b"a", None, b"", "naïve".encode(), b"an extraordinarily long token", b"\0\0", b"abcdefgh"]
GOLDEN_RANDOM = [1160, 1305, 378]
GOLDEN_GRAMS = [145, 1463, 231, 496, 1520, 1822, 165, 701, 440, 282]
BAG_ARMS = ("kronecker", "kronecker_unit", "head_tail", "random_code", "hash_ngram")


def resolved(arm: str, tokens: list[bytes | None], **keys) -> ml_collections.ConfigDict:
    c = base.apply(base.get_config(), arms.ARMS[arm] | {key.replace("__", "."): value for key, value in keys.items()})
    return resolution.with_vocabulary(resolution.resolve(c), len(tokens))


def initial(c: ml_collections.ConfigDict, tokens: list[bytes | None]) -> tuple[build.Arm, dict]:
    arm = build.build(c, tokens)
    init = jax.jit(lambda key, bag: arm.model.init(key, jnp.zeros((1, 1), jnp.int32), bag)["params"])
    return arm, init(jax.random.key(c.seed), arm.bag)


@pytest.fixture(scope="module")
def words() -> codec.ByteTable:
    return codec.byte_table(WORDS, 8, padded_vocab=len(WORDS) + 1)


def cells(bag: bags.Bag, token_id: int) -> list[int]:
    length = bag.lengths[token_id]
    slots = np.arange(length)
    return (bag.symbols[token_id, :length].astype(int) * bag.symbol_stride + slots * bag.slot_stride).tolist()


def test_head_tail_counts_positions_from_both_ends():
    table = codec.byte_table(WORDS, 8, truncation="head_tail")
    bag = controls.head_tail_bag(table)

    def expected(token: bytes) -> list[int]:
        head = [byte * 8 + i for i, byte in enumerate(token[:4])]
        return head + [byte * 8 + 4 + i for i, byte in enumerate(token[::-1][:4])]

    for token_id, token in enumerate(WORDS):
        assert sorted(cells(bag, token_id)) == sorted(expected(token or b""))


def test_head_tail_tells_apart_tokens_that_differ_after_byte_p():
    tokens = [b"internationally", b"internationality"]
    alike = bags.kronecker_bag(codec.byte_table(tokens, 8))
    apart = controls.head_tail_bag(codec.byte_table(tokens, 8, truncation="head_tail"))
    assert cells(alike, 0) == cells(alike, 1)
    assert set(cells(apart, 0)) != set(cells(apart, 1))


def test_random_codes_keep_the_lengths_and_forget_the_spelling(words: codec.ByteTable):
    bag = controls.random_code_bag(words)
    np.testing.assert_array_equal(bag.lengths, words.lengths)
    assert not np.array_equal(bag.symbols[0, :3], words.bytes[0, :3])
    respelled = controls.random_code_bag(codec.byte_table([b"xyz", *WORDS[1:]], 8, len(WORDS) + 1))
    np.testing.assert_array_equal(respelled.symbols[0], bag.symbols[0])


def test_no_two_random_codes_are_equal():
    assert bags.sharing(controls.random_code_bag(codec.byte_table(GPT2_BYTES, 16))) == 0
    assert bags.sharing(bags.kronecker_bag(codec.byte_table(GPT2_BYTES, 16))) == 44


def test_random_codes_share_bytes_at_chance():
    bag = controls.random_code_bag(codec.byte_table(GPT2_BYTES, 16))
    first, second = bag.symbols[0:50_000:2], bag.symbols[1:50_000:2]
    both = np.minimum(bag.lengths[0:50_000:2], bag.lengths[1:50_000:2])
    used = (np.arange(16) < both[:, None]) & (both > 1)[:, None]
    assert abs((first == second)[used].mean() - 1 / 256) < 5e-4


# What a process on another machine must find too; written down once, on x86-64.
def test_random_codes_and_hashed_grams_are_the_golden_ones(words: codec.ByteTable):
    random_code, hash_ngram = controls.random_code_bag(words), controls.hash_ngram_bag(words)
    assert cells(random_code, 0) == GOLDEN_RANDOM
    assert cells(hash_ngram, 0) == GOLDEN_GRAMS
    assert controls.mix(np.array([0, 1], np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]


def test_hashed_grams_are_those_of_the_marked_bytes(words: codec.ByteTable):
    def gram_cell(gram: list[int]) -> int:
        state = len(gram)
        for symbol in gram:
            state = int(controls.mix(np.array([state ^ (symbol + 1)], np.uint64))[0])
        return state % (256 * 8)

    bag = controls.hash_ngram_bag(words)
    for token_id, token in enumerate(WORDS):
        kept = list((token or b"")[:8])
        marked = [256, *kept, 257]
        grams = [[byte] for byte in kept]
        grams += [marked[i : i + size] for size in (2, 3) for i in range(len(marked) - size + 1)] if kept else []
        assert sorted(cells(bag, token_id)) == sorted(map(gram_cell, grams))
        assert not kept or len(grams) == 3 * len(kept) + 1


@pytest.mark.parametrize(
    "how",
    [
        {"implementation": "bag"},
        {"implementation": "gather", "gather_gradient": "scatter", "platform": "gpu"},
        {"implementation": "gather", "gather_gradient": "onehot", "platform": "gpu"},
        {"implementation": "onehot", "platform": "tpu"},
    ],
    ids=str,
)
@pytest.mark.parametrize("arm", BAG_ARMS)
def test_every_bag_arm_passes_the_check_before_training(arm: str, how: dict[str, str]):
    c = resolved(arm, GPT2_BYTES)
    built = build.build(c, GPT2_BYTES)
    bag = implementations.prepare(built.bag, **how)
    for dtype in ("float32", "bfloat16"):
        selfcheck.check_product(bag, built.codes, c.embedding, dtype)


@pytest.mark.parametrize("arm", arms.ARMS)
def test_parameters_are_those_of_the_formula(arm: str):
    c = resolved(arm, WORDS, embedding__pos_dim=8, **({"embedding__rank": 16} if arm == "factorized" else {}))
    _, params = initial(c, WORDS)
    vocab, width, rows = c.model.padded_vocab, c.model.d_model, 256 * 8
    used = {(byte, place) for word in WORDS for place, byte in enumerate(codec.truncate(word or b"", 8))}
    rank = c.embedding.rank or round(len(used) * width / (vocab + width))
    by_kind = {"table": vocab * width, "factorized": rank * (vocab + width)}
    by_kind["table_plus_kronecker"] = (vocab + rows) * width
    counted = accounting.count(params)
    its_scale = c.model.tie_head and c.embedding.kind == "kronecker"
    assert counted["input"] == by_kind.get(c.embedding.kind, rows * width) + its_scale
    assert counted["head"] == (0 if c.model.tie_head else vocab * width)


def test_the_factorized_table_has_the_projections_parameters_within_one_percent():
    c = resolution.with_vocabulary(resolution.resolve(gpt2.get_config("size=124m,arm=factorized")), 50_257)
    assert c.embedding.rank == 62
    assert abs(62 * (50_304 + 768) / (4096 * 768) - 1) < 0.01


@pytest.mark.parametrize(
    ("arm", "std"),
    [
        ("table_untied", 0.02),
        ("table_std1", 1.0),
        ("factorized", 0.02),
        ("table_plus_kronecker", 0.02),
        ("shuffled_code", 1.0),
        ("kronecker", 1.0),
        ("kronecker_unit", 0.02),
        ("head_tail", 1.0),
        ("random_code", 1.0),
    ],
)
def test_the_initial_embeddings_have_the_arms_standard_deviation(arm: str, std: float):
    c = resolved(arm, GPT2_BYTES)
    built, params = initial(c, GPT2_BYTES)
    ids = np.random.default_rng(0).choice(50_256, 8192, replace=False)
    x = built.model.bind({"params": params}).embed(ids, built.bag)
    sampled = 0.02 if arm == "factorized" else 0.01  # Q has but r d entries: their own spread is above 1 % here
    assert abs(float(x.std()) / std - 1) < sampled


def test_hashed_grams_start_near_the_tables_standard_deviation():
    # Two grams of a token may share a cell, which then counts twice: somewhat more than .02.
    c = resolved("hash_ngram", GPT2_BYTES)
    built, params = initial(c, GPT2_BYTES)
    x = built.model.bind({"params": params}).embed(np.arange(0, 50_256, 7), built.bag)
    assert abs(float(x.std()) / 0.02 - 1) < 0.05


def test_all_arms_of_a_seed_start_from_one_body():
    rank = {"factorized": {"embedding__rank": 16}}  # that of factorized_live is small enough
    hashes = {accounting.body_hash(initial(resolved(arm, WORDS, **rank.get(arm, {})), WORDS)[1]) for arm in arms.ARMS}
    assert len(hashes) == 1


def test_the_table_with_a_code_added_starts_as_the_table_bit_for_bit():
    made = [initial(resolved(arm, WORDS), WORDS) for arm in ("table_plus_kronecker", "table_untied")]
    (plus, params), (table, alone) = made
    np.testing.assert_array_equal(params["embed"]["table"], alone["embed"]["table"])
    np.testing.assert_array_equal(build.input_table(plus, params), build.input_table(table, alone))


def test_the_tied_code_of_unit_norm_starts_with_the_logits_scale_of_a_table():
    _, params = initial(resolved("kronecker_unit_tied", WORDS), WORDS)
    assert float(params["embed"]["logit_scale"]) == pytest.approx(1.0)
    assert "head" not in params


@pytest.mark.parametrize("implementation", ["bag", "gather", "induced", "onehot"])
def test_the_tied_kronecker_head_is_the_induced_table_times_one_scale(implementation: str):
    small = {"model__layers": 1, "embedding__pos_dim": 8}
    c = resolved("kronecker_tied", WORDS, embedding__implementation=implementation, **small)
    arm, params = initial(c, WORDS)
    code_VD = jnp.asarray(codec.dense_code(arm.codes, np.arange(len(WORDS)), "z"), jnp.float32)
    ids_BT, targets_BT = jax.random.randint(jax.random.key(1), (2, 2, 5), 0, len(WORDS))
    weights_BT = jax.random.uniform(jax.random.key(2), ids_BT.shape)
    embed = params["embed"] | {"logit_scale": jnp.float32(0.3)}
    assert abs(float(params["embed"]["logit_scale"]) - 0.02) < 1e-6

    def run(embed, **options):
        return arm.model.apply({"params": params | {"embed": embed}}, ids_BT, arm.bag, **options)

    def dense_logits(embed):
        named = {"capture_intermediates": lambda module, _: module.name == "final_norm", "mutable": ["intermediates"]}
        (x_BTd,) = run(embed, **named)[1]["intermediates"]["final_norm"]["__call__"]
        table_Vd = jnp.matmul(code_VD, embed["projection"], precision="highest")
        return embed["logit_scale"] * jnp.einsum("btd,vd->btv", x_BTd, table_Vd, precision="highest")

    def ours(embed):
        x_BTd, made = run(embed, apart=True)
        return output_head.nats_sum(made, x_BTd, targets_BT, weights_BT)

    def dense(embed):
        return (optax.softmax_cross_entropy_with_integer_labels(dense_logits(embed), targets_BT) * weights_BT).sum()

    np.testing.assert_allclose(run(embed)[..., : len(WORDS)], dense_logits(embed), atol=1e-4)
    (got, got_grad), (want, want_grad) = (jax.jit(jax.value_and_grad(f))(embed) for f in (ours, dense))
    assert got == pytest.approx(float(want), rel=1e-5)
    for name in ("projection", "logit_scale"):
        np.testing.assert_allclose(got_grad[name], want_grad[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arm", "keys", "message"),
    [
        (
            "head_tail",
            {"embedding__truncation": "head"},
            "embedding.truncation is head but embedding.kind=head_tail needs head_tail",
        ),
        ("hash_ngram", {"embedding__norm": "z"}, "embedding.norm is z but embedding.kind=hash_ngram needs length"),
        ("factorized", {}, r"embedding.rank is 2048 but must be below min\(V, d\) = 128"),
        (
            "kronecker",
            {"embedding__rank": 7},
            "embedding.rank is 7 but embedding.kind=kronecker has no rank; set it to 0",
        ),
        (
            "kronecker",
            {"embedding__rank_rows": "used"},
            "embedding.rank_rows is used, which derives the rank of kind factorized; set it to all, or rank to 0",
        ),
        (
            "kronecker",
            {"embedding__redraw": True},
            "embedding.redraw is True, but kind kronecker draws nothing; set it to False, or kind to shuffled_code or",
        ),
        (
            "random_code",
            {"model__tie_head": True},
            "embedding.kind is random_code; set it to False, or use embedding.kind table or kronecker",
        ),
    ],
)
def test_what_an_arm_cannot_be_is_refused_by_its_keys(arm: str, keys: dict, message: str):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        resolved(arm, WORDS, **keys)


@pytest.mark.parametrize("kind", schema.arms.KINDS.values(), ids=lambda kind: kind.name)
def test_what_makes_a_kind_is_there_and_takes_what_it_is_said_to(kind: schema.arms.Kind):
    assert set(kind.takes) <= set(pkgutil.resolve_name(kind.module).__dataclass_fields__)
    assert not kind.bag or callable(pkgutil.resolve_name(kind.bag))


def test_no_two_kinds_share_a_name():
    assert all(arm.kind is schema.arms.kind(arm.kind.name) for arm in schema.arms.ARMS.values())


def test_an_unknown_kind_is_refused_by_the_names_of_those_there_are(words: codec.ByteTable):
    with pytest.raises(ValueError, match=r"embedding\.kind is 'spelled'; allowed: table, factorized, kronecker"):
        build.make_bag(words, "spelled", "z")


def test_a_code_of_another_dimension_than_its_kind_says_is_refused(monkeypatch, words: codec.ByteTable):
    wrong = dataclasses.replace(schema.arms.KRONECKER, code_dim=lambda pos_dim: pos_dim)
    monkeypatch.setitem(schema.arms.KINDS, "kronecker", wrong)
    with pytest.raises(ValueError, match="gives 2,048 rows, but kind kronecker has code_dim 8"):
        build.make_bag(words, "kronecker", "z")
