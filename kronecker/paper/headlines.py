"""The paper's headline numbers, each beside what was measured here."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from kronecker.paper import training_claims
from kronecker.run import result
from kronecker.runtime.printing import Table

Results = Mapping[str, result.Result]
Row = Mapping[str, result.Cell]


@dataclasses.dataclass(frozen=True)
class Headline:
    """A number of the paper."""

    claim: str  # what it is, with its unit
    source: str  # where the paper has it
    paper: str  # its value there
    result: str  # name of the result that holds ours, also the anchor on the page
    # rows of that result, by column -> our value; None where the rows do not hold it
    here: Callable[[Sequence[Row]], str | None]


def table(found: Results) -> Table:
    """Returns the paper's numbers and ours; what was not measured says so."""
    rows = []
    for headline in HEADLINES:
        ours = None
        if headline.result in found:
            held = found[headline.result]
            ours = headline.here([dict(zip(held.columns, row, strict=True)) for row in held.rows])
        rows.append((headline.claim, headline.source, headline.paper, ours or "not measured"))
    headers = ("quantity", "section", "paper", "here")
    return Table(headers, tuple(rows), ("quantity", "section"))


def _named(rows: Sequence[Row], wanted: Row) -> Row | None:
    """Returns the first row with the wanted cells; text need only begin so, as the names of runs end in their seed."""
    return next((row for row in rows if all(_is(row.get(key), cell) for key, cell in wanted.items())), None)


def _is(cell: result.Cell, wanted: result.Cell) -> bool:
    return cell.startswith(wanted) if isinstance(cell, str) and isinstance(wanted, str) else cell == wanted


def _cell(column: str, digits: int, wanted: Row) -> Callable[[Sequence[Row]], str | None]:
    def read(rows: Sequence[Row]) -> str | None:
        row = _named(rows, wanted)
        value = row and row[column]
        if value is None:
            return None
        return value if isinstance(value, str) else f"{value:,.{digits}f}"

    return read


def _both(column: str, digits: int, first: Row, second: Row) -> Callable[[Sequence[Row]], str | None]:
    """Returns a reader of one column in two rows: a / b."""

    def read(rows: Sequence[Row]) -> str | None:
        cells = [_cell(column, digits, wanted)(rows) for wanted in (first, second)]
        return None if None in cells else " / ".join(cells)

    return read


def _codes_mean(rows: Sequence[Row]) -> str | None:
    means = [row["mean"] for row in rows if str(row["embedding"]).startswith("codec")]
    return (
        f"{sum(means) / len(means):.3f} ({len(means)} vocabular{'y' if len(means) == 1 else 'ies'})" if means else None
    )


def _unseen(rows: Sequence[Row]) -> str | None:
    of_codes = [row for row in rows if str(row["embedding"]).startswith("codec")]
    found, of = (sum(row[key] for row in of_codes) for key in ("words", "of"))
    return f"{found} of {of}" if of else None


def _training(quantity: str, digits: int) -> Callable[[Sequence[Row]], str | None]:
    def read(rows: Sequence[Row]) -> str | None:
        row = _named(rows, {"quantity": quantity})
        if row is None or row["value"] is None:
            return None
        half = row["± 95 %"]
        spread = "" if half is None else f" ± {half:.{digits}f}"
        remark = f" {row['remark']}" if str(row["remark"]).startswith("of ") else ""
        return f"{row['value']:.{digits}f}{spread}{remark}"

    return read


def _flagged(rows: Sequence[Row]) -> str | None:
    of_arms = [_named(rows, {"arm": arm, "condition": "misspelled"}) for arm in (training_claims.TABLE, _KRONECKER)]
    return None if None in of_arms else " / ".join(f"{row['flagged']} of {row['prompts']}" for row in of_arms)


def _fit(rows: Sequence[Row]) -> str | None:
    row = _named(rows, {"vocabulary": "mean"})
    shares = [value for key, value in row.items() if key.startswith("fit")] if row else []
    return " / ".join(f"{share:.2f}" for share in shares) or None


