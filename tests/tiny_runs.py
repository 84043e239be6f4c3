"""A training of seconds: the keys that make it small, and text for it."""

import random
from pathlib import Path
from typing import Any

OPTIONS: dict[str, Any] = {
    "model.layers": 1,
    "model.heads": 2,
    "model.d_model": 16,
    "model.context": 32,
    "train.batch": 4,
    "train.sequence": 32,
    "eval.every": 4,
    "eval.sequences": 8,
    "eval.batch": 4,
    "log.every": 1,
}


def write_texts(folder: Path) -> None:
    """Writes 300 documents of 120 made-up words into `folder`."""
    words = [f"{a}{b}" for a in ("kron", "byte", "code", "table") for b in ("s", "er", "ing", "ed", "")]
    rng = random.Random(0)
    for i in range(300):
        (folder / f"{i:03}.txt").write_text(" ".join(rng.choices(words, k=120)) + ".\n")
