"""What a probe says: one table with its conditions, and what the paper says beside it.  One schema for all probes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kronecker.runtime import printing
from kronecker.runtime.printing import Table

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Result:
    """A table."""

    name: str  # stem of files, and the key by which others find it
    title: str  # what it says, with its unit
    source: str  # where the paper has it, e.g. "6.8, Table 10"; empty: the paper does not have it
    conditions: Mapping[str, str]  # what it was measured on: model, training, seeds, tokenizer, ...
    columns: Sequence[str]  # of the rows, the first ones say what a row is of
    rows: Sequence[Sequence[Cell]]  # what was measured; None where a cell does not apply
    paper: Sequence[Sequence[Cell]] = ()  # the paper's rows, same columns; empty where it gives none
    notes: Sequence[str] = ()  # what the numbers do not show
    # what the paper's rows were measured on, under the keys of `conditions` where there is one; `differences` compares
    # the two
    paper_conditions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [row for row in (*self.rows, *self.paper) if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"{self.name}: {len(self.columns)} columns, but {len(wrong[0])} cells in {wrong[0]}")


def to_json(result: Result) -> dict[str, Any]:
    """Returns the result for a file; every probe's file has these keys."""
    return dataclasses.asdict(result)


def from_json(content: Mapping[str, Any]) -> Result:
    """Returns the result that `to_json` gave; lists stay lists.

    Raises ValueError if it has other keys, or a row of another length.
    """
    fields = {field.name for field in dataclasses.fields(Result)}
    if set(content) != fields:
        raise ValueError(f"a result has the keys {', '.join(sorted(fields))}; got {', '.join(sorted(content))}")
    return Result(**content)


def differences(result: Result) -> dict[str, tuple[str, str]]:
    """Returns condition -> (here, in the paper) where the two are not the same; a side that does not say is empty."""
    keys = [*result.paper_conditions, *(key for key in result.conditions if key not in result.paper_conditions)]
    both = {key: (result.conditions.get(key, ""), result.paper_conditions.get(key, "")) for key in keys}
    return {key: (here, there) for key, (here, there) in both.items() if here != there} if result.paper else {}


def text(cell: Cell) -> str:
    """Returns a cell as people read it: three significant digits or more, thousands apart, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:z.3f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return cell


def table(result: Result) -> Table:
    """Returns the rows as text, the paper's last; columns of text are aligned left."""
    rows = (*result.rows, *result.paper)
    left = tuple(
        header for i, header in enumerate(result.columns) if not any(isinstance(row[i], int | float) for row in rows)
    )
    return Table(tuple(result.columns), [tuple(map(text, row)) for row in rows], left, len(result.paper))


def show(results: Sequence[Result], file: TextIO | None = None) -> None:
    """Prints results one below the other, ours and then the paper's rows."""
    for one in results:
        source = f"  (paper: {one.source})" if one.source else ""
        conditions = (f"  {name}: {value}" for name, value in one.conditions.items())
        notes = (f"  {note}" for note in one.notes)
        printing.show(f"{one.title}{source}", *conditions, table(one), *notes, "", file=file)
