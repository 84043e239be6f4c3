"""How a vocabulary fits into a code, by script: which tokens fit, which are cut, which share one code.

Counts are over ordinary tokens, those that have bytes and are not special; special tokens have a row of their own.  A
token's script is Unicode's, of its first letter that has one.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from kronecker import tokenization
from kronecker.embedding import codec
from kronecker.runtime import printing
from kronecker.runtime.printing import Table
from kronecker.tokenization import writing_systems

# Mean share of six vocabularies that fits, by P (the paper's Table 3).
PAPER_COVERAGE = {16: 0.9864, 32: 0.9986, 64: 0.9997}

SPECIAL = "special tokens"
LONGEST_EXAMPLE = 36  # characters of a token that are printed
SHOWN_OF_GROUP = 4


@dataclasses.dataclass(frozen=True)
class Count:
    """Counts over some tokens: how many, their bytes in all, the longest in bytes; how many are cut, and collide."""

    tokens: int
    bytes: int
    longest: int
    truncated: int
    colliding: int

    @property
    def coverage(self) -> float:
        """The share of tokens that fit; NaN of no token."""
        return 1 - self.truncated / self.tokens if self.tokens else float("nan")


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How one tokenizer's vocabulary fits into a code at one P."""

    tokenizer: str
    spec: str  # the specification that it was loaded from
    pos_dim: int  # P
    truncation: str  # the policy, one of choices.TRUNCATIONS
    byte_source: str  # one of choices.BYTE_SOURCES
    ids: int  # V, the largest id + 1
    without_bytes: Mapping[str, int]  # reason -> ids without bytes
    not_utf8: int  # ordinary tokens whose raw bytes are not UTF-8
    ordinary: Count  # counts over the ordinary tokens
    by_script: Mapping[str, Count]  # script -> counts, most tokens first; SPECIAL is the last, where there are any
    groups: int  # sets of two or more tokens that share one code
    # such sets, (id, raw bytes) a token, frequent tokens of many scripts first
    examples: tuple[tuple[tuple[int, bytes], ...], ...]


def cover(
    tokenizer: tokenization.Tokenizer,
    pos_dim: int,
    truncation: str = "head",
    byte_source: str = "raw",
    examples: int = 5,
) -> Coverage:
    """Returns how the vocabulary of `tokenizer` fits into a code, with up to `examples` groups of colliding tokens.

    `truncation` is of choices.TRUNCATIONS, `byte_source` of choices.BYTE_SOURCES.  Raises ValueError if P is not
    positive or a name is not allowed.
    """
    token_bytes = tokenizer.bytes_from(byte_source)
    codes = codec.byte_table(token_bytes, pos_dim, truncation=truncation)
    groups = codec.collisions(codes)
    names = np.array([_row_of(tokenizer, i) if codes.lengths[i] else "" for i in range(tokenizer.vocab_size)])
    sizes = np.array([len(token or b"") for token in token_bytes])
    truncated, colliding = np.zeros((2, tokenizer.vocab_size), bool)
    truncated[list(codes.truncated)] = True
    colliding[[i for group in groups for i in group]] = True

    def count(chosen: np.ndarray) -> Count:
        counts = (chosen.sum(), sizes[chosen].sum(), sizes[chosen].max(initial=0))
        return Count(*map(int, (*counts, truncated[chosen].sum(), colliding[chosen].sum())))

    rows = {name: count(names == name) for name in sorted(set(names.tolist()) - {""})}
    in_order = sorted(rows, key=lambda name: (name == SPECIAL, -rows[name].tokens))
    return Coverage(
        *(tokenizer.name, tokenizer.spec, pos_dim, truncation, byte_source, tokenizer.vocab_size),
        without_bytes={reason: len(ids) for reason, ids in codes.without_bytes.items()},
        not_utf8=rows[writing_systems.NOT_UTF8].tokens if writing_systems.NOT_UTF8 in rows else 0,
        ordinary=count((names != "") & (names != SPECIAL)),
        by_script={name: rows[name] for name in in_order},
        groups=len(groups),
        examples=tuple(
            tuple((i, tokenizer.token_bytes[i] or b"") for i in group)
            for group in _scripts_in_turn(groups, names, rows)[:examples]
        ),
    )


def mean_coverage(coverages: Sequence[Coverage]) -> dict[int, float]:
    """Returns P -> the mean over tokenizers of the share of ordinary tokens that fit."""
    shares: dict[int, list[float]] = collections.defaultdict(list)
    for found in coverages:
        shares[found.pos_dim].append(found.ordinary.coverage)
    return {pos_dim: sum(values) / len(values) for pos_dim, values in shares.items()}


def to_json(coverages: Sequence[Coverage]) -> dict[str, Any]:
    """Returns the coverages for json.dumps, with shares; bytes that are not UTF-8 as \\xNN."""
    return {
        "reports": [dataclasses.asdict(found) | _to_json(found) for found in coverages],
        "mean_coverage": mean_coverage(coverages),
    }


