"""The code of a vocabulary as users of the layer hold it: beside W, all that an embedding needs.

Shapes: V vocabulary, D rows of the projection W, d model width, N strings.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from kronecker.embedding import bags, codec, implementations
from kronecker.runtime import sharding
from kronecker.schema import choices
from kronecker.schema.arms import TABLE_STD


class Code:
    """A prepared bag and the bytes behind it: equal only to itself, so that Flax neither hashes nor copies it."""

    def __init__(self, bag: bags.Bag, table: codec.ByteTable):
        self.bag = bag
        self.table = table

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

    def projection(self, key: jax.Array, features: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Returns an initial W (D, features)."""
        return jax.nn.initializers.normal(self.init_std)(key, (self.bag.rows, features), dtype)

    def for_vocabulary(self, token_bytes: Sequence[bytes | None]) -> "Code":
        """Returns the code of another vocabulary over the same W: a token has the same embedding in both."""
        table = codec.byte_table(token_bytes, self.table.pos_dim, truncation=self.table.truncation)
        return kronecker_code(table, "length" if self.bag.shift is None else "z", self.bag.implementation)

    def encode_bytes(
        self, projection_Dd: ArrayLike, strings: Sequence[bytes], dtype: DTypeLike | None = None
    ) -> jax.Array:
        """Returns the embeddings (N, d) of any byte strings, tokens or not; `dtype` is as in `product`.

        Raises TypeError if `strings` is no list of bytes.
        """
        codec.check_strings(strings, "strings")
        if not len(strings):
            return jnp.zeros_like(projection_Dd, shape=(0, jnp.shape(projection_Dd)[1]))
        bag = self.for_vocabulary(strings).bag
        return implementations.product(projection_Dd, bag, np.arange(len(strings)), dtype)

    def arrays(self) -> dict[str, bags.Array]:
        """Returns the bag's arrays by name, without absent ones."""
        names = ("symbols", "lengths", "codes", "order")
        return {name: getattr(self.bag, name) for name in names if getattr(self.bag, name) is not None}

    def bag_of(self, arrays: Mapping[str, jax.Array], path: str) -> bags.Bag:
        """Returns the bag with these arrays; raises ValueError if their types or shapes are not those of its own."""
        for name, own in self.arrays().items():
            if arrays[name].ndim != own.ndim:
                raise ValueError(
                    f"{path}/{name} has shape {arrays[name].shape} but this layer's code has {own.shape}: a vmap or "
                    'scan stacked or split it unlike W; keep it whole: variable_axes={"params": 0, "code": None} in '
                    "Linen, nnx.StateAxes({nnx.Param: 0, ...: None}) in NNX, where it is made and where it is called"
                )
            if arrays[name].shape != own.shape:
                raise ValueError(
                    f"{path}/{name} has shape {arrays[name].shape} but this layer's code has {own.shape}: it belongs "
                    "to another vocabulary, pos_dim or implementation; use this layer's own"
                )
            if arrays[name].dtype != own.dtype:
                raise ValueError(f"{path}/{name} is {arrays[name].dtype}, not {own.dtype}; cast only the parameters")
        return self.bag.replace(**arrays)


def kronecker_code(table: codec.ByteTable, norm: str = "z", implementation: str = choices.AUTO) -> Code:
    """Returns the Kronecker code of a vocabulary, for both `KroneckerEmbed`; `.bag` is for `product`.

    Args:
      table: the vocabulary's bytes, from `byte_table`.
      norm: "z" for the paper's z-norm; "length" for unit norm, 1/sqrt(L) in each cell.
      implementation: how the product is computed; all give the same numbers.  "auto" is the fastest on JAX's default
        device: "bag" on a CPU, "gather" on a GPU, "onehot" on a TPU.  `kronecker.embedding.implementations` describes
        them and "cached", "onthefly" and "induced".

    Raises:
      ValueError: if the norm or the implementation is unknown, or "cached" needs more than 1 GB of codes.
    """
    platform, bag = sharding.platform(None), bags.kronecker_bag(table, norm)
    return Code(implementations.prepare(bag, implementation, platform=platform, induced_head=True), table)


def check(code: Code, rows: int | None = None) -> None:
    """Raises TypeError if `code` is not a Code, and ValueError if its W does not have `rows` rows."""
    if not isinstance(code, Code):
        raise TypeError(f"code is a {type(code).__name__}; make it with kronecker_code(byte_table(...))")
    if rows not in (None, code.bag.rows):
        raise ValueError(f"W has {rows:,} rows, the code {code.bag.rows:,}; make it with Code.for_vocabulary")
