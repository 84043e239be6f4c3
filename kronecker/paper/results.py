"""Results of probes as parts of a page: the table with the paper's rows, the conditions, the notes."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kronecker.run import result
from kronecker.runtime import storage
from kronecker.runtime.printing import Table

SAME, NONE = "Under the paper's conditions.", "The paper gives no numbers for this."


def shown(found: Iterable[result.Result]) -> list[dict[str, Any]]:
    """Returns what parts.html shows of each result."""
    return [
        {"result": one, "table": result.table(one), "conditions": conditions(one), "statement": statement(one)}
        for one in found
    ]


def conditions(one: result.Result) -> Table:
    """Returns the conditions of our rows and the paper's, one a row; those that differ are marked."""
    differing = result.differences(one)
    rows = []
    for key in dict.fromkeys([*one.conditions, *one.paper_conditions]):
        here, there = one.conditions.get(key, ""), one.paper_conditions.get(key, "")
        rows.append((key, here, there or ("not given" if one.paper else ""), "differs" if key in differing else ""))
    return Table(("condition", "here", "in the paper", ""), tuple(rows), ("condition", "here", "in the paper", ""))


def statement(one: result.Result, begin: str = "Not the paper's ") -> str:
    """Returns which conditions of our rows are not the paper's; `begin` is how the sentence begins."""
    if not one.paper:
        return NONE
    differing = result.differences(one)
    known = [key for key, (_, there) in differing.items() if there]
    unknown = [key for key, (_, there) in differing.items() if not there]
    told = [f"{begin}{_listed(known)}: compare directions, not digits." if known else ""]
    told.append(f"The paper does not state its {_listed(unknown)}." if unknown else "")
    return " ".join(filter(None, told)) or SAME


def write_numbers(folder: Path, found: Iterable[result.Result]) -> None:
    """Writes the rows of each as CSV, the paper's last; the first column says whose a row is."""
    for one in found:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("from", *one.columns))
        writer.writerows(("here", *row) for row in one.rows)
        writer.writerows(("paper", *row) for row in one.paper)
        storage.write_text(folder / f"{one.name}.csv", text.getvalue())


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
