"""The allowed names of some config keys, as plain values: the layer imports them without any config library."""

NORMS = ("z", "length")
TRUNCATIONS = ("head", "head_raw", "head_tail")
BYTE_SOURCES = ("raw", "decode")
AUTO = "auto"
IMPLEMENTATIONS = ("cached", "onthefly", "bag", "gather", "onehot", "induced")
GATHER_GRADIENTS = ("scatter", "onehot")
DTYPES = ("float32", "bfloat16")
MESH_AXES = ("data", "fsdp", "tensor")
