"""Kronecker Embeddings (arXiv 2605.29459) in JAX/Flax: a fixed byte-level code replaces the learned input table."""

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers and editors; `_HOME` holds the same names for Python.
if TYPE_CHECKING:
    from kronecker import nnx as nnx
    from kronecker.embedding.bags import Bag as Bag
    from kronecker.embedding.bags import kronecker_bag as kronecker_bag
    from kronecker.embedding.codec import ByteTable as ByteTable
    from kronecker.embedding.codec import byte_table as byte_table
    from kronecker.embedding.fixed_code import Code as Code
    from kronecker.embedding.fixed_code import kronecker_code as kronecker_code
    from kronecker.embedding.implementations import induced_table as induced_table
    from kronecker.embedding.implementations import prepare as prepare
    from kronecker.embedding.implementations import product as product
    from kronecker.embedding.linen import BagEmbed as BagEmbed
    from kronecker.embedding.linen import KroneckerEmbed as KroneckerEmbed
    from kronecker.embedding.linen import TableEmbed as TableEmbed

# Imported on first use, so that `--help` and errors in flags do not wait for JAX and Flax.
_HOME = {
    "Bag": "embedding.bags",
    "BagEmbed": "embedding.linen",
    "ByteTable": "embedding.codec",
    "Code": "embedding.fixed_code",
    "KroneckerEmbed": "embedding.linen",
    "TableEmbed": "embedding.linen",
    "byte_table": "embedding.codec",
    "induced_table": "embedding.implementations",
    "kronecker_bag": "embedding.bags",
    "kronecker_code": "embedding.fixed_code",
    "nnx": "nnx",  # a module
    "prepare": "embedding.implementations",
    "product": "embedding.implementations",
}
if not TYPE_CHECKING:
    __all__ = sorted(_HOME)

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
        home = importlib.import_module(f"{__name__}.{_HOME[name]}")
        return home if name == _HOME[name] else getattr(home, name)

    def __dir__() -> list[str]:
        return __all__
