"""A probe's result: a table with its conditions, and the paper's rows.  One schema for all probes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kronecker.runtime import printing
from kronecker.runtime.printing import Table

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Result:
    """A table."""

    name: str  # stem of its files, and its key
    title: str  # with the unit
    source: str  # its place in the paper, e.g. "6.8, Table 10"; empty: not in the paper
    conditions: Mapping[str, str]  # of the measurement: model, training, seeds, tokenizer, ...
    columns: Sequence[str]  # the first ones identify a row
    rows: Sequence[Sequence[Cell]]  # measured here; None where a cell does not apply
    paper: Sequence[Sequence[Cell]] = ()  # the paper's rows, same columns
    notes: Sequence[str] = ()  # limits of the numbers
    # of the paper's rows, with the keys of `conditions`; `differences` compares the two
    paper_conditions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [row for row in (*self.rows, *self.paper) if len(row) != len(self.columns)]:
            raise ValueError(f"{self.name}: {len(self.columns)} columns, but {len(wrong[0])} cells in {wrong[0]}")


def to_json(result: Result) -> dict[str, Any]:
    return dataclasses.asdict(result)


def from_json(content: Mapping[str, Any]) -> Result:
    """Returns the result that `to_json` wrote, with lists for tuples; raises ValueError for wrong keys or rows."""
    fields = {field.name for field in dataclasses.fields(Result)}
    if set(content) != fields:
        raise ValueError(f"a result has the keys {', '.join(sorted(fields))}; got {', '.join(sorted(content))}")
    return Result(**content)


def differences(result: Result) -> dict[str, tuple[str, str]]:
    """Returns condition -> (here, in the paper) where they differ; an unknown value is empty."""
    keys = [*result.paper_conditions, *(key for key in result.conditions if key not in result.paper_conditions)]
    both = {key: (result.conditions.get(key, ""), result.paper_conditions.get(key, "")) for key in keys}
    return {key: (here, there) for key, (here, there) in both.items() if here != there} if result.paper else {}


def text(cell: Cell) -> str:
    """Returns a cell as text: three significant digits or more, thousands separated, empty for None."""
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:z.3f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return cell


def table(result: Result) -> Table:
    """Returns the rows as text, the paper's last."""
    rows = (*result.rows, *result.paper)
    left = tuple(
        header for i, header in enumerate(result.columns) if not any(isinstance(row[i], int | float) for row in rows)
    )
    return Table(tuple(result.columns), [tuple(map(text, row)) for row in rows], left, len(result.paper))


def show(results: Sequence[Result], file: TextIO | None = None) -> None:
    for one in results:
        source = f"  (paper: {one.source})" if one.source else ""
        conditions = (f"  {name}: {value}" for name, value in one.conditions.items())
        notes = (f"  {note}" for note in one.notes)
        printing.show(f"{one.title}{source}", *conditions, table(one), *notes, "", file=file)
