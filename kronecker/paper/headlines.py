"""The paper's headline numbers, each beside what was measured here, and whether the two agree."""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from kronecker.paper import results, training_claims
from kronecker.probes import robustness
from kronecker.run import result
from kronecker.runtime.printing import Table

Results = Mapping[str, result.Result]
Row = Mapping[str, result.Cell]
Interval = tuple[float, float]

AGREES, OPPOSITE, NOT_COMPARABLE, NOT_RESOLVED = "agrees", "opposite", "not comparable", "not resolved"
NOT_MEASURED, NO_SUCH_RUN = "not measured", "no such run"


@dataclasses.dataclass(frozen=True)
class Headline:
    """A number of the paper."""

    claim: str  # what it is, with its unit
    source: str  # where the paper has it
    paper: str  # its value there
    result: str  # name of the result that holds ours, also the anchor on the page
    # rows of that result, by column -> our value; None where the rows do not hold it
    here: Callable[[Sequence[Row]], str | None]
    # results -> the 95 % interval of ours, above zero where it has the paper's direction; None where ours has no
    # interval.  Without an `effect` the number has no direction: it is compared by its digits.
    effect: Callable[[Results], Interval | None] | None = None
    resolved: bool = True  # whether the paper's own outputs resolve the direction
    exact: bool = False  # whether the number is computed from what `claim` names, without other conditions


def verdict(headline: Headline, found: Results) -> str:
    """Returns whether ours agrees with the paper's number; empty if ours was not measured.

    A direction is compared under any conditions.  It agrees or is opposite where the 95 % interval of ours excludes
    zero, and is not resolved where it does not, or where the paper's own outputs do not resolve it.  A number without a
    direction is compared under the paper's conditions only: it agrees if it has the same digits.
    """
    ours = _here(headline, found)
    if ours is None:
        return ""
    if headline.effect:
        interval = headline.effect(found)
        if not headline.resolved or interval is None or not (interval[0] > 0 or interval[1] < 0):
            return NOT_RESOLVED
        return AGREES if interval[0] > 0 else OPPOSITE
    if headline.paper == NO_SUCH_RUN or (result.differences(found[headline.result]) and not headline.exact):
        return NOT_COMPARABLE
    return AGREES if ours == headline.paper else OPPOSITE


def table(found: Results) -> Table:
    """Returns the paper's numbers, ours and whether they agree; what was not measured says so."""
    rows = [
        (one.claim, one.paper, _here(one, found) or NOT_MEASURED, verdict(one, found), one.source) for one in HEADLINES
    ]
    headers = ("quantity", "paper", "here", "verdict", "section")
    return Table(headers, tuple(rows), ("quantity", "verdict", "section"))


def summary(found: Results) -> list[str]:
    """Returns three sentences: how many numbers agree, what training gave, and how far the conditions are apart."""
    counts = collections.Counter(verdict(one, found) for one in HEADLINES)
    measured = sum(counts.values()) - counts[""]
    trained = found["training"]
    rows = [dict(zip(trained.columns, row, strict=True)) for row in trained.rows]
    gaps = [_gap(row, arm) for arm in _ASIDE for row in rows if row["quantity"] == training_claims.GAP.format(arm)]
    return [
        f"Of the {measured} numbers below that were measured here, {counts[AGREES]} agree with the paper; opposite: "
        f"{counts[OPPOSITE]}, not resolved: {counts[NOT_RESOLVED]}, not comparable: {counts[NOT_COMPARABLE]}.",
        f"In these runs kronecker's final validation loss is {' and '.join(gaps)}.",
        results.statement(trained, "These runs do not have the paper's "),
    ]


_ASIDE = {"tied table": "paper: 0.083 ± 0.007 lower", "untied table": "not in the paper"}


def _gap(row: Row, arm: str) -> str:
    half = "" if row["± 95 %"] is None else f" ± {row['± 95 %']:.3f}"
    aside = ("" if str(row["remark"]).startswith("kronecker") else "not resolved; ") + _ASIDE[arm]
    than = f"{'lower' if row['value'] > 0 else 'higher'} than the {arm}'s ({aside})"
    return f"{abs(row['value']):.3f}{half} nats/token {than}"


