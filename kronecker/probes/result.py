"""What a probe says: one table with its conditions, and what the paper says beside it.  One schema for all probes."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box, console, measure, table

Cell = str | int | float | None

NARROWEST = 100


@dataclasses.dataclass(frozen=True)
class Result:
    """A table.

    Attributes:
      name: stem of files, and the key by which others find it.
      title: what it says, with its unit.
      source: where the paper has it, e.g. "6.8, Table 10"; empty: the paper does not have it.
      conditions: what it was measured on: model, training, seeds, tokenizer, ...
      columns: of the rows, the first ones say what a row is of.
      rows: what was measured; None where a cell does not apply.
      paper: the paper's rows, same columns; empty where it gives none.
      notes: what the numbers do not show.
      paper_conditions: what the paper's rows were measured on, under the keys of `conditions` where there is one;
        `differences` compares the two.
    """

    name: str
    title: str
    source: str
    conditions: Mapping[str, str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    paper: Sequence[Sequence[Cell]] = ()
    notes: Sequence[str] = ()
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

    Raises:
      ValueError: if it has other keys, or a row of another length.
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


def show(results: Sequence[Result], file: TextIO = sys.stdout) -> None:
    """Prints results one below the other, ours and then the paper's rows; plain text where `file` is no terminal."""
    screen = console.Console(file=file, highlight=False, markup=False, soft_wrap=True)
    for result in results:
        source = f"  (paper: {result.source})" if result.source else ""
        screen.print(f"{result.title}{source}")
        for name, value in result.conditions.items():
            screen.print(f"  {name}: {value}")
        screen.print(_table(result, screen))
        for note in result.notes:
            screen.print(f"  {note}")
        screen.print()


def _table(result: Result, screen: console.Console) -> table.Table:
    made = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i, header in enumerate(result.columns):
        number = any(isinstance(row[i], int | float) for row in (*result.rows, *result.paper))
        made.add_column(header, justify="right" if number else "left", no_wrap=True)
    for row in result.rows:
        made.add_row(*map(text, row))
    if result.paper:
        made.add_section()
        for row in result.paper:
            made.add_row(f"paper: {text(row[0])}", *map(text, row[1:]))
    natural = measure.Measurement.get(screen, screen.options.update(max_width=1000), made).maximum
    screen.width = max(NARROWEST, screen.width, natural)
    return made
