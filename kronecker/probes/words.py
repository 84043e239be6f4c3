"""Words and tokens as the probes compare them: canonical forms and the families of probe words.

The first families (section 6.1) are the paper's.  Of the layered probe the roots are the paper's and the words ours;
the paper's words and lists are in its author's repository.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

# Section 6.1: five words each, the first is the family's name.
GEOMETRY_FAMILIES = {
    "run": ("run", "runs", "running", "runner", "ran"),
    "compute": ("compute", "computer", "computing", "computation", "computes"),
    "magnet": ("magnet", "magnets", "magnetic", "magnetize", "magnetized"),
    "tion": ("nation", "station", "action", "rotation", "creation"),
}

# Section 6.8: six families of eight.  A neighbour has the root if its canonical form contains it.
LAYERED_ROOTS = {"run": "run", "compute": "comput", "nation": "nation", "code": "cod", "act": "act", "build": "build"}
LAYERED_FAMILIES = {
    "run": ("run", "runs", "running", "runner", "runners", "ran", "rerun", "outrun"),
    "compute": (
        *("compute", "computes", "computed", "computing", "computer", "computers", "computation", "computational"),
    ),
    "nation": (
        *("nation", "nations", "national", "nationally", "nationalism", "nationality", "nationwide", "international"),
    ),
    "code": ("code", "codes", "coded", "coding", "coder", "coders", "decode", "encode"),
    "act": ("act", "acts", "acted", "acting", "actor", "action", "active", "activity"),
    "build": ("build", "builds", "built", "building", "buildings", "builder", "builders", "rebuild"),
}


def canonical(token: bytes) -> str:
    """Returns a token in lower case, without white space and punctuation at its ends; U+FFFD for what is not UTF-8."""
    text = token.decode(errors="replace").replace("\u2581", " ").lower()
    return text.strip("".join({c for c in text if c.isspace() or unicodedata.category(c)[0] in "PC"}))


def canonical_forms(token_bytes: Sequence[bytes | None]) -> np.ndarray:
    """Returns the canonical form of each id, (V,) strings; that of an id without bytes is empty."""
    return np.array([canonical(token or b"") for token in token_bytes], dtype=object)