def _here(headline: Headline, found: Results) -> str | None:
    held = found.get(headline.result)
    return headline.here([dict(zip(held.columns, row, strict=True)) for row in held.rows]) if held else None


def _named(rows: Sequence[Row], wanted: Row) -> Row | None:
    """Returns the first row with the wanted cells; a text matches by its beginning: names of runs end in their seed."""
    return next((row for row in rows if all(_is(row.get(key), cell) for key, cell in wanted.items())), None)


def _is(cell: result.Cell, wanted: result.Cell) -> bool:
    return cell.startswith(wanted) if isinstance(cell, str) and isinstance(wanted, str) else cell == wanted


def _told(form: str, *wanted: Row) -> Callable[[Sequence[Row]], str | None]:
    """Returns a function that writes the cells of each wanted row in `form`, as a / b; None if a row is missing."""

    def read(rows: Sequence[Row]) -> str | None:
        found = [_named(rows, one) for one in wanted]
        return None if None in found else " / ".join(form.format_map(row) for row in found)

    return read


def _codes_mean(rows: Sequence[Row]) -> str | None:
    means = [row["mean"] for row in rows if str(row["embedding"]).startswith("codec")]
    return f"{sum(means) / len(means):.3f}" if means else None


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


def _trained(quantity: str, zero: float = 0.0, geometric: bool = False) -> Callable[[Results], Interval | None]:
    """Returns a function that reads a row's interval in `training`, minus `zero`, the value of no effect.

    The interval of a geometric mean is symmetric in the logarithm, and `training` has half its width.
    """

    def read(found: Results) -> Interval | None:
        value, half = next(row[1:3] for row in found["training"].rows if row[0] == quantity)
        if value is None or half is None:
            return None
        middle = math.hypot(value, half) if geometric else value
        return (middle - half - zero, middle + half - zero)

    return read


def _ahead(found: Results) -> Interval:
    """Counts have no interval: the direction is resolved if kronecker is ahead at all evaluations or at none."""
    ahead, of = next((row[1], row[3]) for row in found["training"].rows if row[0] == training_claims.CELLS)
    return (-1.0 if f"of {ahead:,}" != of else 1.0, 1.0 if ahead else -1.0)


def _over_prompts(metric: str) -> Callable[[Results], Interval | None]:
    """Returns a function that reads the interval of kronecker minus the tied table over prompts."""

    def read(found: Results) -> Interval | None:
        for name, one in found.items():
            if name.startswith("robustness_paired") and one.columns[1].startswith(training_claims.TABLE):
                row = next(row for row in one.rows if row[0] == metric)
                return row[4], row[5]
        return None

    return read


def _fit(rows: Sequence[Row]) -> str | None:
    row = _named(rows, {"vocabulary": "mean"})
    shares = [value for key, value in row.items() if key.startswith("fit")] if row else []
    return " / ".join(f"{share:.2f}" for share in shares) or None


_KRONECKER = f"{training_claims.KRONECKER}-"  # how a run's name begins; without the hyphen kronecker_unit would match
_ARMS = (training_claims.TABLE, _KRONECKER)


def _by_arm(form: str, **wanted: result.Cell) -> Callable[[Sequence[Row]], str | None]:
    return _told(form, *({"arm": arm, **wanted} for arm in _ARMS))


def _layered(space: str) -> Callable[[Sequence[Row]], str | None]:
    return _told("{root:,.3f}", *({"run": arm, "space": space, "family": "all"} for arm in _ARMS))


