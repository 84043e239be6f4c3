"""The contenders of the encoder's benchmark: the product's implementations, a learned table, the author's package.

Each is timed on three measures.  forward: the embeddings of a batch.  gradient: these, and the gradient of its one
trained matrix for a given cotangent.  update: these, and an update by the optimizer of training, with donated state.

Shapes: N tokens, V vocabulary, D rows of the projection, M rows of the trained matrix (D or V), d model width.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from kronecker.benchmark import package, timing
from kronecker.benchmark.settings import GATHER_BY_ONE_HOT, REFERENCE, TABLE
from kronecker.embedding import bags, codec, implementations
from kronecker.training import input_side, plan

MEASURES = ("forward", "gradient", "update")
FLOAT_BYTES = 4  # parameters, embeddings and gradients are float32


@dataclasses.dataclass(frozen=True)
class Problem:
    """The inputs of every contender of a setting."""

    table: codec.ByteTable  # the vocabulary's bytes
    ids: np.ndarray  # int32 (batches, N)
    width: int  # d
    dtype: str  # operands of matrix products
    config: ml_collections.ConfigDict  # resolved; its optimizer is the one that is timed
    cache_limit_mb: float  # limit for the codes of "cached"
    # Repetitions of the work within one compiled program, so that the time to launch it does not count; the author's
    # package always runs it once.
    turns: int = 1

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]

    @functools.cached_property
    def bag(self) -> bags.Bag:
        return bags.kronecker_bag(self.table)

    @functools.cached_property
    def projection(self) -> np.ndarray:
        """An initial projection (D, d)."""
        std = self.table.code_dim**-0.5
        return np.random.default_rng(0).normal(0, std, (self.table.code_dim, self.width)).astype(np.float32)

    @functools.cached_property
    def grad(self) -> np.ndarray:
        """The cotangent (N, d)."""
        return np.random.default_rng(1).normal(0, 1 / self.tokens, (self.tokens, self.width)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Contender:
    """An input side that can be timed."""

    name: str  # one of settings.NAMES
    calls: Mapping[str, timing.Call]  # measure -> what to time
    # returns the embeddings (N, d) of the first batch and the gradient (M, d)
    result: Callable[[], tuple[np.ndarray, np.ndarray]]
    memory: Mapping[str, Any]  # measure -> bytes by kind
    least_bytes: Mapping[str, int]  # measure -> see `least_bytes`
    device: str  # "cpu", "gpu" or "tpu"


def make(name: str, problem: Problem) -> Contender | str:
    """Returns a contender of settings.NAMES, or why it cannot be timed."""
    if name == REFERENCE:
        return _package(problem) if package.installed() else package.MISSING
    if name == TABLE:
        return _table(problem)
    implementation, gradient = ("gather", "onehot") if name == GATHER_BY_ONE_HOT else (name, "scatter")
    how = {"limit_mb": problem.cache_limit_mb, "platform": jax.default_backend(), "gather_gradient": gradient}
    try:
        bag = implementations.prepare(problem.bag, implementation, problem.dtype, **how)
    except ValueError as error:  # the codes would be too large
        return str(error)
    embed = functools.partial(implementations.product, dtype=problem.dtype)
    return _jax(name, problem, embed, problem.projection, bag, least_bytes(problem))


def least_bytes(problem: Problem, table: bool = False) -> dict[str, int]:
    """Returns a lower bound on memory traffic, in bytes by measure: inputs read once, outputs written once.

    forward   ids; bytes and lengths of the distinct ids; the matrix rows that are used (all D of a projection,
              because codes are centred; the distinct ids' rows of a table); embeddings
    gradient  the same, the cotangent, and the gradient (M rows)
    update    the same, and seven times M rows: gradient, matrix and both moments read, matrix and moments written
    """
    distinct = round(np.mean([len(np.unique(ids)) for ids in problem.ids]))
    matrix_rows = len(problem.table.lengths) if table else problem.table.code_dim
    rows_read = distinct if table else matrix_rows
    row = FLOAT_BYTES * problem.width
    code = 0 if table else distinct * (problem.table.pos_dim + problem.bag.lengths.itemsize)
    forward = problem.tokens * problem.ids.itemsize + code + rows_read * row + problem.tokens * row
    gradient = forward + problem.tokens * row + matrix_rows * row
    return dict(zip(MEASURES, (forward, gradient, gradient + 7 * matrix_rows * row), strict=True))


def _table(problem: Problem) -> Contender:
    vocab = len(problem.table.lengths)
    layer = nn.Embed(vocab, problem.width)

    def embed(table_Vd, bag, ids_N):
        del bag
        return layer.apply({"params": {"embedding": table_Vd}}, ids_N)

    table_Vd = np.random.default_rng(0).normal(0, 0.02, (vocab, problem.width)).astype(np.float32)
    return _jax(TABLE, problem, embed, table_Vd, None, least_bytes(problem, table=True))


def _jax(
    name: str,
    problem: Problem,
    embed: input_side.Embed,
    matrix_Md: np.ndarray,
    bag: bags.Bag | None,
    least: Mapping[str, int],
) -> Contender:
    side = input_side.make_input_side(embed, problem.config)
    matrix, bag, grad = jax.device_put((matrix_Md, jax.tree.map(jnp.asarray, bag), problem.grad))
    ids = [jnp.asarray(batch) for batch in problem.ids]
    if problem.turns > 1:
        side = _in_turns(side)
        ids = [jnp.asarray(np.resize(problem.ids, (problem.turns, problem.tokens)))]
    first = jnp.broadcast_to(jnp.asarray(problem.ids[0]), ids[0].shape)
    state = side.init(jnp.array(matrix_Md))  # a copy, because it is donated
    forwards = jax.jit(side.forward).lower(matrix, bag, ids[0]).compile()
    gradients = jax.jit(side.gradient).lower(matrix, bag, ids[0], grad).compile()
    updates = jax.jit(side.update, donate_argnums=(0, 1)).lower(*state, bag, ids[0], grad).compile()

    def update_call(number: int) -> None:
        nonlocal state
        *state, out_Nd = updates(*state, bag, ids[number % len(ids)], grad)
        jax.block_until_ready((state, out_Nd))

    calls = {
        "forward": lambda number: jax.block_until_ready(forwards(matrix, bag, ids[number % len(ids)])),
        "gradient": lambda number: jax.block_until_ready(gradients(matrix, bag, ids[number % len(ids)], grad)),
        "update": update_call,
    }
    compiled = dict(zip(MEASURES, (forwards, gradients, updates), strict=True))
    return Contender(
        name,
        calls,
        lambda: jax.device_get(gradients(matrix, bag, first, grad)),
        {measure: plan.Memory.of(program).to_json() for measure, program in compiled.items()},
        least,
        jax.default_backend(),
    )


def _in_turns(side: input_side.InputSide) -> input_side.InputSide:
    """Returns the same functions of ids (K, N): they process the K batches in order and return the last result.

    Each turn depends on the result of the turn before.  Otherwise the compiler would hoist work out of the loop that
    training repeats in every step, such as rounding W or the cotangent.
    """

    def forward(matrix_Md, bag, ids_KN):
        return _loop(lambda _, ids_N, matrix, bag: side.forward(matrix, bag, ids_N), None, ids_KN, matrix_Md, bag)

    def gradient(matrix_Md, bag, ids_KN, grad_Nd):
        def turn(_, ids_N, matrix_Md, bag, grad_Nd):
            return side.gradient(matrix_Md, bag, ids_N, grad_Nd)

        return _loop(turn, None, ids_KN, matrix_Md, bag, grad_Nd)

    def update(params, opt_state, bag, ids_KN, grad_Nd):
        def turn(before, ids_N, bag, grad_Nd):
            return side.update(*before[:2], bag, ids_N, grad_Nd)

        return _loop(turn, (params, opt_state), ids_KN, bag, grad_Nd)

    return input_side.InputSide(side.init, forward, gradient, update)


def _loop(turn: Callable[..., Any], state: tuple[Any, ...] | None, ids_KN: jax.Array, *arguments: Any) -> Any:
    """Returns the last result of `turn`, called as turn(previous result, ids (N,), *arguments) for each row of ids.

    `state` is the first "previous result", or its first entries; None if `turn` ignores the previous result.
    """
    shapes = jax.eval_shape(turn, state, ids_KN[0], *arguments)
    before = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    if state is not None:
        before = (*state, *before[len(state) :])

    def body(before, ids_N):
        return turn(*jax.lax.optimization_barrier((before, ids_N, *arguments))), None

    return jax.lax.scan(body, before, ids_KN)[0]


def _package(problem: Problem) -> Contender:
    layer = package.Layer(problem.table, problem.projection, problem.config.train, jax.default_backend() == "gpu")
    ids = [layer.to_device(batch) for batch in problem.ids]
    grad = layer.to_device(problem.grad)
    calls = {
        "forward": lambda number: layer.forward(ids[number % len(ids)]),
        "gradient": lambda number: layer.gradient(ids[number % len(ids)], grad),
        "update": lambda number: layer.update(ids[number % len(ids)], grad),
    }
    memory = {}
    if layer.device == "cpu":
        memory["update"] = package.peak_memory(problem.table, problem.width, problem.config.train, problem.ids[0])

    def result() -> tuple[np.ndarray, np.ndarray]:
        out, grad_Dd = layer.gradient(ids[0], grad)
        return out.cpu().numpy(), grad_Dd.cpu().numpy()

    return Contender(REFERENCE, calls, result, memory, least_bytes(problem), layer.device.replace("cuda", "gpu"))
