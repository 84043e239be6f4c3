"""KroneckerEmbed as a stranger uses it, in a model, an optimizer and a compiled program of their own."""

import copy
import functools
import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import errors, nnx, serialization
from flax import linen as nn
from jax.sharding import AxisType, Mesh

from kronecker.embedding import bags, codec, fixed_code, implementations, linen
from kronecker.schema import choices

WIDTH = 24
VOCABULARY = 3000
EVERY_NORM = pytest.mark.parametrize("norm", choices.NORMS)
EVERY_IMPLEMENTATION = pytest.mark.parametrize("implementation", choices.IMPLEMENTATIONS)


def bytes_of(vocabulary: int, seed: int = 0) -> list[bytes | None]:
    rng = np.random.default_rng(seed)
    return [None, *(rng.integers(0, 256, i % 21, np.uint8).tobytes() for i in range(1, vocabulary))]


@pytest.fixture(scope="module")
def table() -> codec.ByteTable:
    return codec.byte_table(bytes_of(VOCABULARY), 16)


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCABULARY, (4, 33))


@pytest.fixture(scope="module")
def layer(table: codec.ByteTable) -> linen.KroneckerEmbed:
    return linen.KroneckerEmbed(WIDTH, fixed_code.kronecker_code(table))


class Tagger(nn.Module):
    """A model of someone else's, which holds the layer."""

    embed: nn.Module

    @nn.compact
    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        return nn.Dense(2)(nn.gelu(self.embed(ids_BT)))


@EVERY_NORM
@EVERY_IMPLEMENTATION
def test_it_is_the_trainers_layer_bit_for_bit_and_the_dense_code(
    table: codec.ByteTable, ids: np.ndarray, implementation: str, norm: str
):
    code = fixed_code.kronecker_code(table, norm, implementation)
    ours = linen.KroneckerEmbed(WIDTH, code)
    theirs = linen.BagEmbed(table.code_dim, WIDTH, table.code_dim**-0.5 if norm == "z" else 0.02)
    bag = implementations.prepare(bags.kronecker_bag(table, norm), implementation)
    variables, params = ours.init(jax.random.key(3), ids), theirs.init(jax.random.key(3), ids, bag)["params"]
    np.testing.assert_array_equal(variables["params"]["projection"], params["projection"])

    def value_and_gradient(apply):
        return jax.jit(jax.value_and_grad(lambda params: (apply(params) ** 3).sum()))(params)

    value, gradient = value_and_gradient(lambda params: ours.apply(variables | {"params": params}, ids))
    their_value, their_gradient = value_and_gradient(lambda params: theirs.apply({"params": params}, ids, bag))
    assert value == their_value
    np.testing.assert_array_equal(gradient["projection"], their_gradient["projection"])
    x_BTd = jax.jit(ours.apply)(variables, ids)
    np.testing.assert_array_equal(x_BTd, jax.jit(theirs.apply)({"params": params}, ids, bag))
    exact_BTd = (codec.dense_code(table, ids.ravel(), norm) @ np.asarray(params["projection"], np.float64)).reshape(
        *ids.shape, WIDTH
    )
    assert np.linalg.norm(x_BTd - exact_BTd) / np.linalg.norm(exact_BTd) < 1e-6
    np.testing.assert_array_equal(ours.apply(variables, np.array([0])), np.zeros((1, WIDTH)))  # has no bytes


@pytest.mark.parametrize(("norm", "std"), [("z", 1.0), ("length", 0.02)])
def test_rows_and_initial_scale_come_from_the_code(table: codec.ByteTable, norm: str, std: float):
    with_bytes = np.flatnonzero(table.lengths)
    layer = linen.KroneckerEmbed(256, fixed_code.kronecker_code(table, norm))
    variables = layer.init(jax.random.key(0), with_bytes)
    assert variables["params"]["projection"].shape == (256 * 16, 256)
    assert float(layer.apply(variables, with_bytes).std()) == pytest.approx(std, rel=0.02)
    half_init = nn.initializers.normal(layer.code.init_std / 2)
    half = layer.clone(embedding_init=half_init).init(jax.random.key(0), with_bytes)
    np.testing.assert_array_equal(half["params"]["projection"], variables["params"]["projection"] / 2)


