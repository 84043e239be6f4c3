"""Words and tokens as the probes compare them: canonical forms and the families of probe words.

All families are the paper's.
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

# Section 6.8, as in the results that the paper's author publishes (github.com/theschoolofai/kronecker-embeddings,
# Apache 2.0): six families of eight probe words, the root by which a neighbour counts as a relative, and the words that
# count by the strict measure.
LAYERED_ROOTS = {"run": "run", "compute": "comput", "nation": "nation", "code": "cod", "act": "act", "build": "build"}
LAYERED_FAMILIES = {
    name: tuple(words.split())
    for name, words in {
        "run": "run runs running runner ran rerun runners runaway",
        "compute": "compute computer computing computation computes computed computers computational",
        "nation": "nation nations national nationally international nationality nationals transnational",
        "code": "code codes coded coding coder encoded decoded encoding",
        "act": "act acts acted acting action actor active react",
        "build": "build builds built builder building buildings rebuild prebuilt",
    }.items()
}
LAYERED_RELATIVES = {
    name: (*LAYERED_FAMILIES[name], *words.split())
    for name, words in {
        "run": "outrun runnable runway",
        "compute": "computability recompute uncomputable",
        "nation": "internationally multinational nationalism nationalist",
        "code": "codec codecs coders decode decoder decodes decoding encode encoder encodes recode recoded",
        "act": "actions activation actively actors enact exact interact reaction reacts transact",
        "build": "builders buildup rebuilt unbuilt",
    }.items()
}


def canonical(token: bytes) -> str:
    """Returns a token in lower case, without white space and punctuation at its ends; U+FFFD for what is not UTF-8."""
    text = token.decode(errors="replace").replace("\u2581", " ").lower()
    return text.strip("".join({c for c in text if c.isspace() or unicodedata.category(c)[0] in "PC"}))


def canonical_forms(token_bytes: Sequence[bytes | None]) -> np.ndarray:
    """Returns the canonical form of each id, (V,) strings; that of an id without bytes is empty."""
    return np.array([canonical(token or b"") for token in token_bytes], dtype=object)