def show(coverages: Sequence[Coverage], file: TextIO | None = None) -> None:
    """Prints one table of all, then one by script for each tokenizer, with its examples."""
    of_tokenizer: dict[str, list[Coverage]] = collections.defaultdict(list)
    for found in coverages:
        of_tokenizer[found.spec].append(found)
    policies = dict.fromkeys(f"byte source {found.byte_source}, truncation {found.truncation}" for found in coverages)
    printing.show(*policies, _overview(coverages), *_without_bytes(coverages), *_means(coverages), file=file)
    for of_one in of_tokenizer.values():
        printing.show("", f"{of_one[0].tokenizer} by script", _by_script(of_one), file=file)
        for found in of_one:
            if found.examples:
                groups = (f"  {_group_text(group)}" for group in found.examples)
                printing.show(f"tokens that share a code at P = {found.pos_dim}, for example:", *groups, file=file)


def _row_of(tokenizer: tokenization.Tokenizer, token_id: int) -> str:
    is_special = token_id in tokenizer.special_ids
    return SPECIAL if is_special else writing_systems.script(tokenizer.token_bytes[token_id] or b"")


def _scripts_in_turn(
    groups: Sequence[tuple[int, ...]], names: np.ndarray, rows: Mapping[str, Count]
) -> list[tuple[int, ...]]:
    """Sorts groups: the first of each script, most colliding scripts first, then the second of each, and so on."""
    seen: collections.Counter[str] = collections.Counter()
    keys = {}
    for group in groups:  # by their lowest ids: byte pair encoding learns frequent tokens first
        name = str(names[group[0]])
        keys[group] = (seen[name], -rows[name].colliding)
        seen[name] += 1
    return sorted(groups, key=keys.__getitem__)


def _to_json(found: Coverage) -> dict[str, Any]:
    texts = [[(i, raw.decode(errors="backslashreplace")) for i, raw in group] for group in found.examples]
    return {
        "ordinary": _count_to_json(found.ordinary),
        "by_script": {name: _count_to_json(count) for name, count in found.by_script.items()},
        "examples": [[{"id": i, "text": text} for i, text in group] for group in texts],
    }


def _count_to_json(count: Count) -> dict[str, Any]:
    return dataclasses.asdict(count) | {"coverage": count.coverage if count.tokens else None}


def _overview(coverages: Sequence[Coverage]) -> Table:
    ids = ("tokenizer", "ids", "special", "without\nbytes", "not\nUTF-8", "longest\nbytes")
    headers = (*ids, "P", "fit", "cut", "share\na code", "groups")
    rows = []
    for found in coverages:
        special, ordinary = found.by_script.get(SPECIAL), found.ordinary
        without = sum(found.without_bytes.values())
        ids = (found.ids, special.tokens if special else 0, without, found.not_utf8, ordinary.longest)
        code = (ordinary.truncated, ordinary.colliding, found.groups)
        numbers = (*(f"{n:,}" for n in ids), str(found.pos_dim), _percent(ordinary), *(f"{n:,}" for n in code))
        rows.append((found.tokenizer, *numbers))
    return Table(headers, rows, ("tokenizer",))


def _without_bytes(coverages: Sequence[Coverage]) -> list[str]:
    told = [
        f"{found.tokenizer}: ids without bytes: {count:,} ({reason})"
        for found in coverages
        for reason, count in found.without_bytes.items()
    ]
    return list(dict.fromkeys(told))


def _means(coverages: Sequence[Coverage]) -> list[str]:
    if len({found.spec for found in coverages}) < 2:
        return []
    means = []
    for pos_dim, share in mean_coverage(coverages).items():
        paper = f" (the paper's six: {_share(PAPER_COVERAGE[pos_dim])})" if pos_dim in PAPER_COVERAGE else ""
        means.append(f"{_share(share)} at P = {pos_dim}{paper}")
    return ["fit, mean of the tokenizers: " + ", ".join(means)]


def _by_script(coverages: Sequence[Coverage]) -> Table:
    per_pos_dim = [f"P={found.pos_dim}\n{what}" for found in coverages for what in ("fit", "cut", "share a code")]
    scripts = [(name, *_cells([found.by_script[name] for found in coverages])) for name in coverages[0].by_script]
    total = ("all ordinary tokens", *_cells([found.ordinary for found in coverages]))
    headers = ("script", "tokens", "mean\nbytes", "longest\nbytes", *per_pos_dim)
    return Table(headers, [*scripts, (), total], ("script",))


def _cells(counts: Sequence[Count]) -> list[str]:
    first = counts[0]
    mean = f"{first.bytes / first.tokens:.1f}" if first.tokens else ""
    cells = [f"{first.tokens:,}", mean, f"{first.longest:,}"]
    for count in counts:
        cells += [_percent(count), f"{count.truncated:,}", f"{count.colliding:,}"]
    return cells


def _percent(count: Count) -> str:
    """Never rounds to 100 % where a token is cut."""
    if not count.tokens:
        return ""
    return _share(min(count.coverage, 0.9999)) if count.truncated else "100 %"


def _share(share: float) -> str:
    return f"{100 * share:.2f} %"


def _group_text(group: Sequence[tuple[int, bytes]]) -> str:
    shown = "   ".join(f"{i} {_token_text(raw)}" for i, raw in group[:SHOWN_OF_GROUP])
    return shown + (f"   and {len(group) - SHOWN_OF_GROUP:,} more" if len(group) > SHOWN_OF_GROUP else "")


def _token_text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        shown = repr(raw)
    else:
        shown = f"{text[0]!r} x {len(text)}" if len(set(text)) == 1 and len(text) >= 8 else repr(text)
    half = LONGEST_EXAMPLE // 2
    return shown if len(shown) <= LONGEST_EXAMPLE else f"{shown[:half]}...{shown[-half:]}"
