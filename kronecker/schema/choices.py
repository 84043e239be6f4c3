"""The names that keys of a config may say.  Plain values: the layer, which knows no config, takes them from here."""

NORMS = ("z", "length")
TRUNCATIONS = ("head", "head_raw", "head_tail")
BYTE_SOURCES = ("raw", "decode")
AUTO = "auto"
IMPLEMENTATIONS = ("cached", "onthefly", "bag", "gather", "onehot", "induced")
GATHER_GRADIENTS = ("scatter", "onehot")
DTYPES = ("float32", "bfloat16")
MESH_AXES = ("data", "fsdp", "tensor")
