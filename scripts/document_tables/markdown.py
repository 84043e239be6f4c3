"""Tables and numbers in Markdown."""

from collections.abc import Iterable, Mapping, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table in Markdown; the first `left` columns are text, all others hold numbers."""
    rule = ["---"] * left + ["---:"] * (len(headers) - left)
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in (headers, rule, *rows))


def signed(number: float) -> str:
    return f"{number:+.4f}".replace("-", "−")


def difference(mean: float, half: float) -> str:
    """Returns a mean and half the width of its interval, e.g. +0.0094 ± 0.0347."""
    return f"{signed(mean)} ± {half:.4f}"


def interval(ends: Iterable[float]) -> str:
    return " to ".join(map(signed, ends))


def quartiles(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