@EVERY_IMPLEMENTATION
def test_a_compiled_program_takes_the_code_as_arguments(table: codec.ByteTable, ids: np.ndarray, implementation: str):
    layer = linen.KroneckerEmbed(WIDTH, fixed_code.kronecker_code(table, implementation=implementation))
    variables = layer.init(jax.random.key(0), ids)

    @jax.jit
    def gradient(params: Any, code: Any, ids: jax.Array) -> Any:
        return jax.grad(lambda params: layer.apply({"params": params, "code": code}, ids).sum())(params)

    @jax.jit
    def with_the_code_inside(params: Any, ids: jax.Array) -> Any:
        return layer.apply({"params": params, "code": variables["code"]}, ids)

    params, code = variables["params"], variables["code"]
    assert max(constants(jax.jit(layer.apply), variables, ids), default=0) <= 17  # A and B by length
    assert max(constants(gradient, params, code, ids), default=0) <= 17
    assert max(constants(with_the_code_inside, params, ids)) >= VOCABULARY * 16
    compiled = gradient.lower(params, code, ids).compile().as_text()
    symbols_or_codes = rf"u32\[{VOCABULARY},4096\]" if implementation == "cached" else rf"u8\[{VOCABULARY},16\]"
    assert re.search(rf"{symbols_or_codes}\S* parameter\(", compiled)


def constants(program: Any, *arguments: Any) -> list[int]:
    """Returns the sizes of the constants written out in a lowered program, those of one value throughout left out."""
    text = program.lower(*arguments).as_text()
    shapes = re.findall(r'dense(?:_resource)?<(?:"|\[|__)[^>]*> : tensor<((?:\d+x)+)', text)
    return [int(np.prod([int(size) for size in shape.split("x")[:-1]])) for shape in shapes]


def test_an_optimizer_of_the_parameters_trains_it_in_another_model(layer: linen.KroneckerEmbed, ids: np.ndarray):
    model, optimizer = Tagger(layer), optax.adamw(1e-2)
    variables = model.init(jax.random.key(0), ids)
    params, code = variables["params"], variables["code"]
    assert jax.tree.map(jnp.shape, dict(params["embed"])) == {"projection": (4096, WIDTH)}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    labels = jnp.asarray(ids % 2)

    @jax.jit
    def step(params, state, code):
        def loss(params):
            logits = model.apply({"params": params, "code": code}, ids)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(20):
        params, state, loss = step(params, state, code)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 2
    assert step._cache_size() == 1


def test_a_checkpoint_may_hold_the_code_or_leave_it_out(layer: linen.KroneckerEmbed, ids: np.ndarray):
    model = Tagger(layer)
    variables = model.init(jax.random.key(0), ids)
    logits = model.apply(variables, ids)
    blank = jax.tree.map(jnp.zeros_like, variables)
    restored = serialization.from_bytes(blank, serialization.to_bytes(variables))
    np.testing.assert_array_equal(model.apply(restored, ids), logits)
    again, made = model.apply({"params": variables["params"]}, ids, mutable="code")
    np.testing.assert_array_equal(again, logits)
    jax.tree.map(np.testing.assert_array_equal, made["code"], variables["code"])


def test_variables_without_the_code_or_with_another_are_refused(layer: linen.KroneckerEmbed, ids: np.ndarray):
    model = Tagger(layer)
    variables = model.init(jax.random.key(0), ids)
    with pytest.raises(ValueError, match=r'lack code/embed/symbols; pass the collection "code" from `init`'):
        model.apply({"params": variables["params"]}, ids)
    other = layer.clone(code=fixed_code.kronecker_code(codec.byte_table(bytes_of(50), 16)))
    with pytest.raises(ValueError, match=r"code/symbols has shape \(3000, 16\) but this layer's code has \(50, 16\)"):
        other.apply({name: tree["embed"] for name, tree in variables.items()}, ids)


def test_what_it_cannot_embed_is_refused(table: codec.ByteTable, layer: linen.KroneckerEmbed, ids: np.ndarray):
    variables = layer.init(jax.random.key(0), ids)
    with pytest.raises(TypeError, match="ids are float32; they must be integers"):
        layer.apply(variables, np.ones((2, 3), np.float32))
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    with pytest.raises(ValueError, match=r"axes \('data',\) but batch_axes are \('data', 'fsdp'\); give as batch_axes"):
        layer.clone(mesh=mesh).apply(variables, ids)
    with pytest.raises(ValueError, match="norm is 'l2'; allowed: z, length"):
        fixed_code.kronecker_code(table, norm="l2")
    with pytest.raises(ValueError, match="'fast'; allowed: auto, cached, onthefly, bag"):
        fixed_code.kronecker_code(table, implementation="fast")


