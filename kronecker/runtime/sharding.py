"""Where arrays live: one mesh of devices, logical names for the axes of arrays, and one table that joins the two.

The mesh has three axes.  `data` and `fsdp` split the batch; `fsdp` also splits the parameters along the model's width
and the optimizer's state with them; `tensor` splits heads, the hidden layer and the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")  # of the mesh, that split the batch

# Logical axis of an array -> axes of the mesh that split it; None: every device holds all of it.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,
    "width": "fsdp",  # of parameters
    "vocab": "tensor",
    "head": "tensor",
    "hidden": "tensor",
    "stream": None,  # the width of activations
    "feature": None,  # of vectors along the width, which are too small to be worth a message
    "time": None,
    "layer": None,
    "qkv": None,
    "head_width": None,
    "code": None,
    "rank": None,
}

# Logical axes of every parameter, by its path; the optimizer's state has the paths of its parameters.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "positions": ("time", "width"),
    "head": ("width", "vocab"),
    "embed/table": ("vocab", "width"),
    "embed/factor": ("vocab", "rank"),
    "embed/up": ("rank", "width"),
    "embed/projection": ("code", "width"),
    "embed/logit_scale": (),
    "blocks/attention_norm/scale": ("layer", "feature"),
    "blocks/attention_norm/bias": ("layer", "feature"),
    "blocks/attention/qkv/kernel": ("layer", "width", "qkv", "head", "head_width"),
    "blocks/attention/qkv/bias": ("layer", "qkv", "head", "head_width"),
    "blocks/attention/out/kernel": ("layer", "head", "head_width", "width"),
    "blocks/attention/out/bias": ("layer", "feature"),
    "blocks/mlp_norm/scale": ("layer", "feature"),
    "blocks/mlp_norm/bias": ("layer", "feature"),
    "blocks/up/kernel": ("layer", "width", "hidden"),
    "blocks/up/bias": ("layer", "hidden"),
    "blocks/down/kernel": ("layer", "hidden", "width"),
    "blocks/down/bias": ("layer", "feature"),
    "final_norm/scale": ("feature",),
    "final_norm/bias": ("feature",),
}


def platform(mesh: Mesh | None) -> str:
    """Returns "cpu", "gpu" or "tpu": that of the devices of `mesh`, which need not be there; None: of JAX's own."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of codes and scalars."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_axes(mesh: Mesh | None) -> tuple[str, ...]:
    """Returns the axes of `mesh` that split the batch; none without a mesh."""
    return () if mesh is None else BATCH_AXES


def head_axes(mesh: Mesh | None) -> tuple[str, ...]:
    """Returns the axes of `mesh` that split the heads of attention; none without a mesh."""
    return () if mesh is None else (RULES["head"],)


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts `mesh` splits a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def spec_of(names: Sequence[str], path: str) -> PartitionSpec:
    """Returns the axes of the mesh that split an array of these logical axes.

    Args:
      names: one for each axis of the array.
      path: of the array, for messages.

    Raises:
      ValueError: if RULES has no such name, or two axes of the array would be split over one axis of the mesh.
    """
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise ValueError(f"{path}: sharding.RULES has no logical axis {unknown[0]!r}; it has {', '.join(RULES)}")
    spec = [RULES[name] for name in names]
    used = [axis for axes in spec for axis in ((axes,) if isinstance(axes, str) else axes or ())]
    twice = next((axis for axis in used if used.count(axis) > 1), None)
    if twice:
        raise ValueError(
            f"{path}: sharding.RULES splits two of its axes ({', '.join(names)}) over the mesh's {twice!r}; "
            "let them differ, or one be None"
        )
    return PartitionSpec(*spec)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns the sharding of each array of a state or of a tree of parameters, by its path.

    Args:
      tree: of arrays or their shapes; scalars are replicated.
      mesh: of the devices.

    Raises:
      ValueError: if PARAMETERS has no such path, or an axis does not divide by the part of the mesh that splits it.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _sharding(_path(path), leaf, mesh), tree)


