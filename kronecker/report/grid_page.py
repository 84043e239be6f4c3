"""The page of a sweep: each arm at its best, and a table of verdicts for each value of the swept keys.

A page with all details of each of these comparisons lies in the folder beside it.
"""

import re
from pathlib import Path

from kronecker.report import comparison_page, grid, pages, tables
from kronecker.runtime import storage


def write(found: grid.Grid, page: Path, title: str) -> None:
    """Writes the page last, after the pages and files in its folder; raises ValueError as `comparison_page.write`."""
    numbers = pages.folder_of(page)
    cells = []
    for cell in found.cells:
        told = grid.label(cell.values)
        linked = re.sub(r"[^\w.=-]+", "_", told) + ".html"
        comparison_page.write(cell.comparison, numbers / linked, f"{title}: {told}")
        cells.append((told, linked, tables.verdicts(cell.comparison), tables.exceptions(cell.comparison)))
    made = pages.render(
        "grid.html",
        title=title,
        numbers=numbers.name,
        best=found.best and comparison_page.best_section(found.best, numbers, title),
        swept=found.swept,
        cells=cells,
        notes=tables.notes_of_all(found),
        skipped=found.skipped,
    )
    storage.write_text(page, made)