def test_its_table_is_what_it_embeds(table: codec.ByteTable, ids: np.ndarray):
    layer = linen.KroneckerEmbed(WIDTH, fixed_code.kronecker_code(table, implementation="induced"))
    variables = layer.init(jax.random.key(0), ids)
    projection_Dd = variables["params"]["projection"]
    table_Vd = implementations.induced_table(projection_Dd, layer.code.bag)
    np.testing.assert_array_equal(table_Vd[ids], layer.apply(variables, ids))
    with pytest.raises(ValueError, match=r"""prepared for 'bag'; call prepare\(bag, "induced"\) first"""):
        implementations.induced_table(projection_Dd, bags.kronecker_bag(table))


def test_types_of_parameters_and_products(layer: linen.KroneckerEmbed, ids: np.ndarray):
    small = layer.clone(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = small.init(jax.random.key(0), ids)
    assert variables["params"]["projection"].dtype == small.apply(variables, ids).dtype == jnp.bfloat16
    assert layer.clone(dtype="bfloat16").apply(layer.init(jax.random.key(0), ids), ids).dtype == jnp.bfloat16


@pytest.mark.parametrize("lifted", [nn.jit, nn.remat], ids=["jit", "remat"])
def test_lifted_by_flax_it_is_the_same(layer: linen.KroneckerEmbed, ids: np.ndarray, lifted: Any):
    variables = layer.init(jax.random.key(0), ids)
    same = lifted(linen.KroneckerEmbed)(WIDTH, layer.code)
    np.testing.assert_array_equal(same.apply(variables, ids), layer.apply(variables, ids))


def test_modules_are_equal_where_they_hold_the_same_code(table: codec.ByteTable, layer: linen.KroneckerEmbed):
    same, other = layer.clone(), layer.clone(code=fixed_code.kronecker_code(table))
    assert same == layer
    assert hash(same) == hash(layer)
    assert other != layer
    assert "code = Code(3,000 ids, 4,096 rows, bag)" in repr(layer)


def test_left_to_choose_it_takes_what_the_platform_is_best_at(layer: linen.KroneckerEmbed):
    assert layer.code.bag.implementation == implementations.choose(jax.default_backend())


def test_on_a_mesh_it_is_the_same(layer: linen.KroneckerEmbed, ids: np.ndarray):
    variables = layer.init(jax.random.key(0), ids)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    np.testing.assert_array_equal(
        jax.jit(layer.clone(mesh=mesh).apply)(variables, ids), jax.jit(layer.apply)(variables, ids)
    )


def test_it_can_be_sent_to_another_process(layer: linen.KroneckerEmbed, ids: np.ndarray):
    variables = layer.init(jax.random.key(0), ids)
    copy = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(copy.apply(variables, ids), layer.apply(variables, ids))


def test_in_nnx_the_projection_alone_is_a_parameter(layer: linen.KroneckerEmbed, ids: np.ndarray):
    bridged = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(ids)
    assert list(nnx.state(bridged, nnx.Param)) == ["projection"]
    variables = {"params": {"projection": bridged.projection[...]}}
    np.testing.assert_array_equal(bridged(ids), layer.apply(variables, ids, mutable="code")[0])


def test_donating_its_variables_leaves_the_code_as_it_was(table: codec.ByteTable, ids: np.ndarray):
    layer = linen.KroneckerEmbed(WIDTH, fixed_code.kronecker_code(table, implementation="cached"))
    variables = layer.init(jax.random.key(0), ids)
    expected = np.asarray(layer.apply(variables, ids))
    jax.jit(lambda v: v, donate_argnums=0)(variables)
    again = layer.init(jax.random.key(0), ids)
    np.testing.assert_array_equal(layer.apply(again, ids), expected)


def test_misuse_is_told_with_its_mend(layer: linen.KroneckerEmbed, table: codec.ByteTable, ids: np.ndarray):
    variables = layer.init(jax.random.key(0), ids)
    cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    with pytest.raises(ValueError, match=r"code/\S+ is bfloat16, not \w+; cast only the parameters"):
        layer.apply(cast, ids)
    with pytest.raises(TypeError, match=r"code is a ByteTable; make it with kronecker_code\(byte_table\(...\)\)"):
        linen.KroneckerEmbed(WIDTH, table).init(jax.random.key(0), ids)
    with pytest.raises(TypeError, match="token_bytes contains the str 'a' at 0; give a list with the bytes of each id"):
        codec.byte_table(["a"], 4)
    explicit = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Explicit,) * 2)
    with pytest.raises(ValueError, match=r"make it with axis_types=\(AxisType.Auto,\) \* 2 from jax.sharding"):
        layer.clone(mesh=explicit).apply(variables, ids)
    assert copy.deepcopy(layer) == layer


