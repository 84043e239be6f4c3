"""The decoder: its init, its options, and what two arms share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kronecker.embedding import bags, codec, linen
from kronecker.model import accounting, transformer

SHAPE = transformer.Shape(layers=3, heads=2, d_model=16, context=12, vocab_size=100, padded_vocab=128)
IDS = np.random.default_rng(0).integers(0, 99, (2, 12))
UNUSED = 99


def table_model(**options) -> transformer.Transformer:
    shape = dataclasses.replace(SHAPE, **options)
    return transformer.Transformer(shape, linen.TableEmbed(shape.padded_vocab, shape.d_model, dtype=shape.dtype))


def init(model: transformer.Transformer, *bags: bags.Bag, seed: int = 0) -> dict:
    return jax.jit(model.init)(jax.random.key(seed), IDS, *bags)["params"]


def logits(model: transformer.Transformer, params: dict, ids: np.ndarray = IDS, **kwargs) -> jax.Array:
    return jax.jit(model.apply, static_argnames="train")({"params": params}, ids, **kwargs)


def mean_loss(model: transformer.Transformer, params: dict, **kwargs) -> jax.Array:
    return jax.nn.logsumexp(model.apply({"params": params}, IDS, **kwargs), axis=-1).mean()


@pytest.fixture(scope="module")
def params() -> dict:
    return init(table_model())


@pytest.mark.parametrize("options", [{"scan_layers": True}, {"remat": True}, {"scan_layers": True, "remat": True}])
def test_scan_and_remat_leave_loss_and_gradients_equal(params: dict, options: dict):
    want_loss, want = jax.jit(jax.value_and_grad(lambda p: mean_loss(table_model(), p)))(params)
    loss, got = jax.jit(jax.value_and_grad(lambda p: mean_loss(table_model(**options), p)))(params)
    assert loss == pytest.approx(float(want_loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


def test_scanned_layers_start_from_the_same_parameters(params: dict):
    scanned = init(table_model(scan_layers=True))
    jax.tree.map(np.testing.assert_array_equal, scanned, params)


def test_every_parameter_outside_the_embedding_is_equal_across_arms(params: dict):
    codes = codec.byte_table([bytes([i]) for i in range(100)], 8, SHAPE.padded_vocab)
    embed = linen.BagEmbed(rows=codes.code_dim, features=SHAPE.d_model, init_std=0.02)
    other = init(transformer.Transformer(SHAPE, embed), bags.kronecker_bag(codes))
    assert accounting.body_hash(other) == accounting.body_hash(params)
    np.testing.assert_array_equal(other["head"], params["head"])
    assert other["embed"].keys() != params["embed"].keys()


def test_a_tied_model_has_the_untied_ones_body_and_no_head(params: dict):
    tied = init(table_model(tie_head=True))
    assert accounting.body_hash(tied) == accounting.body_hash(params)
    assert "head" not in tied


def test_tied_logits_are_products_with_the_table():
    model = table_model(tie_head=True, layers=1)
    params = init(model, seed=1)
    doubled = params | {"embed": {"table": params["embed"]["table"].at[UNUSED].mul(2.0)}}
    before, after = (logits(model, p)[..., UNUSED] for p in (params, doubled))
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)


def test_init_is_gpt2s(params: dict):
    wide = init(table_model(d_model=128, layers=8))
    blocks = wide["blocks"]
    assert blocks["attention"]["qkv"]["kernel"].std() == pytest.approx(0.02, rel=0.02)
    assert blocks["up"]["kernel"].std() == pytest.approx(0.02, rel=0.02)
    assert blocks["attention"]["out"]["kernel"].std() == pytest.approx(0.02 / 4, rel=0.02)
    assert blocks["down"]["kernel"].std() == pytest.approx(0.02 / 4, rel=0.02)
    assert wide["positions"].std() == pytest.approx(0.02, rel=0.1)
    assert wide["head"].std() == pytest.approx(0.02, rel=0.02)
    assert not blocks["up"]["bias"].any()
    assert np.all(blocks["mlp_norm"]["scale"] == 1)


def test_layers_start_different_from_each_other(params: dict):
    kernel = params["blocks"]["up"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])


def test_padded_vocabulary_has_no_probability_and_no_gradient(params: dict):
    model = table_model()
    assert np.all(np.isneginf(logits(model, params)[..., 100:]))
    gradient = jax.jit(jax.grad(lambda p: mean_loss(model, p)))(params)["head"]
    assert np.isfinite(gradient).all()
    assert not gradient[:, 100:].any()


def test_a_later_token_does_not_change_an_earlier_output(params: dict):
    changed = IDS.copy()
    changed[:, 7] = (changed[:, 7] + 1) % 100
    before, after = (logits(table_model(), params, ids) for ids in (IDS, changed))
    np.testing.assert_array_equal(before[:, :7, :100], after[:, :7, :100])
    assert not np.allclose(before[:, 7:, :100], after[:, 7:, :100])


def test_the_model_without_biases_has_none():
    leaves = jax.tree_util.tree_leaves_with_path(init(table_model(bias=False)))
    assert not [path for path, _ in leaves if path[-1].key == "bias"]


def test_dropout_acts_in_training_alone(params: dict):
    model = table_model(dropout=0.5)
    plain = logits(model, params)
    np.testing.assert_array_equal(plain, logits(table_model(), params))
    first, again, other = (
        logits(model, params, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[..., :100], other[..., :100])
    assert not np.allclose(first[..., :100], plain[..., :100])


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    model = table_model(dtype="bfloat16")
    params = init(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    rounded, exact = logits(model, params), logits(table_model(), params)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact)[..., :100].max() < 0.02


def test_bfloat16_compute_leaves_the_residual_stream_in_float32():
    model = table_model(dtype="bfloat16", scan_layers=True)
    traced = jax.make_jaxpr(lambda p: model.apply({"params": p}, IDS))(init(model))
    (scan,) = (equation for equation in traced.eqns if equation.primitive.name == "scan")
    (carry,) = (var.aval for var in scan.outvars if var.aval.shape == (2, 12, 16))  # other outputs have a layer axis
    assert carry.dtype == jnp.float32


def test_parameters_by_group_add_up_to_gpt2s():
    shape = transformer.Shape(12, 12, 768, 1024, 50257, 50304)
    model = transformer.Transformer(shape, linen.TableEmbed(50304, 768))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    sizes = accounting.count(abstract)
    assert sizes["input"] == sizes["head"] == 50304 * 768
    assert sizes["body"] == 124_439_808 - 50257 * 768  # GPT-2's published total, less its tied table
    assert sizes["total"] == sizes["input"] + sizes["body"] + sizes["head"]
