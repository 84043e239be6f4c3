"""Input embeddings as Flax Linen modules: `KroneckerEmbed` takes ids alone, as `nn.Embed` does.

The others have one call signature, `embed(ids, bag)`: the trainer's step takes the bag as an argument and passes it on.

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
    """A bag as an attribute of a module: one object, equal to itself alone, which Flax neither hashes nor copies.

    Attributes:
      bag: prepared for its implementation; its arrays may stay on the host, in numpy.
    """

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

        1/sqrt(D) under the z-norm, the paper's: an embedding then starts at a standard deviation of about 1.  A code of
        norm 1 passes on that of W: 0.02, a learned table's.
        """
        return TABLE_STD if self.bag.shift is None else self.bag.rows**-0.5

    def arrays(self) -> dict[str, bags.Array]:
        """Returns the bag's arrays by name, those that it has."""
        names = ("symbols", "lengths", "scale", "shift", "codes", "order")
        return {name: getattr(self.bag, name) for name in names if getattr(self.bag, name) is not None}


def kronecker_code(table: codec.ByteTable, norm: str = "z", implementation: str = choices.AUTO) -> Code:
    """Returns the Kronecker code of a vocabulary, for `KroneckerEmbed`.

    Args:
      table: the vocabulary's bytes, from `byte_table`.
      norm: "z" for the paper's z-norm; "length" for the unit-norm code, 1/sqrt(L) a cell.
      implementation: how the product is computed; all give the same numbers.  "auto": the fastest on JAX's default
        device: "bag" on a CPU, "gather" on a GPU, "onehot" on a TPU.  Or "cached", "onthefly" or "induced":
        `kronecker.embedding.implementations` says what each does.

    Raises:
      ValueError: if there is no such norm or implementation, or "cached" would keep more than 1 GB of codes.
    """
    platform = sharding.platform(None)
    return Code(implementations.prepare(bags.kronecker_bag(table, norm), implementation, platform=platform))


class KroneckerEmbed(nn.Module):
    """An input embedding from bytes (arXiv 2605.29459), in the place of `nn.Embed`: x = z(kappa) W.

    A token of the bytes b_1..b_L, L <= P, has the fixed code, of D = 256 P coordinates,

        kappa = L^(-1/2) sum_p onehot(b_p) (x) onehot(p),        z(kappa) = (kappa - mean) / (std + 1e-6),

    and W (D, d) is all that is learned.  It is computed exactly from the L rows of W that a token has on; no code is
    written out.  An id without bytes embeds as zero.  Rows of W and its initial scale come from the code:

        code = kronecker.kronecker_code(kronecker.byte_table(token_bytes, pos_dim=16))
        layer = kronecker.KroneckerEmbed(features=768, code=code)
        variables = layer.init(jax.random.key(0), ids)
        x = layer.apply(variables, ids)  # ids.shape + (768,)

    `variables` has two collections.  "params" holds `projection`, W: give the optimizer these alone.  "code" holds the
    arrays of the code, 0.8 MB for GPT-2's vocabulary, which nothing trains: pass them on with the parameters,
    `apply({"params": params, "code": variables["code"]}, ids)`, and a compiled program takes them as arguments, not as
    constants (`jax.jit(layer.init)` alone holds them: it makes them).  They follow from `code`, so a checkpoint may
    leave them out: `apply({"params": params}, ids, mutable="code")` makes them again and returns them beside x.

    Attributes:
      features: d.
      code: from `kronecker_code`.  Make it once: modules are equal only where they hold the same object.
      init_std: standard deviation of the initial W; None: what the code asks for, `Code.init_std`.
      dtype: in which the product multiplies, where its implementation does; sums are at least float32.
      param_dtype: of W and of the embeddings.
      mesh: that splits the first axis of ids over its axes "data" and "fsdp", of type Auto; "fsdp" may split W's
        columns too.  None: one device.
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
                    f'the variables lack {path}; pass the collection "{CODE}" that `init` returned, beside "params", '
                    f'or let `apply(..., mutable="{CODE}")` make and return it'
                )
            arrays[name] = self.variable(CODE, name, jnp.array, array).value  # a copy: its owner may donate it
            if arrays[name].shape != array.shape:
                raise ValueError(
                    f"{path} has shape {arrays[name].shape}, this layer's code {array.shape}: these variables were "
                    "made for another vocabulary, pos_dim or implementation"
                )
            if arrays[name].dtype != (dtype := jax.dtypes.canonicalize_dtype(array.dtype)):
                raise ValueError(f"{path} is {arrays[name].dtype}, not {dtype}: cast the parameters alone")
        self.bag = self.code.bag.replace(**arrays)

    def __call__(self, ids: ArrayLike) -> jax.Array:
        """Returns the embeddings of integer `ids`, shape ids.shape + (d,), in `param_dtype`.

        As in a table, -1 is the last id, and an id beyond the vocabulary is the last one too.

        Raises:
          ValueError: if the variables lack the code or hold that of another vocabulary; and as `product` does.
        """
        return self.projected(jnp.asarray(ids), self.bag)


class TableEmbed(nn.Module):
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
    init_std: float = TABLE_STD
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

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


class FactorizedEmbed(nn.Module):
    """A table of low rank, U (V, r) Q (r, d), with U ~ N(0, init_std^2) and Q ~ N(0, 1/r): output std init_std."""

    vocab: int  # V
    features: int  # d
    rank: int  # r
    init_std: float = TABLE_STD  # standard deviation of an initial embedding
    dtype: DTypeLike = jnp.float32  # in which the two are multiplied
    param_dtype: DTypeLike = jnp.float32  # of both and of the embeddings

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
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    mesh: Mesh | None = None

    def setup(self) -> None:
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

    def induced(self, bag: bags.Bag, dtype: DTypeLike | None = None) -> jax.Array:
        """Returns the induced table K W (V, d) of a bag that is prepared for it; `dtype` as in `product`."""
        return implementations.induced_table(self.projection, bag, dtype)
