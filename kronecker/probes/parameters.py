"""How many parameters a Kronecker input saves in published models: the paper's section 6.9, Table 11.

Shapes: V vocabulary, d model width, D = 256 P code dimension.
"""

import dataclasses
from collections.abc import Sequence

from kronecker.embedding import codec
from kronecker.run import result


@dataclasses.dataclass(frozen=True)
class Model:
    """A published decoder: its vocabulary as its table holds it, its width, and whether the table is its head too."""

    name: str
    vocab: int
    width: int
    tied: bool


GPT2 = tuple(
    Model(f"GPT-2 {size}", 50_257, width, tied=True)
    for size, width in (("small", 768), ("medium", 1024), ("large", 1280), ("XL", 1600))
)
PUBLISHED = (
    *GPT2,
    Model("SmolLM2 135M", 49_152, 576, tied=True),
    Model("Llama 3.2 1B", 128_256, 2048, tied=True),
    Model("Gemma 3 1B", 262_144, 1152, tied=True),
    Model("Qwen3 32B", 151_936, 5120, tied=False),
    Model("DeepSeek V3", 129_280, 7168, tied=False),
    Model("GPT-OSS 120B", 201_088, 2880, tied=False),
    Model("the paper's frontier size", 131_072, 4096, tied=False),
)
COLUMNS = ("model", "V", "d", "tied", "P", "table", "projection", "input saved, %", "head", "both", "change of both")
# The paper's rows count the input alone; the second row is given in millions: 536.9 and 33.55.
PAPER = (
    ("GPT-2 small", 50_257, 768, None, 16, 38_597_376, 3_145_728, "91.85", None, None, None),
    ("the paper's frontier size", 131_072, 4096, None, 32, 536_900_000, 33_550_000, "93.75", None, None, None),
)


@dataclasses.dataclass(frozen=True)
class Account:
    """Parameters of one model with a table and with a projection."""

    table: int  # V d, what a table holds
    projection: int  # D d, what replaces it
    ends_before: int  # input and head with the table; tied, they are one
    ends_after: int  # input and head with the projection; the head is then V d of its own

    @property
    def saved(self) -> float:
        """The share of the input's parameters that is saved: 1 - D / V."""
        return 1 - self.projection / self.table

    @property
    def change(self) -> int:
        """The parameters that input and head gain with the projection; below zero they lose some."""
        return self.ends_after - self.ends_before


def account(model: Model, pos_dim: int) -> Account:
    """Returns the parameters of `model` with its table and with a Kronecker input of P positions."""
    table, projection = model.vocab * model.width, codec.CHAR_DIM * pos_dim * model.width
    return Account(table, projection, table if model.tied else 2 * table, projection + table)


def measure(models: Sequence[Model] = PUBLISHED, pos_dims: Sequence[int] = (16, 32)) -> result.Result:
    """Returns the table of all models at each P, beside the paper's two rows."""
    return result.Result(
        name="parameters",
        title="Parameters of input and head, with a table and with a Kronecker input",
        source="6.9, Table 11",
        conditions={"count": "by formula"},
        columns=COLUMNS,
        rows=[_row(model, pos_dim) for model in models for pos_dim in pos_dims],
        paper=PAPER,
        notes=(
            "The share saved is of the input alone; both: input and head. Where the table is tied to the head, the "
            "head stays, so the model grows by the projection. The body is not counted. The paper gives its larger "
            "size in millions.",
        ),
        paper_conditions={"count": "by formula"},
    )


def _row(model: Model, pos_dim: int) -> tuple[result.Cell, ...]:
    found = account(model, pos_dim)
    size = (model.name, model.vocab, model.width, "yes" if model.tied else "no", pos_dim)
    share = f"{100 * found.saved:.2f}"
    return (*size, found.table, found.projection, share, found.table, found.ends_after, found.change)
