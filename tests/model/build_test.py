"""From a config to an arm: which bytes, which cut, which implementation."""

import dataclasses

import jax
import ml_collections
import numpy as np
import optax
import pytest

from configs import base
from kronecker.embedding import codec, implementations
from kronecker.model import build, output_head, transformer
from kronecker.runtime import device_mesh
from kronecker.schema import choices, resolution

TOKENS = [bytes([value]) for value in range(256)] + [b"a token of more than eight bytes", "日本語".encode()]


def resolved(**embedding) -> ml_collections.ConfigDict:
    c = base.get_config()
    c.embedding.pos_dim = 8
    c.embedding.update(embedding)
    return resolution.with_vocabulary(resolution.resolve(c), len(TOKENS))


@pytest.mark.parametrize("name", ["cached", "onthefly", "gather", "onehot", "induced"])
def test_an_implementation_can_be_asked_for(name: str):
    assert build.build(resolved(implementation=name), TOKENS).bag.implementation == name


@pytest.mark.parametrize("gradient", ["scatter", "onehot"])
def test_the_gradient_of_gather_can_be_asked_for(gradient: str):
    bag = build.build(resolved(implementation="gather", gather_gradient=gradient), TOKENS).bag
    assert bag.gather_gradient == gradient
    assert implementations.describe(bag) == f"gather, gradient by {gradient}"


@pytest.mark.parametrize(("platform", "name"), [("cpu", "bag"), ("gpu", "gather"), ("tpu", "onehot")])
def test_auto_has_a_choice_of_its_own_for_each_platform(platform: str, name: str):
    assert implementations.choose(platform) == name


def test_a_bag_on_a_gpu_says_what_it_costs():
    c = resolved(implementation="bag")
    arm, mesh = build.build(c, TOKENS), device_mesh.make_mesh(c)
    assert "gather" not in build.product_line(arm, c, mesh)
    on_gpu = dataclasses.replace(arm, bag=arm.bag.replace(platform="gpu"))
    assert build.product_line(on_gpu, c, mesh).endswith("10 to 20 ms per step; gather launches one")


def test_codes_above_the_limit_are_refused_by_the_key_that_sets_it():
    with pytest.raises(ValueError, match=r"MB in float32, above embedding\.cache_limit_mb = 1;"):
        build.build(resolved(implementation="cached", cache_limit_mb=1.0), TOKENS)


@pytest.mark.parametrize("truncation", choices.TRUNCATIONS)
def test_the_truncation_policy_reaches_the_table(truncation: str):
    codes = build.build(resolved(truncation=truncation), TOKENS).codes
    assert codes.bytes[256, : codes.lengths[256]].tobytes() == codec.truncate(TOKENS[256], 8, truncation)
    assert codes.lengths[257] == (6 if truncation == "head" else 8)


@pytest.mark.parametrize("norm", choices.NORMS)
def test_inference_looks_up_a_table_and_gives_the_same_logits(norm: str):
    c = resolved(norm=norm)
    c.model.layers, c.model.d_model = 1, 32
    arm = build.build(c, TOKENS)
    ids = np.arange(len(TOKENS)).reshape(2, -1)
    params = jax.jit(arm.model.init)(jax.random.key(0), ids, arm.bag)["params"]
    inference, its_params = build.with_table(arm, params)
    assert inference.bag is None
    assert its_params["embed"]["table"].shape == (c.model.padded_vocab, 32)
    np.testing.assert_allclose(
        inference.model.apply({"params": its_params}, ids), arm.model.apply({"params": params}, ids, arm.bag), atol=1e-5
    )


def test_a_device_embeds_its_share_of_a_micro_batch():
    c = resolved()
    c.train.batch, c.train.sequence, c.train.accumulate = 16, 256, 4
    assert build.tokens_a_device(c) == 1024


@pytest.mark.parametrize(
    ("key", "value"),
    [("truncation", "tail"), ("byte_source", "utf8"), ("implementation", "fused"), ("cache_limit_mb", 0.0)],
)
def test_a_value_that_is_not_allowed_names_its_key(key: str, value):
    with pytest.raises(ValueError, match=rf"embedding\.{key} is {value!r}; "):
        resolved(**{key: value})


