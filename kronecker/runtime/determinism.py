"""train.deterministic: equal inputs give equal bits, on a GPU too.

On a GPU three things change bits from one run to the next.  A scatter adds to one place in no fixed order, and so does
cuDNN's backward pass of attention; and XLA times several kernels for a product and takes the fastest, which may be
another one in the next process.  A CPU does none of this, which a test shows; of a TPU it is expected.
"""

import ml_collections
from jax.sharding import Mesh

from kronecker.runtime import sharding
from kronecker.schema import arms

# Of XLA: makes a sort of each scatter that adds, takes cuDNN's deterministic kernels, and turns autotuning off.
_OPTION = "xla_gpu_deterministic_ops"


def compiler_options(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, bool]:
    """Returns what the programs of a run are compiled with: XLA's options, as `jax.stages.Lowered.compile` takes them.

    Raises ValueError if train.deterministic is set for several GPUs.
    """
    if not config.train.deterministic or sharding.platform(mesh) != "gpu":
        return {}
    if mesh.size > 1:
        raise ValueError(
            f"train.deterministic works on one GPU only, and this run has {mesh.size}: NCCL does not promise the order "
            "in which GPUs add; set it to False, or limit the run to one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    return {_OPTION: True}


def gather_gradient(config: ml_collections.ConfigDict) -> str:
    """Returns embedding.gather_gradient, where "auto" is the deterministic one if train.deterministic is set."""
    asked = config.embedding.gather_gradient
    return "onehot" if config.train.deterministic and asked == "auto" else asked


def line(config: ml_collections.ConfigDict, mesh: Mesh) -> str | None:
    """Returns what train.deterministic costs the run, in one line; None where it costs nothing."""
    if not compiler_options(config, mesh):
        return None
    sort = ""
    if not arms.kind(config.embedding.kind).bag:
        width = config.embedding.rank or config.model.d_model
        values = config.train.batch // config.train.accumulate * config.train.sequence * width
        sort = f"the table's gradient sorts {values:,} values, "
    return f"deterministic, hence slower: {sort}XLA's autotuning is off, and cuDNN uses deterministic kernels"
