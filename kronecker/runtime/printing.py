"""Tables of text, and their output on terminals and in files."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box, console, measure
from rich import table as rich_table

NARROWEST = 100  # characters, where there is no terminal
WIDEST = 1000
_UNBROKEN = "\N{NO-BREAK SPACE}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text."""

    headers: tuple[str, ...]  # of its columns; may have line breaks
    rows: Sequence[Sequence[str]]  # a row may lack its last cells; an empty one is a blank line
    left: tuple[str, ...]  # headers of the columns that are aligned left; all others hold numbers
    quoted: int = 0  # the number of last rows that are the paper's


def say(line: str) -> None:
    """Prints a line on stderr at once, also where that is a file."""
    print(line, file=sys.stderr, flush=True)


def show(*parts: Table | str, file: TextIO | None = None, wrap: bool = False) -> None:
    """Prints tables and texts to `file`, by default stdout; plain text if that is not a terminal.

    A table that is wider than the terminal is printed as a list: below each row's first cell the others, with their
    headers.  `wrap` breaks long texts between words, at the width of the terminal or of the widest table so far.
    """
    screen = console.Console(file=file, highlight=False, markup=False)
    if not screen.is_terminal:
        screen.width = NARROWEST
    for part in parts:
        shown = _grid(part) if isinstance(part, Table) else part
        if shown is not part:
            natural = measure.Measurement.get(screen, screen.options.update(max_width=WIDEST), shown).maximum
            if screen.is_terminal and natural > screen.width:
                shown = _list(part, screen.width)
            else:
                screen.width = max(screen.width, natural)
        screen.print(shown, soft_wrap=not wrap)


def fill(parts: Iterable[str], between: str, width: int) -> str:
    """Returns the parts on lines of at most `width` characters, with no part broken that fits into a line."""
    line = between.join(part.replace(" ", _UNBROKEN) for part in parts)
    options = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(line, max(width, 1), **options).replace(_UNBROKEN, " ")


def _list(table: Table, width: int) -> str:
    headers = [re.sub(r"-\n|(?<=[/_])\n|\n(?=/)", "", header).replace("\n", " ") for header in table.headers]
    lines = []
    for i, (first, *others) in enumerate(row or [""] for row in table.rows):
        cells = (f"{header} {cell}".strip() for header, cell in zip(headers[1:], others, strict=False) if cell)
        quoted = "paper: " if i >= len(table.rows) - table.quoted else ""
        lines += [f"{quoted}{first}", *filter(None, [fill(("", *cells), "  ", width)])]
    return "\n".join(lines)


def _grid(table: Table) -> rich_table.Table:
    grid = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for header in table.headers:
        justify = "left" if header in table.left else "right"
        grid.add_column(header, justify=justify, vertical="bottom", no_wrap=True)
    ours = len(table.rows) - table.quoted
    for row in table.rows[:ours]:
        grid.add_row(*row)
    for i, (first, *others) in enumerate(table.rows[ours:]):
        if i == 0:
            grid.add_section()
        grid.add_row(f"paper: {first}", *others)
    return grid
