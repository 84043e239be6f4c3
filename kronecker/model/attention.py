"""Causal self-attention over whole sequences, with the platform's kernel.

| kernel | what it is | on |
|---|---|---|
| xla | two products with a softmax between them, T x T weights in memory | everything |
| cudnn | cuDNN's flash attention | GPU, bfloat16 and float16 |
| splash | JAX's Pallas kernel, which skips fully masked blocks of queries and keys | TPU |

At 124m's shapes, 16 x 1,024 tokens in bfloat16, the compiler for a v5e reports 353 MB of temporaries and 1.5 GB of
traffic for forward and gradient with splash, 1,208 MB and 7.1 GB with xla: hence auto's choice on TPU.  Nothing has
been run on a TPU or a GPU.

Shapes: B batch, T time, H heads, h head width.
"""

import math

import jax
from jax.sharding import Mesh, PartitionSpec

from kronecker.runtime import sharding
from kronecker.schema.choices import AUTO

PLATFORM = {"cudnn": "gpu", "splash": "tpu"}  # xla runs on all
MULTIPLE = {"xla": 1, "cudnn": 8, "splash": 128}  # T must be a multiple of this, or XLA computes it
HALF = ("bfloat16", "float16")
LARGEST_BLOCK = 512  # of queries and of keys, for splash


def resolve(asked: str, platform: str, dtype: str, head_width: int) -> str:
    """Returns the kernel for model.attention = `asked`; raises ValueError if platform, type or h do not allow it."""
    for_cudnn = dtype in HALF and head_width % 8 == 0 and head_width <= 128
    if asked == AUTO:
        if platform == "gpu":
            return "cudnn" if for_cudnn else "xla"
        return "splash" if platform == "tpu" else "xla"
    if PLATFORM.get(asked, platform) != platform:
        raise ValueError(f"model.attention is {asked!r}, which runs on {PLATFORM[asked]} only; choose auto or xla")
    if asked == "cudnn" and not for_cudnn:
        raise ValueError(
            f"model.attention is 'cudnn', which needs {' or '.join(HALF)} and a head width of 8, 16, ... 128; got "
            f"model.dtype {dtype} and head width {head_width}; change these, or choose auto or xla"
        )
    return asked


def causal(
    q_BTHh: jax.Array,
    k_BTHh: jax.Array,
    v_BTHh: jax.Array,
    kernel: str,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(h)) v, (B, T, H, h), with a causal mask.

    `kernel` is from `resolve`; XLA replaces it for shapes that it does not support, such as the init's single token.
    `mesh` splits batch and heads; None: one device.  `interpret` runs splash without a TPU, slowly.
    """
    batch, time, heads, _ = q_BTHh.shape
    if time % MULTIPLE[kernel]:
        kernel = "xla"
    if kernel == "splash":
        axes = sharding.batch_axes(mesh), sharding.head_axes(mesh)
        parts = [math.prod(mesh.shape[axis] for axis in names) for names in axes]
        if batch % parts[0] == 0 and heads % parts[1] == 0:
            return _splash(q_BTHh, k_BTHh, v_BTHh, mesh, interpret)
        kernel = "xla"
    return jax.nn.dot_product_attention(q_BTHh, k_BTHh, v_BTHh, is_causal=True, implementation=kernel)


def _splash(q_BTHh, k_BTHh, v_BTHh, mesh, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention  # slow to import

    time, h = q_BTHh.shape[1], q_BTHh.shape[-1]
    block = math.gcd(time, LARGEST_BLOCK)
    blocks = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )

    def attend(q_BTHh, k_BTHh, v_BTHh):
        seen = splash_attention.CausalMask((time, time))
        kernel = splash_attention.make_splash_mha(
            splash_attention.MultiHeadMask([seen] * q_BTHh.shape[2]),
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        q_BHTh, k_BHTh, v_BHTh = (x.swapaxes(1, 2) for x in (q_BTHh * h**-0.5, k_BTHh, v_BTHh))
        return jax.vmap(kernel)(q_BHTh, k_BHTh, v_BHTh).swapaxes(1, 2).astype(q_BTHh.dtype)

    if mesh is not None:  # the compiler cannot split a kernel
        split = PartitionSpec(sharding.batch_axes(mesh), None, sharding.head_axes(mesh))
        attend = jax.shard_map(attend, mesh=mesh, in_specs=(split, split, split), out_specs=split, check_vma=False)
    return attend(q_BTHh, k_BTHh, v_BTHh)
