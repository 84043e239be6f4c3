r"""Counts what a corpus is made of, and writes it to results/corpora.json, which
the table `corpora` is made from.

  python scripts/describe_corpus.py --source='jsonl:texts/prose.jsonl.xz' \
      --part_field=source --split_field=split
  python scripts/describe_corpus.py --source=stdlib

A record of the same name in the file gets new counts and keeps what is written
by hand: `results`, `prepared`, and the `text`, `licence` and `get` of each
part.  `text_sha256` is over the documents' texts in order, each ended by a zero
byte, so it does not depend on how a file is compressed; `file_sha256` is that
of the file, if the corpus is a single file.  `held_out_parts` has the part of
each held-out document in order, which is the order of a run's held_out.json.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import collections
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from kronecker.runtime import cli, storage
from kronecker.schema import config_files

ROOT = Path(__file__).parents[1]
WORDS = {"text": "", "licence": "", "get": ""}  # of a part that is new, to be filled in by hand

_SOURCE = flags.DEFINE_string("source", None, "The corpus, as in data.source: see prepare_data.py.", required=True)
_PART = flags.DEFINE_string(
    "part_field", "", "The field of JSON lines that names a document's part; default: no parts."
)
_SPLIT = flags.DEFINE_string("split_field", "", "The field that names a document's split, as data.split_field.")
_OUT = flags.DEFINE_string("out", str(ROOT / "results" / "corpora.json"), "The JSON file to write.")


def main() -> None:
    """Counts, and writes the record."""
    config = config_files.load(str(ROOT / "configs" / "base.py")).data
    config.source, config.split_field = _SOURCE.value, _SPLIT.value
    file = Path(_OUT.value)
    records = _records(file)
    counted = count(config, _PART.value)
    old = next((record for record in records if record["name"] == counted["name"]), {"results": [], "prepared": []})
    for name, part in old.get("parts", {}).items():
        if name not in counted["parts"] and any(map(part.get, WORDS)):
            raise ValueError(
                f"--out={file}: words of the part {name!r} would be lost, which is not in the text; check "
                "--part_field, or delete it in the file"
            )
    for name, part in counted["parts"].items():
        part |= WORDS | {key: words for key, words in old.get("parts", {}).get(name, {}).items() if key in WORDS}
    records = [record for record in records if record["name"] != counted["name"]]
    records.append(old | counted)
    text = json.dumps(sorted(records, key=lambda one: one["name"]), indent=1, ensure_ascii=False) + "\n"
    storage.write_text(file, text)
    print(f"written: {file}")


def _records(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    content = storage.read_whole(file)
    try:
        records = storage.parsed_json(content)
    except ValueError as error:
        raise ValueError(f"--out={file}: not JSON ({error}); restore it, or give another file") from None
    if not isinstance(records, list) or not all(map(_is_record, records)):
        raise ValueError(
            f"--out={file}: not a list of corpora, each with a name and parts; restore it, or give another file"
        )
    return records


def _is_record(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        return False
    parts = one.get("parts", {})
    return isinstance(parts, dict) and all(isinstance(part, dict) for part in parts.values())


def count(config: ml_collections.ConfigDict, part_field: str) -> dict[str, Any]:
    """Returns documents and UTF-8 bytes of a corpus by split and by part, largest part first, and its hashes."""
    from kronecker.data import manifests, sources  # after the flags: --help should not wait for it

    source = sources.open_source(config)
    source.fetch(lambda done, total: None)
    digest = hashlib.sha256()
    splits, parts, held_out_parts = _Counts(), collections.defaultdict(_Counts), []
    for document, part in sources.with_parts(config, part_field):
        text = document.text.encode()
        digest.update(text + b"\0")
        split = document.split or manifests.SPLITS[sources.held_out(text, config.validation_fraction)]
        for counts in (splits, parts[part]):
            counts.add(split, len(text))
        if text and split == "validation":
            held_out_parts.append(part)
    file = Path(source.units[0].name)
    one_file = len(source.units) == 1 and file.is_file()
    with file.open("rb") if one_file else io.BytesIO() as content:
        file_sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    sources.check_unchanged(source, config)
    largest_first = sorted(parts.items(), key=lambda item: -item[1].bytes)
    return {
        "name": file.name if one_file else source.name,
        "source": f"{_SOURCE.value.partition(':')[0]}:{file.name}" if one_file else _SOURCE.value,
        "file_sha256": file_sha256 if one_file else None,
        "text_sha256": digest.hexdigest(),
        "splits": splits.to_json(),
        "held_out_parts": held_out_parts,
        "parts": {name: counts.to_json() for name, counts in largest_first},
    }


class _Counts:
    """Documents and bytes of each split."""

    def __init__(self) -> None:
        self._of_split: collections.defaultdict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    def add(self, split: str, size: int) -> None:
        self._of_split[split][0] += 1
        self._of_split[split][1] += size

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._of_split.values())

    def to_json(self) -> dict[str, dict[str, int]]:
        from kronecker.data import manifests

        return {
            split: dict(zip(("documents", "bytes"), self._of_split[split], strict=True)) for split in manifests.SPLITS
        }


if __name__ == "__main__":
    cli.run(main)
