"""Named arms: what a run of a pair replaces the input embedding with.  An arm is a dict of overrides, nothing else.

`table_untied` is every paired difference's baseline.  Each arm names each key that sets it apart, so that a sweep
whose base config was changed still runs the arm it says it runs.  V is the vocabulary, D = 256 P, d the model's width.

The self-entropy regulariser that the paper's author mentions as an extra is no arm: its formula is not published.
"""

ARMS = {
    # E (V, d) ~ N(0, .02^2) and a separate head: the baseline that the paper does not have.
    "table_untied": {"kind": "table", "init_std": 0.02},
    # The head is E transposed: the paper's baseline.
    "table_tied": {"kind": "table", "init_std": 0.02, "tie_head": True},
    # `table_untied` that starts at the scale of `kronecker`: the mirror of `kronecker_unit`.
    "table_std1": {"kind": "table", "init_std": 1.0},
    # U (V, r) Q (r, d) with the projection's number of parameters: what mere low rank costs or gives.
    "factorized": {"kind": "factorized", "init_std": 0.02},
    # The paper's encoder: z-normalised code, projection ~ N(0, 1/D), output std about 1.
    "kronecker": {"kind": "kronecker", "norm": "z"},
    # (1/sqrt(L)) * sum of rows, no z-norm, W ~ N(0, .02^2): the same code at a table's scale, output std .02.
    "kronecker_unit": {"kind": "kronecker", "norm": "length", "init_std": 0.02},
    # `kronecker` whose induced table K W is also the head, times one learned scale.
    "kronecker_tied": {"kind": "kronecker", "norm": "z", "tie_head": True},
    # `kronecker` whose positions count from both ends: suffixes, and tokens that differ after byte P.
    "head_tail": {"kind": "head_tail", "norm": "z", "truncation": "head_tail"},
    # `kronecker` with pseudo-random bytes for each id: the same low-rank sharing without spelling.
    "random_code": {"kind": "random_code", "norm": "z"},
    # `kronecker_unit` with hashed byte 1- to 3-grams for cells: spelling without the grid of positions.
    "hash_ngram": {"kind": "hash_ngram", "norm": "length", "init_std": 0.02},
}


def _overrides(name: str, tie_head: bool = False, **embedding: object) -> dict[str, object]:
    full = {"arm": name, "norm": "z", "truncation": "head", "init_std": 0.0} | embedding
    return {f"embedding.{key}": value for key, value in full.items()} | {"model.tie_head": tie_head}


ARMS = {name: _overrides(name, **keys) for name, keys in ARMS.items()}


def kronecker_at(std: float) -> dict[str, object]:
    """Returns `kronecker`, at P = 16, whose embeddings start at the standard deviation `std`: W at std / sqrt(D)."""
    return ARMS["kronecker"] | {"embedding.pos_dim": 16, "embedding.init_std": std / (256 * 16) ** 0.5}
