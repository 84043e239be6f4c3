"""The arms as overrides of a config; kronecker/schema/arms.py declares each and explains it in one line."""

from typing import Any

from kronecker.schema import arms

ARMS = {name: arm.overrides for name, arm in arms.ARMS.items()}  # dotted key -> value

# The arms of the main study: the effects of spelling, scale, tying, low rank and hashing.
STUDY = (
    *("table_untied", "table_tied", "table_std1", "factorized"),
    *("kronecker", "kronecker_unit", "kronecker_tied", "head_tail", "random_code", "hash_ngram"),
)


def kronecker_at(std: float) -> dict[str, Any]:
    """Returns `kronecker` at P = 16 with embeddings of initial standard deviation `std`: std / sqrt(D) for W."""
    return ARMS["kronecker"] | {"embedding.pos_dim": 16, "embedding.init_std": std / arms.byte_grid(16) ** 0.5}
