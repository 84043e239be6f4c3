"""From a config to an arm: which bytes, which cut, which implementation."""

import dataclasses

import jax
import ml_collections
import numpy as np
import pytest

from configs import base
from kronecker.embedding import codec, implementations
from kronecker.model import build
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
