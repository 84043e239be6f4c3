"""Kronecker Embeddings (arXiv 2605.29459) in JAX/Flax: a fixed byte-level code for an input embedding."""

from kronecker.bag import Bag, kronecker_bag, product
from kronecker.codec import ByteTable, byte_table
from kronecker.embedding import BagEmbed, TableEmbed

__all__ = ["Bag", "BagEmbed", "ByteTable", "TableEmbed", "byte_table", "kronecker_bag", "product"]
