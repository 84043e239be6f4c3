"""Declarations of parameters, where they are created: axes, weight decay, whether it is the input's matrix.

    kernel = self.param("kernel", declared.matrix(nn.initializers.normal(0.02), "width", "hidden"), shape)

`of` returns the declarations: Flax metadata boxes around the shapes of the initial values.
Outside `of` such an initializer returns a plain array, so that users of a module never see a box.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import struct

_asked = contextvars.ContextVar("_asked", default=False)  # whether initializers return boxes


class Declared(nn.Partitioned):
    """A parameter's value, or its shape, with its declaration; `names` are logical axes, keys of sharding.RULES."""

    decays: bool = struct.field(default=False, pytree_node=False)  # whether it has weight decay
    is_input: bool = struct.field(default=False, pytree_node=False)  # whether it is the input embedding's one matrix

    def unbox(self, apply_constraint: bool = True) -> Any:
        return self.value  # without Flax's constraint, which takes `names` for axes of a mesh


def of(module: nn.Module, *args: Any) -> dict[str, Any]:
    """Returns a `Declared` with a shape for each parameter of `init(*args)`; raises ValueError if one is undeclared."""
    leaves, structure = jax.tree.flatten(args)
    return _of(module, structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves))


@functools.lru_cache(maxsize=8)  # a run asks four times; to trace a model takes half a second
def _of(module: nn.Module, structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> dict[str, Any]:
    def boxed(*args):  # a new function each time, as JAX would reuse the trace of an old one
        token = _asked.set(True)
        try:
            return module.init(jax.random.key(0), *args)["params"]
        finally:
            _asked.reset(token)

    tree = jax.eval_shape(boxed, *structure.unflatten(shapes))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_declared):
        if not is_declared(leaf):
            raise ValueError(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.shape}: this parameter has no "
                "declaration; create it with an initializer from declared.matrix or declared.vector"
            )
    return tree


def matrix(init: Callable[..., jax.Array], *axes: str, is_input: bool = False) -> Callable[..., Any]:
    """Returns an initializer of a parameter with weight decay; `axes` and `is_input` as of `Declared`."""
    return _initializer(init, axes, decays=True, is_input=is_input)


def vector(init: Callable[..., jax.Array], *axes: str) -> Callable[..., Any]:
    """Returns an initializer of a parameter without weight decay: a bias, or a scale."""
    return _initializer(init, axes, decays=False, is_input=False)


def _initializer(init: Callable[..., jax.Array], axes: tuple[str, ...], **facts: bool) -> Callable[..., Any]:
    return lambda *args: Declared(init(*args), axes, **facts) if _asked.get() else init(*args)


def decays(declarations: Any) -> Any:
    return jax.tree.map(lambda one: one.decays, declarations, is_leaf=is_declared)


def input_matrix(params: Any, declarations: Any) -> jax.Array:
    """Returns the learned matrix of the input embedding: a table, its first factor, or a projection."""
    boxes = jax.tree.leaves(declarations, is_leaf=is_declared)
    return next(leaf for leaf, box in zip(jax.tree.leaves(params), boxes, strict=True) if box.is_input)


def is_declared(node: Any) -> bool:
    """For `jax.tree`'s is_leaf."""
    return isinstance(node, Declared)
