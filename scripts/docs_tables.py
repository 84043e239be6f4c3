"""Writes the tables of the documents from the files of results/, between the
markers that name them.

  python scripts/docs_tables.py
  python scripts/docs_tables.py --check
  python scripts/docs_tables.py docs/performance.md

A table stands between the lines `<!-- table: NAME -->` and
`<!-- end of table -->`; to add one, write the two lines and run the script.
Without arguments it reads README.md, results/README.md and docs/*.md.  --check
writes nothing, prints what would change, and exits with 1 if anything would.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from document_tables import benchmarks, committed, corpora, models, study, tuned_study

from kronecker.runtime import cli, storage

DOCUMENTS = ("README.md", "results/README.md", "docs/*.md")
MARKED = re.compile(
    r"(?P<begin>^<!-- table: (?P<name>\S+) -->\n)(?P<text>.*?)(?P<end>^<!-- end of table -->$)", re.M | re.S
)
BEGIN = re.compile(r"^<!-- table: ", re.M)

TABLES: dict[str, Callable[[], str]] = {
    name: made for subject in (study, tuned_study, benchmarks, models, corpora) for name, made in subject.TABLES.items()
}

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; exit with 1 and print a diff if a table is out of date.")


def main(files: Sequence[str]) -> int:
    """Rewrites the tables, or checks them; returns the exit code."""
    chosen = [Path(file) for file in files] or sorted(
        file for pattern in DOCUMENTS for file in committed.ROOT.glob(pattern)
    )
    changed = False
    for file in chosen:
        before = file.read_text(encoding="utf-8")
        after = rewritten(before, file)
        if after == before:
            continue
        changed = True
        if _CHECK.value:
            lines = (text.splitlines(keepends=True) for text in (before, after))
            sys.stdout.writelines(difflib.unified_diff(*lines, f"{file}", f"{file}, from the files of results/"))
        else:
            storage.write_text(file, after)
            print(f"written: {file}")
    return int(changed and _CHECK.value)


def rewritten(text: str, file: Path) -> str:
    """Returns a document with its tables rewritten from the result files.

    Raises ValueError if a table's name is unknown or its end is missing.
    """

    def made(match: re.Match[str]) -> str:
        if match["name"] not in TABLES:
            raise ValueError(f"{file}: there is no table {match['name']!r}; there are: {', '.join(TABLES)}")
        return f"{match['begin']}\n{TABLES[match['name']]()}\n\n{match['end']}"

    tables = list(MARKED.finditer(text))
    if len(tables) != len(BEGIN.findall(text)):
        raise ValueError(f"{file}: a table does not end; write `<!-- end of table -->` on a line of its own below it")
    return MARKED.sub(made, text)


if __name__ == "__main__":
    cli.run(main, positional=True)
