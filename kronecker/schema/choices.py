"""What a key with a fixed set of values may say.  Plain values: a refused flag need not wait for JAX."""

from kronecker.schema import arms

NORMS = ("z", "length")
TRUNCATIONS = ("head", "head_raw", "head_tail")
BYTE_SOURCES = ("raw", "decode")
AUTO = "auto"
IMPLEMENTATIONS = ("cached", "onthefly", "bag", "gather", "onehot", "induced")
GATHER_GRADIENTS = ("scatter", "onehot")

ALLOWED = {
    "embedding.kind": tuple(arms.KINDS),
    "embedding.norm": NORMS,
    "embedding.truncation": TRUNCATIONS,
    "embedding.byte_source": BYTE_SOURCES,
    "embedding.implementation": (AUTO, *IMPLEMENTATIONS),
    "embedding.gather_gradient": (AUTO, *GATHER_GRADIENTS),
    "model.dtype": ("float32", "bfloat16"),
    "model.param_dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn", "splash"),
    "distributed.enabled": ("auto", "on", "off"),
}
MESH_AXES = ("data", "fsdp", "tensor")
