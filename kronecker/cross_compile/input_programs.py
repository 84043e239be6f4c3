"""Compiles the input side of a model: every implementation of the product, and the table that it replaces.

Three programs each: embeddings (for a GPU only); these and the gradient of the one trained matrix for a given
cotangent; these and an update by the optimizer of training, with donated state.  All data are arguments.

Shapes: N tokens, V vocabulary, D rows of the projection, M rows of the trained matrix (D or V), d model width.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import ml_collections

from kronecker.cross_compile import program, targets
from kronecker.embedding import bags, codec, implementations
from kronecker.model import accounting, transformer
from kronecker.schema import choices
from kronecker.training import input_side

TABLE = "table"
FORWARD, GRADIENT, UPDATE = "forward", "gradient", "update"
PROGRAMS = {"tpu": (GRADIENT, UPDATE), "gpu": (FORWARD, GRADIENT, UPDATE)}
# `gather` has a row for each of its gradients.
GATHER = "gather"
GATHERS = {f"{GATHER}, {gradient}": gradient for gradient in choices.GATHER_GRADIENTS}
# Passes of a TPU's bfloat16 units over a product.  A float32 is split into three bfloat16; of the nine partial products
# six matter, or three if the other operand is 0 or 1, which one bfloat16 holds.  The compiler's estimates of cycles
# agree.  A GPU's passes are in its program.
ONE_HOT_PASSES = {"bfloat16": 1, "float32": 3}
DENSE_PASSES = {"bfloat16": 1, "float32": 6}
PASSES = {
    **dict.fromkeys(("cached", "onthefly"), DENSE_PASSES),
    **dict.fromkeys(("onehot", "induced", f"{GATHER}, onehot"), ONE_HOT_PASSES),
}

# Targets for a TPU.
MOST_TEMPORARY_BYTES = 64e6
MOST_BYTES_OF_TABLES = 1.5  # forward and gradient
LESS_THAN_STEP = 0.03
# Targets for a GPU.
MOST_OF_FORWARD, MOST_OF_GRADIENT = 1e6, 100e6  # temporary bytes

Programs = dict[str, dict[str, program.Program]]  # by program, then by form


@dataclasses.dataclass(frozen=True)
class Setting:
    """The problem to compile."""

    table: codec.ByteTable  # the vocabulary's bytes; their lengths determine the layout of "induced"
    tokens: int  # N
    # the model around the input side, resolved, with its vocabulary; gives width, type and optimizer
    config: ml_collections.ConfigDict

    @classmethod
    def of(
        cls,
        token_bytes: Sequence[bytes | None],
        pos_dim: int,
        vocab: int,
        tokens: int,
        config: ml_collections.ConfigDict,
    ) -> Self:
        """Returns the setting of a tokenizer's bytes, its vocabulary padded to `vocab` ids."""
        return cls(codec.byte_table(token_bytes, pos_dim, vocab), tokens, config)

    def auto(self, platform: str) -> str:
        """Returns the row that "auto" chooses on "tpu" or "gpu"."""
        name = implementations.choose(platform)
        return f"{name}, {implementations.FASTEST_GATHER_GRADIENT}" if name == GATHER else name

    @property
    def step_flops(self) -> float:
        """Returns the FLOPs of a training step with as many tokens, by accounting.flops_per_token."""
        shape = transformer.Shape.of(self.config.model)
        return self.tokens * accounting.flops_per_token(shape, self.config.train.sequence)


def rows(names: Iterable[str]) -> list[str]:
    """Returns the rows for implementations, without duplicates; `gather` has one for each of its gradients."""
    found = [row for name in names for row in (GATHERS if name == GATHER else [name])]
    return list(dict.fromkeys(found))


def compile_table(target: targets.Target, setting: Setting) -> Programs:
    """Returns the programs of a learned table.

    Its lookup assumes that ids are in bounds, as the product does; flax.linen.Embed does not, and moves more bytes.
    """

    def embed(table_Vd, bag, ids_N):
        del bag
        return table_Vd.at[ids_N].get(mode="promise_in_bounds")

    return _compile(target, setting, embed, len(setting.table.lengths), None, 1)


