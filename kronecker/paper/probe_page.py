"""A page of probes' results alone, without the training that led to them."""

from collections.abc import Sequence
from pathlib import Path

from kronecker.paper import result_figures, results
from kronecker.report import pages
from kronecker.run import result
from kronecker.runtime import storage


def write(found: Sequence[result.Result], file: Path, title: str) -> None:
    """Writes the page, and each table and figure as CSV into a folder of its name beside it.

    Raises ValueError if `file` does not end in .html.
    """
    numbers = pages.folder_of(file)
    drawn = result_figures.draw(found)
    pages.write_figures(numbers, drawn)
    results.write_numbers(numbers, found)
    made = pages.render("probes.html", title=title, numbers=numbers.name, figures=drawn, results=results.shown(found))
    storage.write_text(file, made)
