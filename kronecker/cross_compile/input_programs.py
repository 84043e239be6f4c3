"""The input side of a model as TPU programs: every implementation of the product, and the table that it replaces.

Two programs each: embeddings and the gradient of the one trained matrix for a given cotangent; that and an update of
the optimizer that training uses, its state donated as training donates it.  All data are arguments.

Shapes: N tokens, V vocabulary, D rows of the projection, M rows of the trained matrix (D or V), d model width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from kronecker import bag as bags
from kronecker import codec, implementations, transformer
from kronecker.cross_compile import program, targets
from kronecker.training import input_side, throughput

TABLE = "table"
PROGRAMS = ("gradient", "update")
# Over each product, to reach its type on units that multiply bfloat16: a float32 is three of them, so six of the nine
# partial products count, and three where the other operand is 0 or 1 and one bfloat16 holds it (which the compiler's
# estimates of cycles bear out; it shows no passes).
ONE_HOT_PASSES = {"bfloat16": 1, "float32": 3}
DENSE_PASSES = {"bfloat16": 1, "float32": 6}
PASSES = {"cached": DENSE_PASSES, "onthefly": DENSE_PASSES, "onehot": ONE_HOT_PASSES, "induced": ONE_HOT_PASSES}

MOST_TEMPORARY_BYTES = 64e6
MOST_BYTES_OF_TABLES = 1.5  # forward and gradient
LESS_THAN_STEP = 0.03


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compiled.

    Attributes:
      table: the vocabulary's bytes; their lengths decide the layout of "induced".
      tokens: N.
      config: resolved, with its vocabulary: the model around the input side, its width, type and optimizer.
    """

    table: codec.ByteTable
    tokens: int
    config: ml_collections.ConfigDict

    @property
    def auto(self) -> str:
        """Returns what "auto" is on TPU."""
        return implementations.choose("tpu", self.tokens, len(self.table.lengths))

    @property
    def step_flops(self) -> float:
        """Returns the matrix FLOPs of a training step on as many tokens, by the project's own count."""
        shape = transformer.Shape.of(self.config.model)
        return self.tokens * throughput.flops_per_token(shape, self.config.train.sequence)


def compile_table(chip: targets.Chip, setting: Setting) -> dict[str, program.Program]:
    """Returns the programs of a learned table.

    Its lookup takes the ids to be in bounds, as the product's does: flax.linen.Embed's does not, and moves more bytes.
    """

    def embed(table_Vd, bag, ids_N):
        del bag
        return table_Vd.at[ids_N].get(mode="promise_in_bounds")

    return _compile(chip, setting, embed, len(setting.table.lengths), TABLE, None, 1)


def compile_product(chip: targets.Chip, setting: Setting, name: str, limit_mb: float) -> dict[str, program.Program]:
    """Returns the programs of one implementation.

    Args:
      chip: to compile for.
      setting: of the product.
      name: one of implementations.IMPLEMENTATIONS.
      limit_mb: the most that the codes of "cached" may take.

    Raises:
      ValueError: if they would take more, or the compiler refuses.
    """
    dtype = setting.config.model.dtype
    paper = bags.kronecker_bag(setting.table)
    bag = jax.eval_shape(lambda: implementations.prepare(paper, name, jnp.dtype(dtype), limit_mb, platform="tpu"))
    embed = functools.partial(implementations.product, dtype=dtype)
    passes = PASSES[name][dtype] if name in PASSES else 1
    return _compile(chip, setting, embed, bag.rows, "projection", bag, passes)


def verdicts(
    setting: Setting, product: dict[str, program.Program], table: dict[str, program.Program]
) -> list[dict[str, Any]]:
    """Returns the four targets of `auto`'s choice: each as what, number, limit, met and the sum behind it in words."""
    temporary = max(product[name].temporary_bytes for name in PROGRAMS)
    of_table = {name: product[name].bytes_accessed / table[name].bytes_accessed for name in PROGRAMS}
    bytes_mb = {
        name: f"{product[name].bytes_accessed / 1e6:,.0f} / {table[name].bytes_accessed / 1e6:,.0f} MB"
        for name in PROGRAMS
    }
    share = product["gradient"].product_flops / setting.step_flops
    whole = all(one[name].comparable for one in (product, table) for name in PROGRAMS)
    rows = [
        ("temporary memory", temporary, MOST_TEMPORARY_BYTES, temporary <= MOST_TEMPORARY_BYTES, "all of it, in bytes"),
        (
            "bytes of forward + gradient over the table's",
            of_table["gradient"],
            MOST_BYTES_OF_TABLES,
            whole and of_table["gradient"] <= MOST_BYTES_OF_TABLES,
            bytes_mb["gradient"],
        ),
        (
            "bytes of forward + gradient + AdamW over the table's",
            of_table["update"],
            1.0,
            whole and of_table["update"] < 1,
            bytes_mb["update"],
        ),
        (
            "FLOPs of forward + gradient over the training step's",
            share,
            LESS_THAN_STEP,
            whole and share < LESS_THAN_STEP,
            f"{product['gradient'].product_flops / 1e9:,.1f} / {setting.step_flops / 1e9:,.0f} GFLOP",
        ),
    ]
    return [dict(zip(("what", "number", "limit", "met", "of"), row, strict=True)) for row in rows]


def _compile(
    chip: targets.Chip,
    setting: Setting,
    embed: input_side.Embed,
    rows: int,
    leaf: str,
    bag: bags.Bag | None,
    passes: int,
) -> dict[str, program.Program]:
    side = input_side.make_input_side(embed, leaf, setting.config)
    width = setting.config.model.d_model
    matrix = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    ids, grad = jax.ShapeDtypeStruct((setting.tokens,), jnp.int32), jax.ShapeDtypeStruct((setting.tokens, width), "f4")
    state = jax.eval_shape(side.init, matrix)
    return {
        "gradient": program.compile_for(chip, side.gradient, (matrix, bag, ids, grad), passes),
        "update": program.compile_for(chip, side.update, (*state, bag, ids, grad), passes, donate=(0, 1)),
    }
