"""The allowed names of some config keys, as plain values: the layer imports them without any config library."""

NORMS = ("z", "length")
TRUNCATIONS = ("head", "head_raw", "head_tail")
BYTE_SOURCES = ("raw", "decode")
AUTO = "auto"
IMPLEMENTATIONS = ("cached", "onthefly", "bag", "gather", "onehot", "induced")
GATHER_GRADIENTS = ("scatter", "onehot")
DTYPES = ("float32", "bfloat16")
# Name -> what makes it, as "module:object", and the keys of `train` that it is called with, in this order.
OPTIMIZERS = {
    "adamw": ("optax:scale_by_adam", ("beta1", "beta2", "eps")),
}
MESH_AXES = ("data", "fsdp", "tensor")
