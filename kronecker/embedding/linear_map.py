"""A linear function with a transpose of its own, which all of JAX's transformations accept.

JAX cannot transpose a loop whose length depends on data, `jax.custom_vjp` refuses forward mode and a second reverse
pass, and `jax.custom_derivatives.linear_call` refuses `vmap`.  So each function here is a JAX primitive: its derivative
is itself, its transpose is the given one.

Shapes: R rows of the operand, N rows of the result, d columns, B batch of `vmap`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A function (x_Rd, *constants, **static) -> (N, d), and its transpose, (N, d) -> (R, d)."""

    forward: Callable[..., jax.Array]
    transpose: Callable[..., jax.Array]
    join: Callable[..., tuple[Any, ...]] | None


def with_transpose(
    transpose: Callable[..., jax.Array], join: Callable[..., tuple[Any, ...]] | None = None
) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Makes a function (x_Rd, *constants, **static) -> (N, d) linear in x alone, with the given transpose.

    Both treat each column by itself.  `constants` are pytrees of integer arrays, the last of which has N entries;
    static arguments are given by keyword.

    `join(*constants)` is for `vmap`: given constants with a leading axis B, all but the first, it returns those of the
    B N rows together.  Without it the examples of a batch are computed one after another.
    """

    def decorate(forward):
        pair = _Pair(forward, transpose, join)

        @functools.wraps(forward)
        def call(x_Rd: jax.Array, *constants: Any, **static: Any) -> jax.Array:
            return _bind(x_Rd, constants, pair=pair, static=tuple(static.items()), rows=x_Rd.shape[0], turned=False)

        return call

    return decorate


def by_usual_promotion(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function compute by JAX's usual promotion of types and ranks, also in a program that forbids it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return call


def _bind(x: jax.Array, constants: Sequence[Any], **params: Any) -> jax.Array:
    leaves, tree = jax.tree.flatten(tuple(constants))
    return _map_p.bind(x, *leaves, tree=tree, **params)


@by_usual_promotion
def _compute(x, *leaves, pair, static, tree, rows, turned):
    del rows
    return (pair.transpose if turned else pair.forward)(x, *jax.tree.unflatten(tree, leaves), **dict(static))


def _abstract(x, *leaves, rows, turned, **_):
    return x.update(shape=(rows if turned else leaves[-1].shape[0], x.shape[1]))


def _jvp(primals, tangents, **params):
    out, tangent = _map_p.bind(*primals, **params), tangents[0]
    if type(tangent) is ad.Zero:
        return out, ad.Zero.from_primal_value(out)
    return out, _map_p.bind(tangent, *primals[1:], **params)


def _transpose(cotangent, x, *leaves, turned, **params):
    del x
    if type(cotangent) is not ad.Zero:
        cotangent = _map_p.bind(cotangent, *leaves, turned=not turned, **params)
    return [cotangent, *[None] * len(leaves)]


@by_usual_promotion
def _batch(arrays, axes, *, tree, turned, **params):
    x, *leaves = arrays
    mapped = jax.tree.unflatten(tree, [axis is not None for axis in axes[1:]])
    if not any(jax.tree.leaves(mapped)):
        x = jnp.moveaxis(x, axes[0], 2)
        out = _map_p.bind(x.reshape(x.shape[0], -1), *leaves, tree=tree, turned=turned, **params)
        return out.reshape(out.shape[0], *x.shape[1:]), 2
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    if size and params["pair"].join and not turned and axes[0] is None and not any(jax.tree.leaves(mapped[0])):
        held = len(jax.tree.leaves(mapped[0]))
        fronts = [batching.bdim_at_front(*one, size) for one in zip(leaves[held:], axes[1 + held :], strict=True)]
        constants = jax.tree.unflatten(tree, [*leaves[:held], *fronts])
        out = _bind(x, params["pair"].join(*constants), turned=turned, **params)
        return out.reshape(size, -1, out.shape[1]), 0
    fronts = [None if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes, strict=True)]

    def one(fronts):
        x, *leaves = (a if front is None else front for a, front in zip(arrays, fronts, strict=True))
        return _map_p.bind(x, *leaves, tree=tree, turned=turned, **params)

    return jax.lax.map(one, fronts), 0


_map_p = Primitive("kronecker_linear_map")
_map_p.def_impl(_compute)
_map_p.def_abstract_eval(_abstract)
mlir.register_lowering(_map_p, mlir.lower_fun(_compute, multiple_results=False))
ad.primitive_jvps[_map_p] = _jvp
ad.primitive_transposes[_map_p] = _transpose
batching.primitive_batchers[_map_p] = _batch
