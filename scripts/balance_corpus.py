r"""Writes a part of a corpus in which no source of text has more than a given share
of the bytes.

  python scripts/balance_corpus.py --source='jsonl:texts/prose.jsonl.xz' \
      --part_field=source --out=texts/balanced.jsonl.xz

Both splits are balanced, each by itself, with documents drawn by a hash of
their text: the same corpus and flags give the same bytes.  Of equal texts the
first is taken.  A source above its share loses documents; the others keep all.
The lines are {"text": ..., "part": ..., "split": "train" or "validation"}, in
the order of the corpus, so train with --config.data.split_field=split.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import collections
import hashlib
import json
import lzma
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from absl import flags

from kronecker.runtime import cli
from kronecker.schema import config_files

ROOT = Path(__file__).parents[1]

_SOURCE = flags.DEFINE_string("source", None, "The corpus, as in data.source: see prepare_data.py.", required=True)
_PART = flags.DEFINE_string(
    "part_field", None, "The field of JSON lines that names a document's source.", required=True
)
_SHARE = flags.DEFINE_float(
    "most", 0.15, "The largest share of the bytes of a split that one source may have.", 0.0, 1.0
)
_FRACTION = flags.DEFINE_float("validation_fraction", 0.02, "The share of documents for validation.", 0.0, 1.0)
_OUT = flags.DEFINE_string("out", None, "The .jsonl.xz file to write.", required=True)


class Entry(NamedTuple):
    """A document without its text; `number` is its place in the corpus, `draw` its place in the lot."""

    draw: bytes
    number: int
    size: int


def main() -> None:
    """Reads the corpus twice: to draw the documents, and to write them."""
    from kronecker.data import manifests, sources  # after the flags: --help should not wait for it
    from kronecker.runtime import storage

    if not _OUT.value.endswith(".jsonl.xz"):
        raise ValueError(f"--out={_OUT.value}: the file's name must end with .jsonl.xz")
    config = config_files.load(str(ROOT / "configs" / "base.py")).data
    config.source, out = _SOURCE.value, Path(_OUT.value)
    source = sources.open_source(config)
    sources.check_apart(source, out)
    seen: set[bytes] = set()
    entries: dict[str, dict[str, list[Entry]]] = {split: collections.defaultdict(list) for split in manifests.SPLITS}
    for number, (document, part) in enumerate(sources.with_parts(config, _PART.value)):
        text = document.text.encode()
        draw = hashlib.sha256(b"balance" + text).digest()  # not held_out's hash, which decides the split
        if draw in seen:
            continue
        seen.add(draw)
        split = manifests.SPLITS[sources.held_out(text, _FRACTION.value)]
        entries[split][part].append(Entry(draw, number, len(text)))
    for split, parts in entries.items():
        if not any(map(size, parts.values())):
            fix = "change --validation_fraction, or give more text"
            raise ValueError(f"--source={config.source}: none of its {len(seen):,} texts is drawn for {split}; {fix}")
    taken = {split: drawn(parts, _SHARE.value) for split, parts in entries.items()}
    split_of = {one.number: split for split, parts in taken.items() for part in parts.values() for one in part}

    lines = (
        json.dumps({"text": document.text, "part": part, "split": split_of[number]}, ensure_ascii=False) + "\n"
        for number, (document, part) in enumerate(sources.with_parts(config, _PART.value))
        if number in split_of
    )
    with storage.renamed(out) as file, lzma.open(file, "wt", encoding="utf-8") as opened:
        opened.writelines(lines)
        sources.check_unchanged(source, config)
    for split, parts in taken.items():
        total = sum(map(size, parts.values()))
        print(f"{split}: {sum(map(len, parts.values())):,} documents, {total:,} bytes")
        for part, chosen in sorted(parts.items(), key=lambda item: -size(item[1])):
            had = size(entries[split][part])
            print(f"  {size(chosen) / total:6.1%}  {part}: {size(chosen):,} of {had:,} bytes")
    print(f"written: {_OUT.value}")


def drawn(parts: dict[str, list[Entry]], most: float) -> dict[str, list[Entry]]:
    """Returns of each part the documents that come first in the draw; no part has more than `most` of all bytes.

    Raises ValueError if there are too few parts, or their documents are too large for it.
    """
    limit = largest([size(part) for part in parts.values()], most)
    taken = {}
    for name, part in parts.items():
        total, taken[name] = 0, []
        for one in sorted(part):
            total += one.size
            if total > limit:
                break
            taken[name].append(one)
    # The limit holds for parts that reach it exactly; documents are whole, so the sum is a little smaller.
    while True:
        name = max(taken, key=lambda name: size(taken[name]))
        if not taken[name]:
            raise ValueError(
                f"--most={most}: no whole documents of {len(parts)} sources fit this share; give more of it"
            )
        if size(taken[name]) <= most * sum(map(size, taken.values())):
            return taken
        taken[name].pop()


def largest(sizes: Collection[int], most: float) -> float:
    """Returns the bytes at which parts of these sizes are cut, so that none has more than `most` of what is left."""
    left = sum(sizes)
    for cut, one in enumerate(sorted(sizes, reverse=True)):
        if most * cut >= 1:
            break
        limit = most * left / (1 - most * cut)
        if one <= limit:
            return limit
        left -= one
    raise ValueError(f"--most={most}: {len(sizes)} sources cannot each have at most this share; give more of it")


def size(part: Collection[Entry]) -> int:
    return sum(one.size for one in part)


if __name__ == "__main__":
    cli.run(main)
