"""Typical uses of the public names, for the type checker alone (`make types`): right ones pass, wrong ones are flagged.

An ignored error that is no longer an error fails too, so a name that turns into Any does not go unnoticed.
"""

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.sharding import Mesh

import kronecker


class Classifier(nn.Module):
    """A stranger's model around the layer."""

    code: kronecker.Code

    @nn.compact
    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        x_BTd = kronecker.KroneckerEmbed(features=64, code=self.code, name="embed")(ids_BT)
        return nn.Dense(2)(x_BTd.mean(axis=1))


def right(token_bytes: list[bytes | None], ids: np.ndarray, mesh: Mesh, key: jax.Array) -> None:
    table = kronecker.byte_table(token_bytes, pos_dim=16)
    assert_type(table, kronecker.ByteTable)
    code = kronecker.kronecker_code(table, norm="length", implementation="bag")
    assert_type(code, kronecker.Code)
    assert_type(code.init_std, float)
    layer = kronecker.KroneckerEmbed(features=768, code=code)
    assert_type(layer, kronecker.KroneckerEmbed)
    assert_type(layer(ids), jax.Array)
    kronecker.KroneckerEmbed(768, code, dtype=jnp.bfloat16, param_dtype="float32", mesh=mesh, batch_axes=("data",))
    params: dict[str, Any] = dict(layer.init(key, ids)["params"])
    layer.apply({"params": params}, ids, mutable="code")
    assert_type(layer.attend(jnp.ones((2, 768))), jax.Array)
    assert_type(layer.encode_bytes([b"any"]), jax.Array)
    assert_type(layer.num_embeddings, int)
    Classifier(code).init(key, ids)

    native = kronecker.nnx.KroneckerEmbed(768, code, rngs=nnx.Rngs(0))
    assert_type(native(ids), jax.Array)
    assert_type(native.attend(jnp.ones((2, 768))), jax.Array)
    native.set_code(code.for_vocabulary([*token_bytes, b"new"]))
    assert_type(kronecker.product(code.projection(key, 768), code.bag, ids), jax.Array)

    bag = kronecker.prepare(kronecker.kronecker_bag(table), "induced", jnp.bfloat16)
    assert_type(bag, kronecker.Bag)
    assert_type(bag.rows, int)
    assert_type(kronecker.product(params["projection"], bag, ids, jnp.bfloat16), jax.Array)
    assert_type(kronecker.induced_table(params["projection"], bag), jax.Array)
    assert_type(kronecker.BagEmbed(rows=bag.rows, features=64, init_std=0.02)(jnp.asarray(ids), bag), jax.Array)
    assert_type(kronecker.TableEmbed(50_257, 64)(jnp.asarray(ids)), jax.Array)


def wrong(token_bytes: list[bytes | None], code: kronecker.Code, bag: kronecker.Bag) -> None:
    kronecker.byte_table("text", 16)  # type: ignore[arg-type]
    kronecker.byte_table(token_bytes)  # type: ignore[call-arg]
    kronecker.kronecker_code(token_bytes)  # type: ignore[arg-type]
    kronecker.kronecker_bag(token_bytes)  # type: ignore[arg-type]
    kronecker.Code(code)  # type: ignore[call-arg, arg-type]
    kronecker.KroneckerEmbed(768)  # type: ignore[call-arg]
    kronecker.KroneckerEmbed(768, bag)  # type: ignore[arg-type]
    kronecker.KroneckerEmbed("768", code)  # type: ignore[arg-type]
    kronecker.KroneckerEmbed(768, code, rows=4096)  # type: ignore[call-arg]
    kronecker.nnx.KroneckerEmbed(768, code)  # type: ignore[call-arg]
    code.for_vocabulary("text")  # type: ignore[arg-type]
    kronecker.BagEmbed(bag)  # type: ignore[call-arg, arg-type]
    kronecker.TableEmbed(features=64)  # type: ignore[call-arg]
    kronecker.product(bag, bag, 1)  # type: ignore[arg-type]
    kronecker.prepare(code, "bag")  # type: ignore[arg-type]
    kronecker.induced_table(code, bag)  # type: ignore[arg-type]
    kronecker.KroneckerEmbedding  # type: ignore[attr-defined]  # noqa: B018