def test_an_id_too_large_for_int32_is_the_last_one(layer: linen.KroneckerEmbed):
    far = np.array([2**31 + 5, 2**32 - 3, layer.code.bag.vocab - 1], np.uint32)
    variables = layer.init(jax.random.key(0), far)
    x = np.asarray(layer.apply(variables, far))
    np.testing.assert_array_equal(x, np.broadcast_to(x[2], x.shape))


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_types_and_sizes_are_those_of_a_table(
    layer: linen.KroneckerEmbed, ids: np.ndarray, dtype: str | None, param_dtype: str
):
    how = {"dtype": dtype, "param_dtype": param_dtype}
    for embed in (nn.Embed(VOCABULARY, WIDTH, **how), layer.clone(**how)):
        variables = jax.eval_shape(embed.init, jax.random.key(0), ids)
        queries = jnp.ones((2, WIDTH), "bfloat16")
        of_call = jax.eval_shape(embed.apply, variables, ids)
        of_attend = jax.eval_shape(functools.partial(embed.apply, method="attend"), variables, queries)
        assert jax.tree.leaves(variables["params"])[0].dtype == param_dtype
        assert of_call.dtype == of_attend.dtype == (dtype or param_dtype)
        assert (of_call.shape, of_attend.shape) == ((*ids.shape, WIDTH), (2, VOCABULARY))
        assert (embed.num_embeddings, embed.features) == (VOCABULARY, WIDTH)


def test_a_tied_head_is_that_of_a_table_with_its_embeddings(layer: linen.KroneckerEmbed, ids: np.ndarray):
    variables = layer.init(jax.random.key(0), ids)
    table_Vd = layer.apply(variables, np.arange(VOCABULARY))
    queries = jax.random.normal(jax.random.key(1), (3, WIDTH))
    ours = layer.apply(variables, queries, method="attend")
    table = nn.Embed(VOCABULARY, WIDTH).apply({"params": {"embedding": table_Vd}}, queries, method="attend")
    np.testing.assert_allclose(ours, table, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_table", [True, False], ids=["table", "kronecker"])
def test_names_for_partitioning_are_kept(layer: linen.KroneckerEmbed, ids: np.ndarray, is_table: bool):
    init = nn.with_partitioning(nn.initializers.normal(0.02), (None, "model"))
    embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=init) if is_table else layer.clone(embedding_init=init)
    variables = embed.init(jax.random.key(0), ids)
    specs = nn.get_partition_spec(variables)["params"]
    assert list(specs.values()) == [jax.P(None, "model")]
    assert embed.apply(variables, ids).shape == (*ids.shape, WIDTH)


def test_other_vocabularies_and_any_strings_use_the_same_parameters(layer: linen.KroneckerEmbed, ids: np.ndarray):
    variables = layer.init(jax.random.key(0), ids)
    words = bytes_of(VOCABULARY)
    fewer = layer.clone(code=layer.code.for_vocabulary([*words[40:90], b"new"]))
    old, new = layer.apply(variables, np.arange(40, 90)), fewer.init_with_output(jax.random.key(0), np.arange(50))[1]
    x, _ = fewer.apply({"params": variables["params"]}, np.arange(50), mutable="code")
    np.testing.assert_allclose(x, old, rtol=1e-5, atol=1e-6)
    assert jax.tree.map(jnp.shape, new["params"]) == jax.tree.map(jnp.shape, variables["params"])
    strings = layer.apply(variables, words[40:90], method="encode_bytes")
    np.testing.assert_allclose(strings, old, rtol=1e-5, atol=1e-6)


class Step(nn.Module):
    """One step of a scan, or what is mapped, over batches: a layer that is made within."""

    layer: Any

    @nn.compact
    def __call__(self, carry: float, ids_BT: jax.Array) -> tuple[float, jax.Array]:
        return carry, self.layer()(ids_BT)