def with_shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns the shapes and types of a tree of arrays, each with its sharding on `mesh`; raises as `shardings`."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, shardings(tree, mesh)
    )


def constrain(x: jax.Array, names: Sequence[str], mesh: Mesh | None) -> jax.Array:
    """Returns `x`, laid out by the logical names of its axes; as it is without a mesh, or where that cannot split it.

    Initialisation and sampling run the model on a batch of one, which no mesh splits.
    """
    if mesh is None or mesh.size == 1:
        return x
    spec = spec_of(names, "activations")
    if any(size % _parts(axes, mesh) for size, axes in zip(x.shape, spec, strict=True)):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree`, equal on every host, as arrays on every device; float64 becomes float32 unless x64 is on."""
    return jax.device_put(jax.tree.map(jnp.asarray, tree), replicated(mesh))


def abstract_replica(tree: Any, mesh: Mesh) -> Any:
    """Returns the shapes, types and shardings of what `replicate` returns, for devices that need not be there."""
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)


def gathered(x: jax.Array) -> np.ndarray:
    """Returns the whole of an array on this host; collective over hosts where devices share it."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        x = jax.jit(lambda x: x, out_shardings=replicated(x.sharding.mesh))(x)
    return jax.device_get(x)


def host_share(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): this host feeds part `index` of the `count` equal parts of each batch.

    Hosts whose devices differ along `tensor` alone feed the same part.

    Raises:
      ValueError: if two hosts share a part of their rows only.
    """
    rows_of: dict[int, set[int]] = {}
    for device, (rows,) in split_batch(mesh).devices_indices_map((batch_shards(mesh),)).items():
        rows_of.setdefault(device.process_index, set()).add(rows.start or 0)
    parts = sorted({tuple(sorted(rows)) for rows in rows_of.values()})
    if sum(map(len, parts)) != batch_shards(mesh) or len({len(part) for part in parts}) != 1:
        raise ValueError(
            f"mesh {dict(mesh.shape)}: hosts would share parts of a batch only; "
            "let mesh.tensor divide the devices of a host, or be a multiple of them"
        )
    return parts.index(tuple(sorted(rows_of[jax.process_index()]))), len(parts)


def of_first_host(value: bool) -> bool:
    """Returns what the first host calls this with; collective over hosts."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have called this with the same name."""
    multihost_utils.sync_global_devices(name)


def to_devices(local: np.ndarray, mesh: Mesh) -> jax.Array:
    """Returns the global array of which `local` holds this host's share of the rows, as `host_share` says."""
    with jax.transfer_guard_host_to_device("allow"):  # JAX takes it for an implicit transfer where hosts are several
        return jax.make_array_from_process_local_data(split_batch(mesh), local)


def _sharding(path: str, leaf: Any, mesh: Mesh) -> NamedSharding:
    if not leaf.shape:
        return replicated(mesh)
    names = next((axes for known, axes in PARAMETERS.items() if f"/{path}".endswith(f"/{known}")), None)
    if names is None or len(names) != len(leaf.shape):
        raise ValueError(f"{path} {leaf.shape}: sharding.PARAMETERS has no logical axes for it; add them there")
    spec = spec_of(names, path)
    for name, size, axes in zip(names, leaf.shape, spec, strict=True):
        parts = _parts(axes, mesh)
        if size % parts:
            key = axes if isinstance(axes, str) else " and mesh.".join(axes)
            raise ValueError(
                f"{path}: its axis {name!r} has {size:,} entries, not divisible by the {parts} parts of mesh.{key}; "
                f"choose a divisor of {size:,}"
            )
    return NamedSharding(mesh, spec)


def _parts(axes: str | Sequence[str] | None, mesh: Mesh) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return int(np.prod([mesh.shape[name] for name in names], dtype=int))


def _path(keys: Sequence[Any]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
