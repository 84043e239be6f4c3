"""What a parameter is, declared where it is created: its axes, whether it decays, whether it is the input's matrix.

    kernel = self.param("kernel", declared.matrix(nn.initializers.normal(0.02), "width", "hidden"), shape)

`of` returns the declarations: Flax metadata boxes, as `nn.Partitioned` is, around the shapes of the initial values.
Everywhere else such an initializer makes a plain array, so that no user of a module meets a box.
"""

import contextvars
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import struct
from flax.core import meta

_asked = contextvars.ContextVar("_asked", default=False)  # whether initializers put their values into boxes


class Declared(struct.PyTreeNode, meta.AxisMetadata):
    """A parameter's value, or its shape, and what is true of it."""

    value: Any
    axes: tuple[str, ...] = struct.field(pytree_node=False)  # a logical name for each axis, of sharding.RULES
    decays: bool = struct.field(pytree_node=False)  # whether weight decay acts on it
    is_input: bool = struct.field(pytree_node=False)  # whether it is the one matrix that the input embedding learns

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "Declared":
        return self.replace(value=val)

    # Flax calls these two where `nn.scan` stacks the values of its layers, and takes one of them.
    def add_axis(self, index: int, params: dict[Any, Any]) -> "Declared":
        return self.replace(axes=(*self.axes[:index], params[nn.PARTITION_NAME], *self.axes[index:]))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Declared":
        return self.replace(axes=(*self.axes[:index], *self.axes[index + 1 :]))


def of(module: nn.Module, *args: Any) -> dict[str, Any]:
    """Returns a `Declared` for each parameter, its value a shape; `args` as of `module.init`, without the key.

    Raises ValueError if a parameter declares nothing.
    """

    def boxed(*args):  # a function of its own each time, or JAX would remember what it traced unasked
        token = _asked.set(True)
        try:
            return module.init(jax.random.key(0), *args)["params"]
        finally:
            _asked.reset(token)

    tree = jax.eval_shape(boxed, *args)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_declared):
        if not is_declared(leaf):
            raise ValueError(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.shape}: a parameter that declares "
                "nothing; create it with an initializer from declared.matrix or declared.vector"
            )
    return tree


def matrix(init: Callable[..., jax.Array], *axes: str, is_input: bool = False) -> Callable[..., Any]:
    """Returns an initializer of a parameter that decays; `axes` and `is_input` as of `Declared`."""
    return _initializer(init, axes, decays=True, is_input=is_input)


def vector(init: Callable[..., jax.Array], *axes: str) -> Callable[..., Any]:
    """Returns an initializer of a parameter that does not decay: a bias, or a scale."""
    return _initializer(init, axes, decays=False, is_input=False)


def _initializer(init: Callable[..., jax.Array], axes: tuple[str, ...], **facts: bool) -> Callable[..., Any]:
    return lambda *args: Declared(init(*args), axes, **facts) if _asked.get() else init(*args)


def decays(declarations: Any) -> Any:
    """Returns whether weight decay acts on each parameter."""
    return jax.tree.map(lambda one: one.decays, declarations, is_leaf=is_declared)


def input_matrix(params: Any, declarations: Any) -> jax.Array:
    """Returns the matrix that the input embedding learns: a table, the first factor of one, or a projection."""
    boxes = jax.tree.leaves(declarations, is_leaf=is_declared)
    return next(leaf for leaf, box in zip(jax.tree.leaves(params), boxes, strict=True) if box.is_input)


def is_declared(node: Any) -> bool:
    """Returns whether a node of a tree is a declaration, which `jax.tree` would else look into."""
    return isinstance(node, Declared)
