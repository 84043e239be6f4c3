"""What pages are made of: one look, tables, figures with their numbers, lists.  A page is one file, fonts included."""

import base64
import html
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kronecker.report import figures, intervals, plot, tables
from kronecker.runtime import storage

LEAST_LETTERS = 10  # CSS px, of text in a figure
LONG_TEXT = 28, 44  # characters beyond which text may break into lines: of the first column's cells, of others
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 76rem; background: #fff; color: #1a1a1a;
       font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #d8d8d8; }
h3 { font-size: 1rem; margin: 1.75rem 0 .4rem; }
figure h3 { margin-top: 0; }
.scroll + figure, dl + .scroll { margin-top: 1.75rem; }
p, li { max-width: 50rem; }
ul { padding-left: 1.2rem; }
li { margin: .2rem 0; }
a { color: #00558c; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e6e6e6; }
th { font-size: .85rem; line-height: 1.25; font-weight: 600; vertical-align: bottom; border-bottom: 2px solid #1a1a1a; }
th.left, td.left { text-align: left; }
th:first-child, td:first-child { padding-left: 0; font-weight: 600; position: sticky; left: 0; background: #fff; }
td.long { white-space: normal; min-width: 14rem; max-width: 30rem; }
tr.quoted td { background: #eef4fa; }
tr.quoted td:first-child::before { content: "paper: "; font-weight: 400; color: #00558c; }
details { margin: .4rem 0 0; }
summary { cursor: pointer; color: #00558c; }
.differs { color: #444; font-size: .9rem; }
.result { margin: 1.5rem 0 2rem; }
.better { color: #00664a; font-weight: 600; }
.worse { color: #a34700; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 31rem), 1fr)); gap: 2rem 2.5rem; }
section { min-width: 0; }
section h2 { margin-top: .75rem; }
figure { margin: 0; max-width: 36rem; min-width: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; }
.wide figure { max-width: none; margin: 0 0 2rem; }
.wide figure img { width: auto; max-width: max(100%, 46rem); }
figcaption { font-size: .875rem; line-height: 1.45; color: #444; margin-top: .35rem; }
figcaption a { white-space: nowrap; }
pre { overflow-x: auto; padding: .75rem; background: #f5f5f5; font-size: .8rem; line-height: 1.5; }
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 2rem; }
  th:first-child, td:first-child { position: static; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print { body { max-width: none; font-size: 10pt; } pre { white-space: pre-wrap; } }
"""


def local(path: str, flag: str) -> Path:
    """Returns the path of a file that is to be written, which `flag` names; a remote one raises a ValueError."""
    if storage.is_remote(path):
        raise ValueError(f"{path}: pages and numbers are written to a disk; name a local file with {flag}")
    return Path(path)


def document(title: str, body: str) -> str:
    """Returns a whole page."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}
</body>
</html>
"""


def require_name(page: Path) -> None:
    """Raises a ValueError if `page` does not end in .html: for callers with work to do before they write it."""
    if page.suffix != ".html":
        raise ValueError(f"--out={page}: a page ends in .html; write --out={page.with_suffix('.html')}")


def folder_of(page: Path) -> Path:
    """Returns the folder for what goes with a page, made if it is not there: its own name without the ending.

    Raises:
      ValueError: if `page` does not end in .html.
    """
    require_name(page)
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_figures(folder: Path, drawn: Iterable[figures.Figure]) -> None:
    """Writes each figure as SVG and its numbers as CSV."""
    for drawing in drawn:
        write_text(folder / f"{drawing.name}.csv", drawing.csv)
        write_text(folder / f"{drawing.name}.svg", drawing.svg)


def write_text(file: Path, text: str) -> None:
    """Writes a file by rename, so that it is whole or not there."""
    with storage.renamed(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def table(told: tables.Table) -> str:
    """Returns a table that scrolls within itself where the page is too narrow for it."""
    side = [' class="left"' if header in told.left else "" for header in told.headers]

    def cell(text: str, column: int) -> str:
        verdict = text in (intervals.BETTER, intervals.WORSE)
        mark = f' class="left {text}"' if verdict else side[column]
        if len(text) > LONG_TEXT[column > 0]:
            mark = ' class="left long"'
        return f"<td{mark}>{typeset(text)}</td>"

    def row(cells: Sequence[str], quoted: bool) -> str:
        mark = ' class="quoted"' if quoted else ""
        return f"<tr{mark}>{''.join(cell(text, i) for i, text in enumerate(cells))}</tr>\n"

    head = "".join(
        f"<th{left}>{html.escape(header).replace(chr(10), '<br>')}</th>"
        for header, left in zip(told.headers, side, strict=True)
    )
    ours = len(told.rows) - told.quoted
    rows = "".join(row(cells, i >= ours) for i, cells in enumerate(told.rows))
    return f"""<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>"""


def facts(of: Mapping[str, str]) -> str:
    """Returns a list of names and what each is."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>\n" for name, text in of.items())
    return f"<dl>\n{items}</dl>"


def figure(drawing: figures.Figure, numbers: str) -> str:
    """Returns a figure with its caption; `numbers` is the folder of its CSV file, relative to the page."""
    picture = base64.b64encode(drawing.svg.encode()).decode()
    title = html.escape(drawing.title)
    link = urllib.parse.quote(f"{numbers}/{drawing.name}.csv")  # leaves nothing that HTML would read
    return f"""<figure id="{drawing.name}">
<h3>{title}</h3>
<div class="scroll"><img alt="{title}; the numbers are in {drawing.name}.csv"
style="min-width: {_least_width(drawing.svg):.0f}px" src="data:image/svg+xml;base64,{picture}"></div>
<figcaption>{html.escape(drawing.caption)} <a href="{link}">Numbers (CSV)</a></figcaption>
</figure>
"""


def _least_width(svg: str) -> float:
    """Returns the CSS px below which a figure's text is too small to read; on a narrower screen it scrolls."""
    points = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', svg).group(1))
    return LEAST_LETTERS / plot.LOOK["font.size"] * points


def bullets(texts: Iterable[str]) -> str:
    """Returns a list of sentences."""
    items = "".join(f"<li>{typeset(text)}</li>\n" for text in texts)
    return f"<ul>\n{items}</ul>" if items else ""


def links(anchors: Mapping[str, str]) -> str:
    """Returns a list of links to places of the page: anchor -> text."""
    items = "".join(f'<li><a href="#{html.escape(at)}">{html.escape(text)}</a></li>\n' for at, text in anchors.items())
    return f"<ul>\n{items}</ul>"


def typeset(text: str) -> str:
    """Returns `text` for the page, with true minus signs, and percent signs that stay with their number."""
    signed = re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", html.escape(text))
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", signed)