def lifted(layer: Any, transform: Any, options: dict[str, Any]) -> tuple[Any, jax.Array]:
    """Returns variables and outputs of a layer that nn.vmap or nn.scan calls once for each of two rows of ids."""
    ids = jnp.array([[0, 1, 2], [7, 1, 0]])
    axes = {"in_axes": (None, 0), "out_axes": (None, 0)} if transform is nn.vmap else {}
    model = transform(Step, **axes, **options)(layer)
    variables = model.init(jax.random.key(0), 0.0, ids)
    return variables, model.apply(variables, 0.0, ids)[1]


# What the layer needs beside the table's options, and what is said where it is missing.
OWN = {"params": 0}
SPLIT, ONE = {"split_rngs": {"params": True}}, {"split_rngs": {"params": False}}
LIFTED = {
    "vmap, own": (nn.vmap, {"variable_axes": OWN, **SPLIT}, {"variable_axes": {**OWN, "code": None}}),
    "vmap, one": (
        nn.vmap,
        {"variable_axes": {"params": None}, **ONE},
        {"variable_axes": {"params": None, "code": None}},
    ),
    "scan, own": (nn.scan, {"variable_axes": OWN, **SPLIT}, {"variable_broadcast": "code"}),
    "scan, one": (nn.scan, {"variable_broadcast": "params", **ONE}, {"variable_broadcast": ("params", "code")}),
}


@pytest.mark.parametrize("name", LIFTED)
def test_a_lifted_layer_needs_one_option_more_than_a_table_and_says_which(name: str, layer: linen.KroneckerEmbed):
    transform, options, more = LIFTED[name]
    rows = 2 if name.endswith("own") else None
    variables, _ = lifted(lambda: nn.Embed(VOCABULARY, WIDTH), transform, options)
    assert variables["params"]["Embed_0"]["embedding"].shape == (
        (rows, VOCABULARY, WIDTH) if rows else (VOCABULARY, WIDTH)
    )

    def made() -> nn.Module:
        return linen.KroneckerEmbed(WIDTH, layer.code)

    with pytest.raises(ValueError, match=r'^the collection "code" was not') as missing:
        lifted(made, transform, options)
    assert (
        'under nn.vmap give variable_axes={"params": 0, "code": None}, under nn.scan variable_axes={"params": 0} and '
        'variable_broadcast="code", and split_rngs={"params": True} to both'
    ) in str(missing.value)
    variables, x = lifted(made, transform, options | more)
    (own,) = variables["params"].values()
    assert own["projection"].shape[:-2] == ((rows,) if rows else ())
    for row, ids in enumerate([[0, 1, 2], [7, 1, 0]]):
        W = own["projection"][row] if rows else own["projection"]
        np.testing.assert_allclose(
            x[row], implementations.product(W, layer.code.bag, np.array(ids)), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("transform", [nn.vmap, nn.scan])
def test_a_lifted_layer_names_what_flax_lacks_for_a_table_too(transform: Any, layer: linen.KroneckerEmbed):
    def made() -> nn.Module:
        return linen.KroneckerEmbed(WIDTH, layer.code)

    for options, lacking in (
        ({}, 'the collection "params" and the collection "code" was not given'),
        ({"variable_axes": {"params": 0, "code": 0}}, 'the key "params" was not given'),
    ):
        with pytest.raises(errors.FlaxError):
            lifted(lambda: nn.Embed(VOCABULARY, WIDTH), transform, options)
        with pytest.raises(ValueError, match=f"^{lacking} .*split_rngs="):
            lifted(made, transform, options)


def test_variables_without_the_code_or_with_a_stacked_one_name_the_options_of_a_lifted_layer(
    layer: linen.KroneckerEmbed,
):
    def made() -> nn.Module:
        return linen.KroneckerEmbed(WIDTH, layer.code)

    ids, stacking = jnp.zeros((2, 3), int), {"variable_axes": {"params": 0, "code": 0}, **SPLIT}
    whole = nn.scan(Step, variable_axes=OWN, variable_broadcast="code", **SPLIT)(made)
    stacked, _ = lifted(made, nn.scan, stacking)
    with pytest.raises(ValueError, match=r"a vmap or scan stacked or split it unlike W; keep it whole: variable_axes="):
        whole.apply(stacked, 0.0, ids)
    with pytest.raises(ValueError, match=r'the variables lack code/KroneckerEmbed_0/\w+; .*variable_broadcast="code"'):
        nn.scan(Step, variable_axes=OWN, **SPLIT)(made).apply(stacked, 0.0, ids)
    with pytest.raises(ValueError, match='the key "params" was not given to `init`'):
        layer.init({"dropout": jax.random.key(0)}, ids)
