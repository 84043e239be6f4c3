"""The input embedding for Flax NNX: `KroneckerEmbed`, called with ids alone, as `nnx.Embed` is.

Shapes: V vocabulary, D rows of the projection W, d model width.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from kronecker.embedding import bags, fixed_code, implementations
from kronecker.runtime import sharding


class CodeArray(nnx.Variable):
    """A constant array of a code: a part of the state, never a parameter."""


class KroneckerEmbed(nnx.Module):
    """An input embedding from bytes, to replace `nnx.Embed`; `kronecker.KroneckerEmbed` is the same one for Linen.

        code = kronecker.kronecker_code(kronecker.byte_table(token_bytes, pos_dim=16))
        embed = KroneckerEmbed(768, code, rngs=nnx.Rngs(0))  # for nnx.Embed(50_257, 768, rngs=nnx.Rngs(0))
        x = embed(ids)  # ids.shape + (768,)

    `projection`, W, is its one `nnx.Param`.  `arrays` holds the code's arrays, of kind `CodeArray`: `nnx.jit` passes
    them to a program as arguments, and `nnx.Optimizer(..., wrt=nnx.Param)` leaves them alone.
    """

    def __init__(
        self,
        features: int,
        code: fixed_code.Code,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        embedding_init: Callable[..., Any] | None = None,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        mesh: Mesh | None = None,
        batch_axes: Sequence[str] = sharding.BATCH_AXES,
        embedding_metadata: Mapping[str, Any] = MappingProxyType({}),
        rngs: nnx.Rngs,
    ):
        """Creates W and takes the code's arrays.

        Args:
          features: d.
          code: from `kronecker_code`.
          dtype: of the embeddings; None: `param_dtype`.  Sums are at least float32.
          param_dtype: of W.
          embedding_init: initializer of W (D, d); None: normal with a standard deviation of `Code.init_std`.
          promote_dtype: casts (embeddings,), and (queries, table) in `attend`, to `dtype`, as in `nnx.Embed`.
          mesh: as in `product`, with `batch_axes`.
          embedding_metadata: of the `nnx.Param` of W, such as sharding names.
          rngs: W is drawn from its stream "params".
        """
        fixed_code.check(code)
        init = embedding_init or jax.nn.initializers.normal(code.init_std)
        self.projection = nnx.Param(init(rngs.params(), (code.bag.rows, features), param_dtype), **embedding_metadata)
        self.features = features
        self.dtype = dtype or self.projection.dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype
        self.mesh = mesh
        self.batch_axes = (batch_axes,) if isinstance(batch_axes, str) else tuple(batch_axes)
        self.set_code(code)

    def set_code(self, code: fixed_code.Code) -> None:
        """Takes the code of another vocabulary, from `Code.for_vocabulary`; W does not change."""
        fixed_code.check(code, self.projection.shape[0])
        self.code = code
        self.arrays = nnx.Dict({name: CodeArray(jnp.array(array)) for name, array in code.arrays().items()})

    @property
    def num_embeddings(self) -> int:
        return self.code.bag.vocab

    def __call__(self, inputs: ArrayLike) -> jax.Array:
        """Returns the embeddings of integer ids, shape inputs.shape + (d,); raises as `product` does."""
        x = implementations.product(self.projection[...], self._bag(), inputs, self.dtype, self.mesh, self.batch_axes)
        return self.promote_dtype((x,), dtype=self.dtype, inexact=False)[0]

    def attend(self, query: jax.Array) -> jax.Array:
        """Returns the inner products of queries (..., d) with the embeddings of all ids, (..., V): a tied head."""
        table_Vd = implementations.induced_table(self.projection[...], self._bag(), self.dtype)
        query, table_Vd = self.promote_dtype((query, table_Vd), dtype=self.dtype)
        return jnp.dot(query, table_Vd.T)

    def encode_bytes(self, strings: Sequence[bytes]) -> jax.Array:
        """Returns the embeddings (N, d) of any byte strings, whether they are tokens or not."""
        x = self.code.encode_bytes(self.projection[...], strings, self.dtype)
        return self.promote_dtype((x,), dtype=self.dtype, inexact=False)[0]

    def _bag(self) -> bags.Bag:
        # Not by a method of nnx.Dict: nnx.tabulate wraps all methods, and would call it without end.
        return self.code.bag_of({name: getattr(self.arrays, name)[...] for name in self.code.arrays()}, "arrays")
