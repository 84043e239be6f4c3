"""train.deterministic: equal inputs give equal bits, on a GPU too.

On a GPU three things can change bits between runs: a scatter adds in no fixed order, so does cuDNN's backward pass of
attention, and XLA times several kernels for a product and picks the fastest, which may differ in the next process.  On
a CPU none of this happens, as a test shows; a TPU is expected to behave like a CPU.
"""

import ml_collections
from jax.sharding import Mesh

from kronecker.runtime import sharding
from kronecker.schema import arms

# XLA's option: turns adding scatters into sorts, uses cuDNN's deterministic kernels, and disables autotuning.
_OPTION = "xla_gpu_deterministic_ops"


def compiler_options(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, bool]:
    """Returns XLA's options for a run's programs; raises ValueError if train.deterministic is set for several GPUs."""
    if not config.train.deterministic or sharding.platform(mesh) != "gpu":
        return {}
    if mesh.size > 1:
        raise ValueError(
            f"train.deterministic works on one GPU only; this run has {mesh.size}, and NCCL does not fix the order in "
            "which GPUs add; set --config.train.deterministic=False, or use one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    return {_OPTION: True}


def gather_gradient(config: ml_collections.ConfigDict) -> str:
    """Returns embedding.gather_gradient, with "auto" replaced by "onehot" if train.deterministic is set."""
    asked = config.embedding.gather_gradient
    return "onehot" if config.train.deterministic and asked == "auto" else asked


def line(config: ml_collections.ConfigDict, mesh: Mesh) -> str | None:
    """Returns a line that says how train.deterministic slows the run; None if it does not."""
    if not compiler_options(config, mesh):
        return None
    sort = ""
    if not arms.kind(config.embedding.kind).bag:
        width = config.embedding.rank or config.model.d_model
        values = config.train.batch // config.train.accumulate * config.train.sequence * width
        sort = f"each micro-batch sorts {values:,} values for the table's gradient, "
    return f"train.deterministic slows steps: {sort}XLA's autotuning is off, and cuDNN uses deterministic kernels"
