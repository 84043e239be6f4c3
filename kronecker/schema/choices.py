"""The allowed names of some config keys, as plain values: the layer imports them without any config library."""

NORMS = ("z", "length")
TRUNCATIONS = ("head", "head_raw", "head_tail")
BYTE_SOURCES = ("raw", "decode")
AUTO = "auto"
IMPLEMENTATIONS = ("cached", "onthefly", "bag", "gather", "onehot", "induced")
GATHER_GRADIENTS = ("scatter", "onehot")
RANK_ROWS = ("all", "used")
DTYPES = ("float32", "bfloat16")
EXPORT_DTYPES = (*DTYPES, "float16")  # of the weights that scripts/export_hf.py writes
# Name -> what makes it, as "module:object", and the keys of `train` that it is called with, in this order.
OPTIMIZERS = {
    "adamw": ("optax:scale_by_adam", ("beta1", "beta2", "eps")),
}
MESH_AXES = ("data", "fsdp", "tensor")
# Kind of checkpoint.init_from=KIND:FOLDER -> what finds weights there for (folder, config, tokenizer, dataset, bag).
INIT_FROM = {"hf": "kronecker.interop.starting:find"}
