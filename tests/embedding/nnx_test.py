"""The layer in NNX: what `nnx.Embed` does in other people's programs, it does too."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import kronecker
from kronecker.embedding import codec, fixed_code, linen
from kronecker.embedding import nnx as ours

WIDTH, VOCABULARY = 6, 40
WORDS: list[bytes | None] = [None, *(str(number).encode() for number in range(1, VOCABULARY))]
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))


@pytest.fixture(scope="module")
def code() -> fixed_code.Code:
    return fixed_code.kronecker_code(codec.byte_table(WORDS, 4))


@pytest.fixture(params=["table", "kronecker"])
def make(request: pytest.FixtureRequest, code: fixed_code.Code) -> Any:
    """Makes nnx.Embed, or the layer in its place."""

    def made(**how: Any) -> nnx.Module:
        rngs = how.pop("rngs", None) or nnx.Rngs(0)
        if request.param == "table":
            return nnx.Embed(VOCABULARY, WIDTH, rngs=rngs, **how)
        return ours.KroneckerEmbed(WIDTH, code, rngs=rngs, **how)

    return made


def parameter(embed: nnx.Module) -> nnx.Param:
    return embed.embedding if isinstance(embed, nnx.Embed) else embed.projection


def constants_of(embed: nnx.Module) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(embed, nnx.Not(nnx.Param)))]


def test_it_is_found_under_the_packages_name():
    assert kronecker.nnx.KroneckerEmbed is ours.KroneckerEmbed
    assert kronecker.nnx.CodeArray is ours.CodeArray


def test_it_is_the_layer_of_linen(code: fixed_code.Code):
    embed, layer = ours.KroneckerEmbed(WIDTH, code, rngs=nnx.Rngs(0)), linen.KroneckerEmbed(WIDTH, code)
    variables = {"params": {"projection": embed.projection[...]}, "code": code.arrays()}
    np.testing.assert_array_equal(nnx.jit(lambda embed: embed(IDS))(embed), jax.jit(layer.apply)(variables, IDS))
    queries = jnp.ones((3, WIDTH))
    np.testing.assert_allclose(embed.attend(queries), layer.apply(variables, queries, method="attend"), rtol=1e-6)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_types_are_those_of_a_table(make: Any, dtype: str | None, param_dtype: str):
    embed = make(dtype=dtype and jnp.dtype(dtype), param_dtype=jnp.dtype(param_dtype))
    expected = dtype or param_dtype
    assert parameter(embed).dtype == param_dtype
    assert jax.eval_shape(embed, IDS).dtype == expected
    assert jax.eval_shape(embed.attend, jnp.ones((2, WIDTH), "bfloat16")).dtype == expected
    assert (embed.num_embeddings, embed.features) == (VOCABULARY, WIDTH)


def test_an_optimizer_decays_parameters_alone(make: Any):
    embed = make()
    optimizer = nnx.Optimizer(embed, optax.adamw(1e-2, weight_decay=0.5), wrt=nnx.Param)
    before, constants = np.asarray(parameter(embed)[...]), constants_of(embed)

    @nnx.jit
    def step(embed, optimizer):
        loss, gradient = nnx.value_and_grad(lambda embed: (embed.attend(embed(IDS)) ** 2).mean())(embed)
        optimizer.update(embed, gradient)
        return loss

    losses = [float(step(embed, optimizer)) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    assert not np.allclose(parameter(embed)[...], before)
    for leaf, old in zip(constants_of(embed), constants, strict=True):
        np.testing.assert_array_equal(leaf, old)


def test_it_is_split_merged_and_restored_from_a_checkpoint(make: Any, tmp_path: Path):
    embed = make()
    graph, state = nnx.split(embed)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        blank = jax.tree.map(jnp.zeros_like, state)
        restored = checkpointer.restore(tmp_path / "state", blank)
    np.testing.assert_array_equal(nnx.merge(graph, restored)(IDS), embed(IDS))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(nnx.clone(embed)), state)


@pytest.mark.parametrize("where", ["the initializer", "the metadata"])
def test_names_for_sharding_are_kept(make: Any, where: str):
    names = (None, "model")
    how = {"embedding_metadata": {"out_sharding": names}}
    if where == "the initializer":
        how = {"embedding_init": nnx.with_partitioning(nnx.initializers.normal(0.02), names)}
    with jax.set_mesh(jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))):
        embed = make(**how)
        (spec,) = nnx.to_flat_state(nnx.get_partition_spec(nnx.state(embed, nnx.Param))).leaves
        assert spec == jax.P(*names)
        assert embed(IDS).shape == (2, 9, WIDTH)


def test_flax_prints_its_table_of_calls_and_leaves_it_whole(make: Any):
    embed = make()
    text = nnx.tabulate(embed, jnp.asarray(IDS), console_kwargs={"width": 200})
    assert f"float32[2,9,{WIDTH}]" in re.sub("\x1b[^m]*m", "", text)
    assert embed(IDS).shape == (2, 9, WIDTH)


def test_a_program_takes_the_code_as_arguments(code: fixed_code.Code):
    graph, state = nnx.split(ours.KroneckerEmbed(WIDTH, code, rngs=nnx.Rngs(0)))
    text = jax.jit(lambda state, ids: nnx.merge(graph, state)(ids)).lower(state, IDS).as_text()
    assert re.search(rf"%arg\d+: tensor<{VOCABULARY}x4xui8>", text)
    assert not re.search(rf"constant dense<.*> : tensor<{VOCABULARY}x", text)


def test_a_vocabulary_grows_and_shrinks_over_the_same_parameters(code: fixed_code.Code):
    embed = ours.KroneckerEmbed(WIDTH, code, rngs=nnx.Rngs(0))
    old_Vd = np.asarray(embed(np.arange(VOCABULARY)))
    for vocabulary in ([*WORDS, b"new", b"forty"], WORDS[5:20]):
        embed.set_code(code.for_vocabulary(vocabulary))
        assert embed.num_embeddings == len(vocabulary)
        kept = [i for i, word in enumerate(vocabulary) if word in WORDS]
        new_Vd = np.asarray(embed(np.arange(len(vocabulary))))
        np.testing.assert_allclose(new_Vd[kept], old_Vd[[WORDS.index(vocabulary[i]) for i in kept]], rtol=1e-5)
        assert embed.attend(jnp.ones(WIDTH)).shape == (len(vocabulary),)


def test_any_string_has_an_embedding(code: fixed_code.Code):
    embed = ours.KroneckerEmbed(WIDTH, code, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    strings = [b"17", b"no token", b""]
    exact = codec.dense_code(codec.byte_table(strings, 4), np.arange(3), "z") @ np.asarray(embed.projection[...])
    assert embed.encode_bytes(strings).dtype == jnp.bfloat16
    np.testing.assert_allclose(embed.encode_bytes(strings).astype(jnp.float32), exact, atol=0.02)
    np.testing.assert_array_equal(embed.encode_bytes(strings)[0], embed(np.array(17)))
    assert embed.encode_bytes([]).shape == (0, WIDTH)
    with pytest.raises(TypeError, match="contains the str 'text'"):
        embed.encode_bytes(["text"])


def test_what_does_not_fit_is_refused(code: fixed_code.Code):
    embed = ours.KroneckerEmbed(WIDTH, code, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"code is a list; make it with kronecker_code\(byte_table\(...\)\)"):
        ours.KroneckerEmbed(WIDTH, WORDS, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"W has 1,024 rows, the code 2,048; make it with Code.for_vocabulary"):
        embed.set_code(fixed_code.kronecker_code(codec.byte_table(WORDS, 8)))
    with pytest.raises(TypeError, match="ids are float32; they must be integers"):
        embed(np.ones(3, np.float32))
    other = ours.KroneckerEmbed(WIDTH, code.for_vocabulary(WORDS[:9]), rngs=nnx.Rngs(0))
    nnx.update(embed, nnx.state(other))
    with pytest.raises(ValueError, match=r"arrays/symbols has shape \(9, 4\) but this layer's code has \(40, 4\)"):
        embed(IDS)


WHOLE = nnx.StateAxes({nnx.Param: 0, ...: None})


@pytest.mark.parametrize("axes", [0, WHOLE], ids=["0", "StateAxes"])
def test_layers_made_by_vmap_are_called_by_vmap_and_scan_with_the_same_axes(make: Any, axes: Any):
    ids = jnp.array(IDS)
    layers = nnx.vmap(lambda rngs: make(rngs=rngs), out_axes=axes)(nnx.Rngs(0).split(2))
    x = nnx.vmap(lambda layer, ids: layer(ids), in_axes=(axes, 0))(layers, ids)
    _, again = nnx.scan(lambda carry, layer, ids: (carry, layer(ids)), in_axes=(nnx.Carry, axes, 0))(0.0, layers, ids)
    np.testing.assert_array_equal(x, again)
    assert not np.array_equal(*nnx.state(layers, nnx.Param)[next(iter(nnx.state(layers, nnx.Param)))][...])


def test_a_layer_for_all_is_passed_with_axis_none(make: Any):
    layer = make()
    x = nnx.vmap(lambda layer, ids: layer(ids), in_axes=(None, 0))(layer, jnp.array(IDS))
    np.testing.assert_allclose(x, layer(IDS), rtol=1e-6)
    with pytest.raises(ValueError, match="inconsistent sizes"):  # JAX's words, of a table too
        nnx.vmap(lambda layer, ids: layer(ids))(layer, jnp.array(IDS))


@pytest.mark.parametrize("axes", [None, WHOLE], ids=["None", "StateAxes"])
def test_a_code_that_was_stacked_alone_names_the_axes_to_give(code: fixed_code.Code, axes: Any):
    layers = nnx.vmap(lambda rngs: ours.KroneckerEmbed(WIDTH, code, rngs=rngs))(nnx.Rngs(0).split(2))
    said = (
        r"arrays/\w+ has shape \(2, .*stacked or split it unlike W; .*nnx.StateAxes\({nnx.Param: 0, ...: None}\) in NNX"
    )
    with pytest.raises(ValueError, match=said):
        nnx.vmap(lambda layer, ids: layer(ids), in_axes=(axes, 0))(layers, jnp.array(IDS))
