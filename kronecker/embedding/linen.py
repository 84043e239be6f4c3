"""Input embeddings as Flax Linen modules: `KroneckerEmbed` is called with ids alone, as `nn.Embed` is.

The others are called as `embed(ids, bag)`: the training step receives the bag as an argument and passes it on.

Shapes: B batch, T time, V vocabulary (padded), P byte positions, K slots of a bag, D code dimension, d model width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from kronecker.embedding import bags, fixed_code, implementations, kernels
from kronecker.runtime import declared, sharding
from kronecker.schema.arms import TABLE_STD

CODE = "code"  # the collection of variables that holds the arrays of a code

_LIFTED = (
    f'under nn.vmap give variable_axes={{"params": 0, "{CODE}": None}}, under nn.scan variable_axes={{"params": 0}} '
    f'and variable_broadcast="{CODE}", and split_rngs={{"params": True}} to both; for one W in all calls "params" is '
    f'as "{CODE}", and its split_rngs False'
)


class KroneckerEmbed(nn.Module):
    """An input embedding from bytes (arXiv 2605.29459), to replace `nn.Embed`: x = z(kappa) W.

    A token with bytes b_1..b_L, L <= P, has a fixed code of D = 256 P coordinates,

        kappa = L^(-1/2) sum_p onehot(b_p) (x) onehot(p),        z(kappa) = (kappa - mean) / (std + 1e-6),

    and only W (D, d) is learned.  The product is exact: it sums the L rows of W that the token uses, without a dense
    code.  An id without bytes embeds as zero.  The code sets the number of rows of W and its initial scale:

        code = kronecker.kronecker_code(kronecker.byte_table(token_bytes, pos_dim=16))
        layer = kronecker.KroneckerEmbed(features=768, code=code)
        variables = layer.init(jax.random.key(0), ids)
        x = layer.apply(variables, ids)  # ids.shape + (768,)

    `variables` has two collections.  "params" holds `projection`, W: give only this one to the optimizer.  "code" holds
    the constant arrays of the code, 1.1 MB for GPT-2's vocabulary.  Pass them with the parameters,
    `apply({"params": params, "code": variables["code"]}, ids)`, so that a compiled program receives them as arguments,
    not as constants (only `jax.jit(layer.init)` has them as constants).  A checkpoint may omit them, as `code` defines
    them: `apply({"params": params}, ids, mutable="code")` makes them again and returns them with x.

    Attributes:
      features: d.
      code: from `kronecker_code`.  Make it once: modules are equal only if they hold the same object.
      dtype: of the embeddings; None: `param_dtype`.  Sums are at least float32.
      param_dtype: of W.
      embedding_init: initializer of W (D, d); None: normal with a standard deviation of `Code.init_std`.
      promote_dtype: casts the embeddings, and queries and table in `attend`, to `dtype`, as in `nn.Embed`.
      mesh: splits the first axis of ids over its axes `batch_axes`, as in `product`.  None: one device.
      batch_axes: names of these axes, of type Auto.
    """

    features: int
    code: fixed_code.Code
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    embedding_init: Callable[..., Any] | None = None
    promote_dtype: Callable[..., Any] = dtypes.promote_dtype
    mesh: Mesh | None = None
    batch_axes: tuple[str, ...] = sharding.BATCH_AXES

    def setup(self) -> None:
        fixed_code.check(self.code)
        if self.is_initializing():
            left_out = [f'the collection "{one}"' for one in ("params", CODE) if not self.is_mutable_collection(one)]
            if left_out or not self.has_rng("params"):
                what = " and ".join(left_out or ['the key "params"'])
                raise ValueError(f"{what} was not given to `init`, or not lifted by a transform: {_LIFTED}")
        init = self.embedding_init or nn.initializers.normal(self.code.init_std)
        self.projection = self.param("projection", init, (self.code.bag.rows, self.features), self.param_dtype)
        arrays = {}
        for name, array in self.code.arrays().items():
            if not (self.has_variable(CODE, name) or self.is_mutable_collection(CODE)):
                raise ValueError(
                    f'the variables lack {"/".join((CODE, *self.path, name))}; pass the collection "{CODE}" from '
                    f'`init` together with "params", or call `apply(..., mutable="{CODE}")`, which makes and returns '
                    f"it; {_LIFTED}"
                )
            arrays[name] = self.variable(CODE, name, jnp.array, array).value  # a copy: its owner may donate it
        self.bag = self.code.bag_of(arrays, "/".join((CODE, *self.path)))

    @property
    def num_embeddings(self) -> int:
        return self.code.bag.vocab

    def __call__(self, inputs: ArrayLike) -> jax.Array:
        """Returns the embeddings of integer ids, shape inputs.shape + (d,).

        Negative ids wrap once; then ids are clipped to the vocabulary.

        Raises:
          ValueError: if the variables lack the code or hold another vocabulary's; and as `product` does.
        """
        x = implementations.product(self.projection, self.bag, inputs, self.dtype, self.mesh, self.batch_axes)
        return self.promote_dtype(x, dtype=self.dtype, inexact=False)[0]

    def attend(self, query: jax.Array) -> jax.Array:
        """Returns the inner products of queries (..., d) with the embeddings of all ids, (..., V): a tied head."""
        table_Vd = implementations.induced_table(self.projection, self.bag, self.dtype)
        query, table_Vd = self.promote_dtype(query, table_Vd, dtype=self.dtype)
        return jnp.dot(query, table_Vd.T)

    def encode_bytes(self, strings: Sequence[bytes]) -> jax.Array:
        """Returns the embeddings (N, d) of any byte strings, whether they are tokens or not."""
        x = self.code.encode_bytes(self.projection, strings, self.dtype)
        return self.promote_dtype(x, dtype=self.dtype, inexact=False)[0]


class TableEmbed(nn.Module):
    """A learned table E (V, d) ~ N(0, init_std^2): the usual input embedding."""

    vocab: int  # V
    features: int  # d
    init_std: float = TABLE_STD  # standard deviation of the initial rows
    dtype: DTypeLike = jnp.float32  # of the operands of a tied head
    param_dtype: DTypeLike = jnp.float32  # of the table and of the embeddings

    def setup(self) -> None:
        """Creates the table, which the input and a tied head share."""
        init = declared.matrix(nn.initializers.normal(self.init_std), "vocab", "width", is_input=True)
        self.table = self.param("table", init, (self.vocab, self.features), self.param_dtype)

    def __call__(self, ids_BT: jax.Array, bag: bags.Bag | None = None) -> jax.Array:
        """Returns the rows of `ids_BT`, (B, T, d); `bag` is not used."""
        del bag
        return self.table[ids_BT]

    def output(self, bag: bags.Bag | None = None) -> tuple[jax.Array, float]:
        """Returns E (V, d), whose transpose is the tied head, and the scale 1 of its logits; `bag` is not used."""
        del bag
        return self.table, 1.0


class FactorizedEmbed(nn.Module):
    """A table of low rank, U (V, r) Q (r, d), with U ~ N(0, init_std^2) and Q ~ N(0, 1/r): output std init_std."""

    vocab: int  # V
    features: int  # d
    rank: int  # r
    init_std: float = TABLE_STD  # standard deviation of an initial embedding
    dtype: DTypeLike = jnp.float32  # of the operands of their product
    param_dtype: DTypeLike = jnp.float32  # of U, Q and the embeddings

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


class BagEmbed(nn.Module):
    """A fixed code of each token times one learned projection W (D, d): the module of every arm with a bag."""

    rows: int  # D, the number of cells of the code; W has one row per cell
    features: int  # d
    init_std: float  # standard deviation of the initial W; the paper's is 1/sqrt(D)
    logit_scale: float = 0.0  # initial scale of a tied head's logits; 0: the head is not tied, and only W is trained
    dtype: DTypeLike = jnp.float32  # of the operands of matrix products, if the implementation has any
    param_dtype: DTypeLike = jnp.float32  # of W and of the embeddings
    mesh: Mesh | None = None  # splits the batch; None: one device

    def setup(self) -> None:
        init = declared.matrix(nn.initializers.normal(self.init_std), "code", "width", is_input=True)
        self.projection = self.param("projection", init, (self.rows, self.features), self.param_dtype)
        if self.logit_scale:
            constant = declared.vector(nn.initializers.constant(self.logit_scale))
            self.scale = self.param("logit_scale", constant, (), self.param_dtype)

    def __call__(self, ids_BT: jax.Array, bag: bags.Bag) -> jax.Array:
        """Returns the embeddings of `ids_BT`, (B, T, d), with the code in `bag`."""
        return implementations.product(self.projection, bag, ids_BT, self.dtype, self.mesh)

    def output(self, bag: bags.Bag) -> tuple[jax.Array, jax.Array]:
        """Returns the induced table K W (V, d), whose transpose is the tied head, and the logits' scale, float32 ()."""
        return self.induced(bag, self.dtype), self.scale.astype(jnp.float32)

    def induced(self, bag: bags.Bag, dtype: DTypeLike | None = None) -> jax.Array:
        """Returns the induced table K W (V, d) of a bag that is prepared for it; `dtype` is as in `product`."""
        return implementations.induced_table(self.projection, bag, dtype)


