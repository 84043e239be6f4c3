"""The modules of the arms that take a bag with each call, and the scale at which each arm begins."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import linen as nn

from kronecker.embedding import bags, codec, fixed_code, implementations, linen
from kronecker.runtime import declared

VOCAB, WIDTH, RANK, POS_DIM = 2000, 48, 16, 4
IDS = np.random.default_rng(0).integers(0, VOCAB, (2, 5))


@pytest.fixture(scope="module")
def bag() -> bags.Bag:
    table = codec.byte_table([bytes([i % 256, i // 256]) for i in range(VOCAB)], POS_DIM)
    return implementations.prepare(bags.kronecker_bag(table), "induced")


def test_a_table_looks_up_its_rows_and_its_head_is_itself():
    table = linen.TableEmbed(VOCAB, WIDTH)
    variables = table.init(jax.random.key(0), IDS)
    rows = variables["params"]["table"]
    assert rows.shape == (VOCAB, WIDTH)
    assert float(rows.std()) == pytest.approx(0.02, rel=0.02)
    np.testing.assert_array_equal(table.apply(variables, IDS), rows[IDS])
    head, scale = table.apply(variables, method="output")
    np.testing.assert_array_equal(head, rows)
    assert scale == 1.0


def test_a_factorized_table_is_its_factors_product_with_the_tables_deviation():
    factorized = linen.FactorizedEmbed(VOCAB, WIDTH, RANK)
    variables = factorized.init(jax.random.key(0), IDS)
    factor, up = variables["params"]["factor"], variables["params"]["up"]
    assert (factor.shape, up.shape) == ((VOCAB, RANK), (RANK, WIDTH))
    assert (float(factor.std()), float(up.std())) == (pytest.approx(0.02, rel=0.05), pytest.approx(0.25, rel=0.1))
    want = np.asarray(factor, np.float64)[IDS] @ np.asarray(up, np.float64)
    np.testing.assert_allclose(factorized.apply(variables, IDS), want, rtol=1e-4, atol=1e-6)


def test_a_projection_is_alone_unless_its_head_is_tied(bag: bags.Bag):
    rows = 256 * POS_DIM
    params = jax.jit(linen.BagEmbed(rows, WIDTH, init_std=0.5).init)(jax.random.key(0), IDS, bag)["params"]
    assert jax.tree.map(np.shape, params) == {"projection": (rows, WIDTH)}
    assert float(params["projection"].std()) == pytest.approx(0.5, rel=0.02)
    tied = linen.BagEmbed(rows, WIDTH, init_std=0.5, logit_scale=0.25)
    variables = jax.jit(tied.init)(jax.random.key(0), IDS, bag)
    head, scale = jax.jit(lambda variables: tied.apply(variables, bag, method="output"))(variables)
    assert float(scale) == float(variables["params"]["logit_scale"]) == 0.25
    np.testing.assert_array_equal(head[IDS], jax.jit(tied.apply)(variables, IDS, bag))


def test_a_table_with_a_code_added_is_the_sum_of_both_and_an_id_beyond_it_has_the_code_alone(bag: bags.Bag):
    module = linen.TablePlusBagEmbed(VOCAB - 100, 256 * POS_DIM, WIDTH)
    ids, rng = np.array([[0, 7, 1800], [VOCAB - 100, VOCAB - 1, 3]]), np.random.default_rng(0)
    params = jax.jit(module.init)(jax.random.key(0), ids, bag)["params"]
    assert not params["projection"].any()
    params |= {"projection": rng.normal(size=params["projection"].shape).astype(np.float32)}
    out, pullback = jax.vjp(lambda params: module.apply({"params": params}, ids, bag), params)
    code, table = bags.dense_code(bag, ids.ravel()), np.zeros((VOCAB, WIDTH))
    table[:-100] = params["table"]
    want = code @ np.asarray(params["projection"], np.float64) + table[ids.ravel()]
    np.testing.assert_allclose(out.reshape(-1, WIDTH), want, rtol=1e-5, atol=1e-4)
    grad = rng.normal(size=out.shape).astype(np.float32)
    (found,) = pullback(grad)
    np.testing.assert_allclose(found["projection"], code.T @ grad.reshape(-1, WIDTH), rtol=1e-4, atol=1e-3)
    rows = np.zeros((VOCAB, WIDTH))
    np.add.at(rows, ids.ravel(), grad.reshape(-1, WIDTH))
    np.testing.assert_allclose(found["table"], rows[:-100], rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "matrix"),
    [
        (linen.TableEmbed(VOCAB, WIDTH), "table"),
        (linen.FactorizedEmbed(VOCAB, WIDTH, RANK), "factor"),
        (linen.BagEmbed(256 * POS_DIM, WIDTH, 1.0, logit_scale=1.0), "projection"),
        (linen.TablePlusBagEmbed(VOCAB, 256 * POS_DIM, WIDTH), "table"),
    ],
    ids=["table", "factorized", "bag", "both"],
)
def test_the_input_matrix_is_the_one_that_grows_with_the_vocabulary_or_the_code(
    bag: bags.Bag, module: nn.Module, matrix: str
):
    declarations = declared.of(module, IDS, bag)
    assert [name for name, one in declarations.items() if one.is_input] == [matrix]
    assert {name for name, one in declarations.items() if not one.decays} == set(declarations) & {"logit_scale"}


@pytest.mark.parametrize(("norm", "std"), [("z", (256 * POS_DIM) ** -0.5), ("length", 0.02)])
def test_a_code_says_its_projections_deviation(norm: str, std: float):
    code = fixed_code.kronecker_code(codec.byte_table([b"a"], POS_DIM), norm)
    assert code.init_std == pytest.approx(std, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype("int8"), "code/lengths is int8"),
        (lambda x: x.astype("int32"), "code/lengths is int32"),
        (lambda x: x[:-1], r"code/lengths has shape \(2,\)"),
        (lambda x: np.append(x, x[:1]), r"code/lengths has shape \(4,\)"),
    ],
    ids=["narrower", "wider", "shorter", "longer"],
)
def test_a_code_of_another_type_or_size_is_refused(change: Callable, message: str):
    layer = linen.KroneckerEmbed(
        8, fixed_code.kronecker_code(codec.byte_table([b"a", b"bc", None], 4), implementation="gather")
    )
    variables = layer.init(jax.random.key(0), np.arange(3))
    code = variables["code"] | {"lengths": change(np.asarray(variables["code"]["lengths"]))}
    with pytest.raises(ValueError, match=message):
        layer.apply(variables | {"code": code}, np.arange(3))