def tiny(**keys) -> ml_collections.ConfigDict:
    sizes = {"model.layers": 1, "model.d_model": 32, "embedding.pos_dim": 8}
    c = base.apply(base.get_config(), sizes | {key.replace("__", "."): value for key, value in keys.items()})
    return resolution.with_vocabulary(resolution.resolve(c), len(TOKENS))


@pytest.mark.parametrize("tie_head", [False, True])
def test_the_scale_multiplies_what_enters_the_body_and_not_what_a_tied_head_uses(tie_head: bool):
    ids = np.arange(8).reshape(2, -1)
    scaled = build.build(tiny(embedding__scale=0.5, model__tie_head=tie_head), TOKENS)
    plain = build.build(tiny(model__tie_head=tie_head), TOKENS)
    params = jax.jit(plain.model.init)(jax.random.key(0), ids, plain.bag)["params"]
    apply = {arm: jax.jit(arm.model.apply) for arm in (scaled, plain)}
    half = params["embed"] | {"projection": params["embed"]["projection"] / 2}
    if tie_head:
        half["logit_scale"] = 2 * half["logit_scale"]  # gives the head the unscaled table back
    np.testing.assert_allclose(
        apply[scaled]({"params": params}, ids, scaled.bag),
        apply[plain]({"params": params | {"embed": half}}, ids, plain.bag),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(build.input_table(scaled, params), build.input_table(plain, params) / 2)
    inference, its_params = build.with_table(scaled, params)
    np.testing.assert_array_equal(build.input_table(inference, its_params), build.input_table(scaled, params))


def test_a_scale_of_one_leaves_the_program_as_it_is():
    ids, arm = np.zeros((1, 4), np.int32), build.build(tiny(), TOKENS)
    without = dataclasses.replace(arm, model=transformer.Transformer(arm.model.shape, arm.model.embed))
    texts = {str(jax.make_jaxpr(one.model.init)(jax.random.key(0), ids, one.bag)) for one in (arm, without)}
    assert len(texts) == 1


@pytest.mark.parametrize(("chunk", "tie_head"), [(0, False), (8, False), (0, True)])
def test_the_unigram_bias_is_added_to_the_logits_and_is_not_a_parameter(chunk: int, tie_head: bool):
    c, counts = tiny(model__unigram_bias=True, model__tie_head=tie_head), np.arange(len(TOKENS)) % 7
    biased = build.build(c, TOKENS, counts_V=counts)
    plain = build.build(tiny(model__tie_head=tie_head), TOKENS)
    ids, targets = np.random.default_rng(0).integers(0, len(TOKENS), (2, 2, 8))
    params = jax.jit(biased.model.init)(jax.random.key(0), ids, biased.bag)["params"]
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(plain.model.init, jax.random.key(0), ids, plain.bag)["params"]
    )
    want = np.log((counts + 1) / (counts + 1).sum())

    def ours(params):
        x, head = biased.model.apply({"params": params}, ids, biased.bag, apart=True)
        return output_head.nats_sum(head, x, targets, np.ones(ids.shape, np.float32), chunk)

    def by_hand(params):
        logits = plain.model.apply({"params": params}, ids, plain.bag)[..., : len(TOKENS)] + want
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).sum()

    (got, got_grad), (loss, grad) = (jax.jit(jax.value_and_grad(f))(params) for f in (ours, by_hand))
    assert got == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got_grad, grad)


def test_a_unigram_bias_without_counts_is_refused():
    with pytest.raises(ValueError, match="nothing here counts a training text"):
        build.build(tiny(model__unigram_bias=True), TOKENS)


def test_a_run_draws_its_code_by_its_seed_if_redraw_says_so():
    def symbols(seed: int, redraw: bool) -> np.ndarray:
        config = resolved(arm="shuffled_code", kind="shuffled_code", redraw=redraw)
        config.seed = seed
        return build.build(config, TOKENS).bag.symbols

    fixed = symbols(3, False)
    np.testing.assert_array_equal(fixed, symbols(4, False))
    assert (symbols(3, True) != fixed).any()
    assert (symbols(4, True) != symbols(3, True)).any()
