"""A page of probes' results alone, without the training that led to them."""

from collections.abc import Sequence
from pathlib import Path

from kronecker.probes import result
from kronecker.report import page, result_figures, results


def write(found: Sequence[result.Result], file: Path, title: str) -> None:
    """Writes the page, and each table and figure as CSV into a folder of its name beside it.

    Raises:
      ValueError: if `file` does not end in .html.
    """
    numbers = page.folder_of(file)
    drawn = result_figures.draw(found)
    page.write_figures(numbers, drawn)
    results.write_numbers(numbers, found)
    pictures = "".join(page.figure(one, numbers.name) for one in drawn)
    told = "".join(results.section(one, numbers.name) for one in found)
    page.write_text(file, page.document(title, f'<div class="wide">{pictures}</div>\n{told}'))
