"""The arms as overrides of a config; kronecker/schema/arms.py declares each, with its one-line explanation."""

from typing import Any

from kronecker.schema import arms

ARMS = {name: arm.overrides for name, arm in arms.ARMS.items()}  # dotted key -> value

# Of the study of the paper's claim: what spelling, scale, tying, low rank and hashing each do.
STUDY = (
    *("table_untied", "table_tied", "table_std1", "factorized"),
    *("kronecker", "kronecker_unit", "kronecker_tied", "head_tail", "random_code", "hash_ngram"),
)


def kronecker_at(std: float) -> dict[str, Any]:
    """Returns `kronecker`, at P = 16, whose embeddings start at the standard deviation `std`: W at std / sqrt(D)."""
    return ARMS["kronecker"] | {"embedding.pos_dim": 16, "embedding.init_std": std / arms.byte_grid(16) ** 0.5}
