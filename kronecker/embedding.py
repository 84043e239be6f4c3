"""Input embeddings as Flax Linen modules with one call signature: `embed(ids, bag)`.

Shapes: B batch, T time, V vocabulary (padded), D code dimension, d model width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from kronecker import bag as bags
from kronecker import implementations


class TableEmbed(nn.Module):
    """A learned table E (V, d) ~ N(0, init_std^2), the thing to be replaced.

    Attributes:
      vocab: V.
      features: d.
      init_std: standard deviation of the initial rows.
      dtype: in which `attend` multiplies.
      param_dtype: of the table and of the embeddings.
    """

    vocab: int
    features: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Creates the table, which the call and the tied head share."""
        self.table = self.param(
            "table", nn.initializers.normal(self.init_std), (self.vocab, self.features), self.param_dtype
        )

    def __call__(self, ids_BT: jax.Array, bag: bags.Bag | None = None) -> jax.Array:
        """Returns the rows of `ids_BT`, (B, T, d); `bag` is not used."""
        del bag
        return self.table[ids_BT]

    def attend(self, x_BTd: jax.Array) -> jax.Array:
        """Returns the float32 logits (B, T, V) of the tied head, x E^T."""
        return jnp.einsum("btd,vd->btv", x_BTd, self.table.astype(self.dtype), preferred_element_type=jnp.float32)


class BagEmbed(nn.Module):
    """A fixed code of each token times one learned projection W (D, d): every arm that is a bag of rows.

    Attributes:
      rows: D, the cells of the code; the projection's only trained tensor has one row for each.
      features: d.
      init_std: standard deviation of the initial projection; the paper's is 1/sqrt(D).
      dtype: in which the product multiplies, where its implementation does.
      param_dtype: of the projection and of the embeddings.
      mesh: whose data axis splits the batch; None: one device.
    """

    rows: int
    features: int
    init_std: float
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, ids_BT: jax.Array, bag: bags.Bag) -> jax.Array:
        """Returns the embeddings of `ids_BT`, (B, T, d), under the code that `bag` holds."""
        projection_Dd = self.param(
            "projection", nn.initializers.normal(self.init_std), (self.rows, self.features), self.param_dtype
        )
        return implementations.product(projection_Dd, bag, ids_BT, self.dtype, self.mesh)
