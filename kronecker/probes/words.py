"""Words and tokens as the probes compare them: canonical forms and the families of probe words.

All families are the paper's; assets/families.json says where it has them.
"""

import json
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np

_LISTS = json.loads((pathlib.Path(__file__).parents[1] / "assets" / "families.json").read_text(encoding="utf-8"))
# Section 6.1: five words each, the first is the family's name.
GEOMETRY_FAMILIES = {name: tuple(family.split()) for name, family in _LISTS["geometry"].items()}
# Section 6.8: six families of eight probe words, the root by which a neighbour counts as a relative, and the words that
# count by the strict measure.
_LAYERED = _LISTS["layered"]
LAYERED_ROOTS = {name: of["root"] for name, of in _LAYERED.items()}
LAYERED_FAMILIES = {name: tuple(of["family"].split()) for name, of in _LAYERED.items()}
LAYERED_RELATIVES = {name: (*LAYERED_FAMILIES[name], *of["other_relatives"].split()) for name, of in _LAYERED.items()}


def canonical(token: bytes) -> str:
    """Returns a token in lower case, without white space and punctuation at its ends; U+FFFD for what is not UTF-8."""
    text = token.decode(errors="replace").replace("\u2581", " ").lower()
    return text.strip("".join({c for c in text if c.isspace() or unicodedata.category(c)[0] in "PC"}))


def canonical_forms(token_bytes: Sequence[bytes | None]) -> np.ndarray:
    """Returns the canonical form of each id, (V,) strings; that of an id without bytes is empty."""
    return np.array([canonical(token or b"") for token in token_bytes], dtype=object)
