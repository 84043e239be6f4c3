"""Named arms: what a run of a pair replaces the input embedding with.  An arm is a dict of overrides, nothing else.

`table_untied` is every paired difference's baseline.  Each arm names each key that sets it apart, so that a sweep
whose base config was changed still runs the arm it says it runs.
"""

ARMS = {
    # E (V, d) ~ N(0, .02^2) and a separate head: the baseline that the paper does not have.
    "table_untied": {"embedding.kind": "table", "embedding.init_std": 0.02, "model.tie_head": False},
    # The head is E transposed: the paper's baseline.
    "table_tied": {"embedding.kind": "table", "embedding.init_std": 0.02, "model.tie_head": True},
    # The paper's encoder: z-normalised code, projection ~ N(0, 1/D), output std about 1.
    "kronecker": {
        "embedding.kind": "kronecker",
        "embedding.norm": "z",
        "embedding.init_std": 0.0,
        "model.tie_head": False,
    },
    # (1/sqrt(L)) * sum of rows, no z-norm, W ~ N(0, .02^2): the same code at a table's scale, output std .02.
    "kronecker_unit": {
        "embedding.kind": "kronecker",
        "embedding.norm": "length",
        "embedding.init_std": 0.02,
        "model.tie_head": False,
    },
}
ARMS = {name: {"embedding.arm": name} | overrides for name, overrides in ARMS.items()}