class TablePlusBagEmbed(nn.Module):
    """A learned table plus a fixed code times a projection: x = E[id] + code W.

    E ~ N(0, init_std^2) has the name and thus the initial values of `TableEmbed`, and W begins at zero: at the start
    the embeddings are those of the table alone.  An id beyond the table has the code's part alone.
    """

    vocab: int  # V
    rows: int  # D
    features: int  # d
    init_std: float = TABLE_STD  # standard deviation of the initial rows of E
    dtype: DTypeLike = jnp.float32  # as of `BagEmbed`
    param_dtype: DTypeLike = jnp.float32  # of E, W and the embeddings
    mesh: Mesh | None = None  # splits the batch; None: one device

    @nn.compact
    def __call__(self, ids_BT: jax.Array, bag: bags.Bag) -> jax.Array:
        """Returns the embeddings of `ids_BT`, (B, T, d), with the code in `bag`."""
        table = declared.matrix(nn.initializers.normal(self.init_std), "vocab", "width", is_input=True)
        projection = declared.matrix(nn.initializers.zeros, "code", "width")
        table_Vd = self.param("table", table, (self.vocab, self.features), self.param_dtype)
        projection_Dd = self.param("projection", projection, (self.rows, self.features), self.param_dtype)
        rows_BTd = jnp.asarray(table_Vd).at[ids_BT].get(mode="fill", fill_value=0)
        return rows_BTd + implementations.product(projection_Dd, bag, ids_BT, self.dtype, self.mesh)
