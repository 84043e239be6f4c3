"""Results of probes as parts of a page: the table with the paper's rows, what differs, the conditions, the notes."""

import csv
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from kronecker.probes import result
from kronecker.report import pages
from kronecker.runtime.printing import Table

SAME, NONE = "Under the paper's conditions.", "The paper gives no numbers for this."
LONG = 24  # rows beyond which a table is folded away


def section(one: result.Result, numbers: str) -> str:
    """Returns a result as HTML; `numbers` is the folder of its CSV file, relative to the page."""
    source = f" <small>(paper: {html.escape(one.source)})</small>" if one.source else ""
    whole = pages.table(result.table(one))
    link = html.escape(f"{numbers}/{one.name}.csv")
    if len(one.rows) > LONG:
        whole = f"<details><summary>Show all {len(one.rows):,} rows</summary>\n{whole}\n</details>"
    return f"""<section class="result" id="{html.escape(one.name)}">
<h3>{html.escape(one.title)}{source}</h3>
{whole}
<p class="differs">{html.escape(statement(one))} <a href="{link}">Numbers (CSV)</a></p>
{pages.bullets(one.notes)}
<details><summary>Conditions, here and in the paper</summary>
{pages.table(conditions(one))}
</details>
</section>
"""


def conditions(one: result.Result) -> Table:
    """Returns what ours and the paper's rows were measured on, one condition a row; those that differ are marked."""
    differing = result.differences(one)
    rows = []
    for key in dict.fromkeys([*one.conditions, *one.paper_conditions]):
        here, there = one.conditions.get(key, ""), one.paper_conditions.get(key, "")
        rows.append((key, here, there or ("not given" if one.paper else ""), "differs" if key in differing else ""))
    return Table(("condition", "here", "in the paper", ""), tuple(rows), ("condition", "here", "in the paper", ""))


def statement(one: result.Result) -> str:
    """Returns in plain words whether our rows and the paper's were measured alike."""
    if not one.paper:
        return NONE
    differing = result.differences(one)
    known = [key for key, (_, there) in differing.items() if there]
    unknown = [key for key, (_, there) in differing.items() if not there]
    told = [f"Not the paper's {_listed(known)}: compare directions, not digits." if known else ""]
    told.append(f"The paper does not say its {_listed(unknown)}." if unknown else "")
    return " ".join(filter(None, told)) or SAME


def write_numbers(folder: Path, found: Iterable[result.Result]) -> None:
    """Writes each result as CSV."""
    for one in found:
        pages.write_text(folder / f"{one.name}.csv", numbers(one))


def numbers(one: result.Result) -> str:
    """Returns the rows as CSV, the paper's last, told apart by the first column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("from", *one.columns))
    writer.writerows(("here", *row) for row in one.rows)
    writer.writerows(("paper", *row) for row in one.paper)
    return text.getvalue()


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
