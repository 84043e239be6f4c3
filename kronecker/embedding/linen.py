"""Input embeddings as Flax Linen modules: `KroneckerEmbed` is called with ids alone, as `nn.Embed` is.

The others are called as `embed(ids, bag)`: the training step receives the bag as an argument and passes it on.

Shapes: B batch, T time, V vocabulary (padded), P byte positions, K slots of a bag, D code dimension, d model width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from kronecker.embedding import bags, codec, implementations, kernels
from kronecker.runtime import declared, sharding
from kronecker.schema import choices
from kronecker.schema.arms import TABLE_STD

CODE = "code"  # the collection of variables that holds the arrays of a code


class Code:
    """Wraps a prepared bag as a module's attribute: equal only to itself, so that Flax neither hashes nor copies it."""

    def __init__(self, bag: bags.Bag):
        self.bag = bag

    def __deepcopy__(self, memo: dict[int, object]) -> "Code":
        return self

    def __repr__(self) -> str:
        bag = self.bag
        return f"Code({bag.vocab:,} ids, {bag.rows:,} rows, {implementations.describe(bag)})"

    @property
    def init_std(self) -> float:
        """Returns the initial standard deviation of the projection W of this code.

        Under the z-norm it is the paper's 1/sqrt(D), so that embeddings have a standard deviation of about 1.  Under
        unit norm embeddings have the standard deviation of W: 0.02, as a learned table.
        """
        return TABLE_STD if self.bag.shift is None else self.bag.rows**-0.5

    def arrays(self) -> dict[str, bags.Array]:
        """Returns the bag's arrays by name, without absent ones."""
        names = ("symbols", "lengths", "scale", "shift", "codes", "order")
        return {name: getattr(self.bag, name) for name in names if getattr(self.bag, name) is not None}


def kronecker_code(table: codec.ByteTable, norm: str = "z", implementation: str = choices.AUTO) -> Code:
    """Returns the Kronecker code of a vocabulary, for `KroneckerEmbed`.

    Args:
      table: the vocabulary's bytes, from `byte_table`.
      norm: "z" for the paper's z-norm; "length" for unit norm, 1/sqrt(L) in each cell.
      implementation: how the product is computed; all give the same numbers.  "auto" is the fastest on JAX's default
        device: "bag" on a CPU, "gather" on a GPU, "onehot" on a TPU.  `kronecker.embedding.implementations` describes
        them and "cached", "onthefly" and "induced".

    Raises:
      ValueError: if the norm or the implementation is unknown, or "cached" needs more than 1 GB of codes.
    """
    platform = sharding.platform(None)
    return Code(implementations.prepare(bags.kronecker_bag(table, norm), implementation, platform=platform))


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
    the constant arrays of the code, 0.8 MB for GPT-2's vocabulary.  Pass them with the parameters,
    `apply({"params": params, "code": variables["code"]}, ids)`, so that a compiled program receives them as arguments,
    not as constants (only `jax.jit(layer.init)` has them as constants).  A checkpoint may omit them, as `code` defines
    them: `apply({"params": params}, ids, mutable="code")` makes them again and returns them with x.

    Attributes:
      features: d.
      code: from `kronecker_code`.  Make it once: modules are equal only if they hold the same object.
      init_std: standard deviation of the initial W; None: `Code.init_std`.
      dtype: of the operands of matrix products, if the implementation has any; sums are at least float32.
      param_dtype: of W and of the embeddings.
      mesh: splits the first axis of ids over its axes "data" and "fsdp", of type Auto; "fsdp" may also split the
        columns of W.  None: one device.
    """

    features: int
    code: Code
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    mesh: Mesh | None = None

    def setup(self) -> None:
        """Creates the projection and the variables of the code."""
        if not isinstance(self.code, Code):
            raise TypeError(f"code is a {type(self.code).__name__}; make it with kronecker_code(byte_table(...))")
        self.projected = BagEmbed(
            rows=self.code.bag.rows,
            features=self.features,
            init_std=self.code.init_std if self.init_std is None else self.init_std,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            mesh=self.mesh,
        )
        nn.share_scope(self, self.projected)  # its parameter is this module's own
        arrays = {}
        for name, array in self.code.arrays().items():
            path = "/".join((CODE, *self.path, name))
            if not (self.has_variable(CODE, name) or self.is_mutable_collection(CODE)):
                raise ValueError(
                    f'the variables lack {path}; pass the collection "{CODE}" from `init` together with "params", '
                    f'or call `apply(..., mutable="{CODE}")`, which makes and returns it'
                )
            arrays[name] = self.variable(CODE, name, jnp.array, array).value  # a copy: its owner may donate it
            if arrays[name].shape != array.shape:
                raise ValueError(
                    f"{path} has shape {arrays[name].shape} but this layer's code has {array.shape}: the variables "
                    "belong to another vocabulary, pos_dim or implementation; use those of this layer's `init`"
                )
            if arrays[name].dtype != (dtype := jax.dtypes.canonicalize_dtype(array.dtype)):
                raise ValueError(f'{path} is {arrays[name].dtype}, not {dtype}; cast only the "params"')
        self.bag = self.code.bag.replace(**arrays)

    def __call__(self, ids: ArrayLike) -> jax.Array:
        """Returns the embeddings of integer `ids`, shape ids.shape + (d,), in `param_dtype`.

        Negative ids wrap once; then ids are clipped to the vocabulary.

        Raises:
          ValueError: if the variables lack the code or hold another vocabulary's; and as `product` does.
        """
        return self.projected(jnp.asarray(ids), self.bag)


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