_GAPS = [training_claims.GAP.format(f"{table} table") for table in ("tied", "untied")]
_STABLE, _KL, _COSINE, _ = robustness.LABELS.values()
HEADLINES = (
    Headline(
        *("tied table minus kronecker, validation loss, nats/token", "6.6", "0.083 ± 0.007", "training"),
        *(_training(_GAPS[0], 3), _trained(_GAPS[0])),
    ),
    Headline(
        "untied table minus kronecker, validation loss, nats/token", "", NO_SUCH_RUN, "training", _training(_GAPS[1], 3)
    ),
    Headline(
        *("times fewer steps to the tied table's final loss", "6.6", "1.43", "training"),
        *(_training(training_claims.SOONER, 2), _trained(training_claims.SOONER, zero=1, geometric=True)),
    ),
    Headline(
        *("evaluations at which kronecker is ahead", "6.6", "18 of 18", "training"),
        *(_training(training_claims.CELLS, 0), _ahead),
    ),
    Headline(
        *("std of the table, end over start", "6.6", "about 1.3", "training"),
        *(_training(training_claims.DRIFT_TABLE, 2), _trained(training_claims.DRIFT_TABLE, zero=1)),
    ),
    Headline(
        *("std of the projection, end over start", "6.6", "about 1.0", "training"),
        _training(training_claims.DRIFT_PROJECTION, 2),
    ),
    Headline("tokens that fit whole at P = 16 / 32 / 64, %", "Table 3", "98.64 / 99.86 / 99.97", "coverage", _fit),
    Headline("loose morph@5 of codes", "6.1", "0.923", "loose", _codes_mean),
    Headline(
        *("loose morph@5 of a random table", "6.1", "1.00", "loose"),
        _told("{mean:,.2f}", {"embedding": "random"}),
        exact=True,
    ),
    Headline("unseen words that contain a near token, or are part of one", "6.5", "78 of 120", "unseen", _unseen),
    Headline(
        *("neighbours with the root, E_raw, table / kronecker", "6.8", "0.302 / 0.244", "layered"), _layered("E_raw")
    ),
    Headline("neighbours with the root, L1, table / kronecker", "6.8", "0.169 / 0.258", "layered", _layered("L1")),
    Headline(
        *("input parameters saved, GPT-2 small, P = 16, %", "6.9", "91.85", "parameters"),
        *(_told("{input saved, %}", {"model": "GPT-2 small", "P": 16}), None, True, True),
    ),
    Headline(
        *("input parameters saved, V = 131,072, d = 4,096, P = 32, %", "6.9", "93.75", "parameters"),
        *(_told("{input saved, %}", {"model": "the paper's frontier size", "P": 32}), None, True, True),
    ),
    Headline(
        *("cosine of hidden states, prompt and typo, table / kronecker", "6.11", "0.857 / 0.879", "robustness"),
        *(_by_arm(f"{{{_COSINE}:,.3f}}"), _over_prompts(_COSINE)),
    ),
    Headline(
        *("top-1 unchanged by a typo, share, table / kronecker", "6.11", "0.473 / 0.555", "robustness"),
        *(_by_arm(f"{{{_STABLE}:,.3f}}"), _over_prompts(_STABLE), False),
    ),
    Headline(  # in the paper's own outputs the interval of the mean difference includes zero
        *("KL(clean || typo), nats, table / kronecker", "6.11", "0.859 / 0.794", "robustness"),
        *(_by_arm(f"{{{_KL}:,.3f}}"), _over_prompts(_KL), False),
    ),
    Headline(
        *("repetitive texts after misspelled prompts, table / kronecker", "6.12", "2 of 20 / 5 of 20", "generation"),
        _by_arm("{flagged} of {prompts}", condition="misspelled"),
    ),
    Headline(
        *("memory kept to compute codes on the fly, V = 131,072, P = 32, MB", "4", "4.46", "runtime"),
        *(_told("{buffers, MB:,.2f}", {"input": "onthefly"}), None, True, True),
    ),
    Headline(
        *("extra step time of codes on the fly over cached codes, %, and quartiles", "4", "0.01 to 0.24", "runtime"),
        _told("{over cached, %:z.1f} ({its low:z.1f} to {its high:z.1f})", {"input": "onthefly"}),
    ),
)
