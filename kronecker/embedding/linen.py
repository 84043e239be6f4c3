"""Input embeddings as Flax Linen modules with one call signature: `embed(ids, bag)`.

Shapes: B batch, T time, V vocabulary (padded), D code dimension, d model width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from kronecker.embedding import bags, implementations, kernels
from kronecker.runtime import declared


class TableEmbed(declared.Module):
    """A learned table E (V, d) ~ N(0, init_std^2), the thing to be replaced.

    Attributes:
      vocab: V.
      features: d.
      init_std: standard deviation of the initial rows.
      dtype: in which a tied head multiplies.
      param_dtype: of the table and of the embeddings.
    """

    vocab: int
    features: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Creates the table, which the call and the tied head share."""
        init = declared.matrix(nn.initializers.normal(self.init_std), "vocab", "width", is_input=True)
        self.table = self.param("table", init, (self.vocab, self.features), self.param_dtype)

    def __call__(self, ids_BT: jax.Array, bag: bags.Bag | None = None) -> jax.Array:
        """Returns the rows of `ids_BT`, (B, T, d); `bag` is not used."""
        del bag
        return self.table[ids_BT]

    def output(self, bag: bags.Bag | None = None) -> tuple[jax.Array, float]:
        """Returns E (V, d), whose transpose is the tied head, and the scale of its logits: 1; `bag` is not used."""
        del bag
        return self.table, 1.0


class FactorizedEmbed(declared.Module):
    """A table of low rank, U (V, r) Q (r, d), with U ~ N(0, init_std^2) and Q ~ N(0, 1/r): output std init_std.

    Attributes:
      vocab: V.
      features: d.
      rank: r.
      init_std: standard deviation of an initial embedding.
      dtype: in which the two are multiplied.
      param_dtype: of both and of the embeddings.
    """

    vocab: int
    features: int
    rank: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids_BT: jax.Array, bag: bags.Bag | None = None) -> jax.Array:
        """Returns the embeddings of `ids_BT`, (B, T, d); `bag` is not used."""
        del bag
        down = declared.matrix(nn.initializers.normal(self.init_std), "vocab", "rank", is_input=True)
        up = declared.matrix(nn.initializers.normal(self.rank**-0.5), "rank", "width")
        factor_Vr = self.param("factor", down, (self.vocab, self.rank), self.param_dtype)
        up_rd = self.param("up", up, (self.rank, self.features), self.param_dtype)
        x_BTd = kernels.multiply(factor_Vr[ids_BT], up_rd.astype(jnp.float32), jnp.dtype(self.dtype))
        return x_BTd.astype(self.param_dtype)


class BagEmbed(declared.Module):
    """A fixed code of each token times one learned projection W (D, d): every arm that is a bag of rows.

    Attributes:
      rows: D, the cells of the code; the projection has one row for each.
      features: d.
      init_std: standard deviation of the initial projection; the paper's is 1/sqrt(D).
      logit_scale: of the initial tied head; 0: the head is not tied, and W is the only trained tensor.
      dtype: in which the product multiplies, where its implementation does.
      param_dtype: of the projection and of the embeddings.
      mesh: that splits the batch; None: one device.
    """

    rows: int
    features: int
    init_std: float
    logit_scale: float = 0.0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    mesh: Mesh | None = None

    def setup(self) -> None:
        """Creates the projection, and the tied head's scale where there is one."""
        init = declared.matrix(nn.initializers.normal(self.init_std), "code", "width", is_input=True)
        self.projection = self.param("projection", init, (self.rows, self.features), self.param_dtype)
        if self.logit_scale:
            constant = declared.vector(nn.initializers.constant(self.logit_scale))
            self.scale = self.param("logit_scale", constant, (), self.param_dtype)

    def __call__(self, ids_BT: jax.Array, bag: bags.Bag) -> jax.Array:
        """Returns the embeddings of `ids_BT`, (B, T, d), under the code that `bag` holds."""
        return implementations.product(self.projection, bag, ids_BT, self.dtype, self.mesh)

    def output(self, bag: bags.Bag) -> tuple[jax.Array, jax.Array]:
        """Returns the induced table K W (V, d), whose transpose is the tied head, and its logits' scale, float32 ()."""
        return self.induced(bag, self.dtype), self.scale.astype(jnp.float32)

    def induced(self, bag: bags.Bag, dtype: jnp.dtype | None = None) -> jax.Array:
        """Returns the induced table K W (V, d) of a bag that is prepared for it; `dtype` as in `product`."""
        return implementations.induced_table(self.projection, bag, dtype)