def compile_product(target: targets.Target, setting: Setting, name: str, limit_mb: float) -> Programs:
    """Returns the programs of one implementation: of choices.IMPLEMENTATIONS, or of GATHERS.

    Raises ValueError if the codes of "cached" would exceed `limit_mb`, or the compiler rejects a program.
    """
    dtype = setting.config.model.dtype
    paper = bags.kronecker_bag(setting.table)
    implementation = GATHER if name in GATHERS else name
    gradient = GATHERS.get(name, choices.AUTO)
    how = {"limit_mb": limit_mb, "platform": target.platform, "gather_gradient": gradient}
    bag = jax.eval_shape(lambda: implementations.prepare(paper, implementation, jnp.dtype(dtype), **how))
    embed = functools.partial(implementations.product, dtype=dtype)
    passes = PASSES[name][dtype] if name in PASSES else 1
    return _compile(target, setting, embed, bag.rows, bag, passes)


def verdicts(target: targets.Target, setting: Setting, product: Programs, table: Programs) -> list[dict[str, Any]]:
    """Returns the verdicts on `auto`'s choice, each with what, number, limit, met, and the numbers behind it ("of").

    Of a GPU's forms the worse one counts.
    """
    compared = (UPDATE,) if target.is_gpu else (GRADIENT, UPDATE)
    whole = all(one.comparable for side in (product, table) for name in compared for one in side[name].values())
    of_table = {}
    for name in compared:
        pairs = [(one.bytes_accessed, table[name][form].bytes_accessed) for form, one in product[name].items()]
        ours, theirs = max(pairs, key=lambda pair: pair[0] / pair[1])
        of_table[name] = ours / theirs, f"{ours / 1e6:,.0f} / {theirs / 1e6:,.0f} MB"
    found: list[tuple[str, float, float, bool, str]] = []
    if target.is_gpu:
        limits = {FORWARD: ("forward", MOST_OF_FORWARD), GRADIENT: ("forward + gradient", MOST_OF_GRADIENT)}
        for name, (what, limit) in limits.items():
            kept = max(one.temporary_bytes for one in product[name].values())
            loops = max(one.operations["while"] for one in product[name].values())
            found.append((f"temporary memory of {what}", kept, limit, kept <= limit, "bytes"))
            found.append((f"loops of {what}", loops, 0, loops == 0, "loops"))
    else:
        kept = max(one.temporary_bytes for name in compared for one in product[name].values())
        found.append(("temporary memory", kept, MOST_TEMPORARY_BYTES, kept <= MOST_TEMPORARY_BYTES, "bytes"))
        ratio, numbers = of_table[GRADIENT]
        met = whole and ratio <= MOST_BYTES_OF_TABLES
        found.append(("bytes of forward + gradient / table's", ratio, MOST_BYTES_OF_TABLES, met, numbers))
    ratio, numbers = of_table[UPDATE]
    found.append(("bytes of forward + gradient + AdamW / table's", ratio, 1.0, whole and ratio < 1, numbers))
    if not target.is_gpu:
        flops, of_step = max(sum(one.flops.values()) for one in product[GRADIENT].values()), setting.step_flops
        met, numbers = whole and flops / of_step < LESS_THAN_STEP, f"{flops / 1e9:,.1f} / {of_step / 1e9:,.0f} GFLOP"
        found.append(("FLOPs of forward + gradient / training step's", flops / of_step, LESS_THAN_STEP, met, numbers))
    return [dict(zip(("what", "number", "limit", "met", "of"), row, strict=True)) for row in found]


def _compile(
    target: targets.Target, setting: Setting, embed: input_side.Embed, rows: int, bag: bags.Bag | None, passes: int
) -> Programs:
    side = input_side.make_input_side(embed, setting.config)
    width = setting.config.model.d_model
    matrix = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    ids, grad = jax.ShapeDtypeStruct((setting.tokens,), jnp.int32), jax.ShapeDtypeStruct((setting.tokens, width), "f4")
    state = jax.eval_shape(side.init, matrix)
    parts = {
        FORWARD: (side.forward, (matrix, bag, ids), ()),
        GRADIENT: (side.gradient, (matrix, bag, ids, grad), ()),
        UPDATE: (side.update, (*state, bag, ids, grad), (0, 1)),
    }
    return {
        name: program.compile_for(target, function, arguments, passes, donate)
        for name, (function, arguments, donate) in parts.items()
        if name in PROGRAMS[target.platform]
    }
