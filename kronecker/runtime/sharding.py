"""Layouts of arrays: a mesh of devices, logical names for arrays' axes, and one table from these to the mesh's axes.

The mesh has three axes.  `data` and `fsdp` split the batch; `fsdp` also splits parameters and optimizer state along the
model's width; `tensor` splits heads, the hidden layer and the vocabulary.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kronecker.runtime import declared

BATCH_AXES = ("data", "fsdp")  # the mesh axes that split the batch

# Logical axis of an array -> mesh axes that split it; None: every device holds all of it.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,
    "width": "fsdp",  # of parameters
    "vocab": "tensor",
    "head": "tensor",
    "hidden": "tensor",
    "stream": None,  # the width of activations
    "feature": None,  # of vectors along the width, too small to be worth communication
    "time": None,
    "layer": None,
    "qkv": None,
    "head_width": None,
    "code": None,
    "rank": None,
}


def platform(mesh: Mesh | None) -> str:
    """Returns "cpu", "gpu" or "tpu": the platform of `mesh`, whose devices may be simulated; None: JAX's default."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_axes(mesh: Mesh | None) -> tuple[str, ...]:
    return () if mesh is None else BATCH_AXES


def head_axes(mesh: Mesh | None) -> tuple[str, ...]:
    return () if mesh is None else (RULES["head"],)


def batch_shards(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def spec_of(names: Sequence[str], path: str) -> PartitionSpec:
    """Returns the mesh axes that split an array with the logical axes `names`; `path` is the array's, for errors.

    Raises ValueError if RULES lacks a name, or splits two of the axes over one mesh axis.
    """
    if unknown := [name for name in names if name not in RULES]:
        raise ValueError(f"{path}: sharding.RULES has no logical axis {unknown[0]!r}; allowed: {', '.join(RULES)}")
    spec = [RULES[name] for name in names]
    used = [axis for axes in spec for axis in ((axes,) if isinstance(axes, str) else axes or ())]
    if twice := next((axis for axis in used if used.count(axis) > 1), None):
        raise ValueError(
            f"{path}: sharding.RULES splits two of its axes ({', '.join(names)}) over the mesh axis {twice!r}; "
            "choose another mesh axis for one of them, or None"
        )
    return PartitionSpec(*spec)


def with_shardings(tree: Any, declarations: Any, mesh: Mesh) -> Any:
    """Returns the shapes and types of a state's arrays, each with its sharding on `mesh`.

    An array whose path ends with a parameter's path is split like the parameter, if it has the same shape (moments) or
    lacks some of its axes (factored moments).  All other arrays are replicated.

    `tree` holds arrays or shapes: parameters, or a state with parameters and optimizer state; `declarations` has a
    `declared.Declared` for each parameter.  Raises ValueError if RULES lacks an axis, or a parameter's axis is not
    divisible by the number of parts that the mesh splits it into.
    """
    by_path = {
        _path(keys): one
        for keys, one in jax.tree_util.tree_leaves_with_path(declarations, is_leaf=declared.is_declared)
    }
    specs = {path: _spec(path, one, mesh) for path, one in by_path.items()}

    def with_sharding(keys, leaf):
        path = f"/{_path(keys)}"
        owner = max((known for known in by_path if path.endswith(f"/{known}")), key=len, default=None)
        spec = PartitionSpec() if owner is None else _part(leaf.shape, by_path[owner].value.shape, specs[owner])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(with_sharding, tree)


def constrain(x: jax.Array, names: Sequence[str], mesh: Mesh | None) -> jax.Array:
    """Returns `x`, laid out by its axes' logical names; unchanged if `mesh` cannot split it, such as a batch of one."""
    if mesh is None or mesh.size == 1:
        return x
    spec = spec_of(names, "activations")
    if any(size % _parts(axes, mesh) for size, axes in zip(x.shape, spec, strict=True)):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree`, equal on all hosts, as arrays on every device; float64 becomes float32 unless x64 is on."""
    return jax.device_put(jax.tree.map(jnp.asarray, tree), replicated(mesh))


def abstract_replica(tree: Any, mesh: Mesh) -> Any:
    """Returns the shapes, types and shardings of `replicate`'s result; the devices may be simulated."""
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)


def gathered(x: jax.Array) -> np.ndarray:
    """Returns a full array on this host; all hosts must call it if they share the array."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        x = jax.jit(lambda x: x, out_shardings=replicated(x.sharding.mesh))(x)
    return jax.device_get(x)


def host_share(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): this host loads part `index` of the `count` equal parts of each batch.

    Hosts whose devices differ along `tensor` only load the same part.  Raises ValueError if two hosts share some of
    their rows, but not all.
    """
    rows_of: dict[int, set[int]] = {}
    for device, (rows,) in split_batch(mesh).devices_indices_map((batch_shards(mesh),)).items():
        rows_of.setdefault(device.process_index, set()).add(rows.start or 0)
    parts = sorted({tuple(sorted(rows)) for rows in rows_of.values()})
    if sum(map(len, parts)) != batch_shards(mesh) or len({len(part) for part in parts}) != 1:
        raise ValueError(
            f"mesh {dict(mesh.shape)}: two hosts would share some rows of a batch, but not all; choose a mesh.tensor "
            "that divides the number of devices of a host, or is a multiple of it"
        )
    return parts.index(tuple(sorted(rows_of[jax.process_index()]))), len(parts)


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have called this with the same name."""
    multihost_utils.sync_global_devices(name)


def to_devices(local: np.ndarray, mesh: Mesh) -> jax.Array:
    """Returns the global array of which `local` is this host's part of the rows, see `host_share`."""
    with jax.transfer_guard_host_to_device("allow"):  # with several hosts JAX considers it an implicit transfer
        return jax.make_array_from_process_local_data(split_batch(mesh), local)


def _part(shape: tuple[int, ...], whole: tuple[int, ...], spec: PartitionSpec) -> PartitionSpec:
    """Returns the spec of an array with some of the axes of shape `whole`; replicated if sizes are ambiguous."""
    kept = [axes for axes in itertools.combinations(range(len(whole)), len(shape)) if _take(whole, axes) == shape]
    found = {_take(spec, axes) for axes in kept}
    return PartitionSpec(*found.pop()) if len(found) == 1 else PartitionSpec()


def _take(of: Sequence[Any], axes: Iterable[int]) -> tuple[Any, ...]:
    return tuple(of[axis] for axis in axes)


def _spec(path: str, one: declared.Declared, mesh: Mesh) -> PartitionSpec:
    spec = spec_of(one.names, path)
    for name, size, axes in zip(one.names, one.value.shape, spec, strict=True):
        parts = _parts(axes, mesh)
        if size % parts:
            key = axes if isinstance(axes, str) else " x mesh.".join(axes)
            raise ValueError(
                f"{path}: its axis {name!r} has size {size:,}, which is not divisible by mesh.{key}={parts}; "
                f"set this to a divisor of {size:,}"
            )
    return spec


def _parts(axes: str | Sequence[str] | None, mesh: Mesh) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return int(np.prod([mesh.shape[name] for name in names], dtype=int))


def _path(keys: Sequence[Any]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
