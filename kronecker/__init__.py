"""Kronecker Embeddings (arXiv 2605.29459) in JAX/Flax: a fixed byte-level code for an input embedding."""

import importlib
from typing import Any

# Looked up when first asked for, so that `--help` and a refused flag do not wait for JAX and Flax.
_HOME = {
    "Bag": "embedding.bags",
    "BagEmbed": "embedding.linen",
    "ByteTable": "embedding.codec",
    "TableEmbed": "embedding.linen",
    "byte_table": "embedding.codec",
    "kronecker_bag": "embedding.bags",
    "induced_table": "embedding.implementations",
    "prepare": "embedding.implementations",
    "product": "embedding.implementations",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