def _over_cached(rows: Sequence[Row]) -> str | None:
    row = _named(rows, {"input": "onthefly"})
    return row and "{over cached, %:.1f} ({its low:.1f} to {its high:.1f})".format_map(row)


_KRONECKER = f"{training_claims.KRONECKER}-"  # of a run's name; kronecker_unit is another arm
_TABLE = {"arm": training_claims.TABLE}
_CODE = {"arm": _KRONECKER}


def _layered(space: str) -> Callable[[Sequence[Row]], str | None]:
    first, second = ({"run": arm, "space": space, "family": "all"} for arm in (training_claims.TABLE, _KRONECKER))
    return _both("root", 3, first, second)


HEADLINES = (
    Headline("tokens that fit whole at P = 16 / 32 / 64, %", "Table 3", "98.64 / 99.86 / 99.97", "coverage", _fit),
    Headline("loose morph@5 of codes", "6.1", ".923", "loose", _codes_mean),
    Headline("the same of a random table", "6.1", "1.00", "loose", _cell("mean", 3, {"embedding": "random"})),
    Headline("unseen words near a part of theirs", "6.5", "78 of 120", "unseen", _unseen),
    Headline(
        "tied table minus kronecker, validation loss, nats/token",
        "6.6",
        ".083 ± .007",
        "training",
        _training(training_claims.GAP.format("tied table"), 3),
    ),
    Headline(
        "untied table minus kronecker, likewise",
        "",
        "no such run",
        "training",
        _training(training_claims.GAP.format("untied table"), 3),
    ),
    Headline(
        "times fewer steps to the tied table's final loss",
        "6.6",
        "1.43",
        "training",
        _training(training_claims.SOONER, 2),
    ),
    Headline(
        "evaluations at which kronecker is ahead", "6.6", "18 of 18", "training", _training(training_claims.CELLS, 0)
    ),
    Headline(
        "std of the table, end over start", "6.6", "about 1.3", "training", _training(training_claims.DRIFT_TABLE, 2)
    ),
    Headline(
        "std of the projection, likewise",
        "6.6",
        "about 1.0",
        "training",
        _training(training_claims.DRIFT_PROJECTION, 2),
    ),
    Headline(
        "relatives by root near a word, input, table / kronecker", "6.8", ".302 / .244", "layered", _layered("E_raw")
    ),
    Headline("the same after block 1", "6.8", ".169 / .258", "layered", _layered("L1")),
    Headline(
        "input parameters saved, GPT-2 small, P = 16, %",
        "6.9",
        "91.85",
        "parameters",
        _cell("input saved, %", 2, {"model": "GPT-2 small", "P": 16}),
    ),
    Headline(
        "the same, V = 131,072, d = 4,096, P = 32, %",
        "6.9",
        "93.75",
        "parameters",
        _cell("input saved, %", 2, {"model": "the paper's frontier size", "P": 32}),
    ),
    Headline(
        "top-1 unmoved by a typo, share, table / kronecker",
        "6.11",
        ".473 / .555",
        "robustness",
        _both("top-1 stable, share", 3, _TABLE, _CODE),
    ),
    Headline(
        "KL(clean || typo), nats, table / kronecker",
        "6.11",
        ".859 / .794",
        "robustness",
        _both("KL(clean || typo), nats", 3, _TABLE, _CODE),
    ),
    Headline(
        "texts in circles after misspelled prompts, table / kronecker",
        "6.12",
        "2 of 20 / 5 of 20",
        "generation",
        _flagged,
    ),
    Headline(
        "memory kept to write codes on the fly, V = 131,072, P = 32, MB",
        "4",
        "4.46",
        "runtime",
        _cell("buffers, MB", 2, {"input": "onthefly"}),
    ),
    Headline(
        "step with codes on the fly over cached ones, %, and its quartiles",
        "4",
        "0.01 to 0.24",
        "runtime",
        _over_cached,
    ),
)
