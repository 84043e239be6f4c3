"""Pages and the files beside them.  A page is one file that contains its style and its figures."""

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from kronecker.report import figures, plot
from kronecker.runtime import storage

LEAST_LETTERS = 9.2  # CSS px, of text in a figure: a usual figure then fits a phone of 400 px


def render(template: str, **values: Any) -> str:
    """Returns a template of assets/pages filled with values, which are escaped: text, not HTML."""
    return _TEMPLATES.get_template(template).render(values)


def require_name(page: Path) -> None:
    """Raises ValueError if `page` does not end in .html: for callers with long work before they write it."""
    if page.suffix != ".html":
        raise ValueError(f"--out={page}: a page ends in .html; write --out={page.with_suffix('.html')}")


def folder_of(page: Path) -> Path:
    """Returns the folder for the files of a page, its name without the ending; makes it if needed.

    Raises ValueError if `page` does not end in .html.
    """
    require_name(page)
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_figures(folder: Path, drawn: Iterable[figures.Figure]) -> None:
    for drawing in drawn:
        storage.write_text(folder / f"{drawing.name}.csv", drawing.csv)
        storage.write_text(folder / f"{drawing.name}.svg", drawing.svg)


def _least_width(svg: str) -> str:
    """Returns the CSS px below which a figure's text is too small to read; a narrower screen scrolls it."""
    points = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', svg).group(1))
    return f"{LEAST_LETTERS / plot.LOOK['font.size'] * points:.0f}"


def _typeset(text: str) -> str:
    """Returns `text` with true minus signs and no line break before percent signs."""
    signed = re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", text)
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", signed)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "assets" / "pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "typeset": _typeset,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "least_width": _least_width,
}
