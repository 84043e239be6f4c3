"""The layer for Flax NNX; its home is `kronecker.embedding.nnx`."""

from kronecker.embedding.nnx import CodeArray as CodeArray
from kronecker.embedding.nnx import KroneckerEmbed as KroneckerEmbed
