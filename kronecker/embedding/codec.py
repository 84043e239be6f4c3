"""The codec: token bytes -> ByteTable, and the dense Kronecker code, the reference for tests.

A token is its byte string b_1..b_L, truncated to L <= P bytes (`pos_dim`).  Its code has D = 256 P coordinates; byte
value v at position p, counted from 0, sets cell v*P + p.  The codec runs once, on the host, in numpy, outside JAX.

Shapes: V vocabulary (padded), P byte positions, D code dimension, N any number of tokens.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import numpy as np

from kronecker.schema.arms import CHAR_DIM
from kronecker.schema.choices import TRUNCATIONS

Z_NORM_EPS = 1e-6  # added to the standard deviation, outside the root

NO_BYTES = "the tokenizer gives none"
EMPTY = "empty in the tokenizer"
PADDING = "vocabulary padding"


@dataclasses.dataclass(frozen=True, eq=False)
class ByteTable:
    """The bytes of every id of a padded vocabulary.

    Attributes:
      bytes: uint8 (V, P); zero beyond a token's length, so only `lengths` distinguishes byte 0 from padding.
      lengths: int32 (V,), 0..P; 0 for an id without bytes, whose embedding is the zero vector.
      without_bytes: reason -> ids of length 0.
      truncated: ids whose byte string is longer than P.
      truncation: which of their bytes are kept, one of TRUNCATIONS.
      special: ids that no text encodes to; a shuffle of codes leaves them where they are.
      fingerprint: sha256 of bytes and lengths; stored in checkpoints and compared on restore.
    """

    bytes: np.ndarray
    lengths: np.ndarray
    without_bytes: Mapping[str, tuple[int, ...]]
    truncated: tuple[int, ...]
    truncation: str
    fingerprint: str
    special: frozenset[int] = frozenset()

    @property
    def pos_dim(self) -> int:
        return self.bytes.shape[1]

    @property
    def code_dim(self) -> int:
        return CHAR_DIM * self.pos_dim


def byte_table(
    token_bytes: Sequence[bytes | None],
    pos_dim: int,
    padded_vocab: int = 0,
    truncation: str = "head",
    special: Collection[int] = (),
) -> ByteTable:
    """Returns the ByteTable of a tokenizer.

    Args:
      token_bytes: bytes of each id; None for an id without bytes.
      pos_dim: P, the number of byte positions.
      padded_vocab: V of the model; 0: the number of tokens.
      truncation: which bytes of a longer token are kept, one of TRUNCATIONS; see `truncate`.
      special: ids that no text encodes to; only a shuffle of codes needs them.

    Raises:
      TypeError: if `token_bytes` is no list of bytes and None.
      ValueError: if P is not 1 to 32,767, there is no id, the truncation is unknown, or the tokenizer has more ids than
        the model.
    """
    check_strings(token_bytes, "token_bytes")
    padded_vocab = padded_vocab or len(token_bytes)
    if not 1 <= pos_dim < 1 << 15:  # a bag's lengths are int16
        raise ValueError(f"embedding.pos_dim is {pos_dim}; it must be at {'least 1' if pos_dim < 1 else 'most 32767'}")
    if not padded_vocab:
        raise ValueError("token_bytes is empty; give the bytes of at least one id")
    if len(token_bytes) > padded_vocab:
        raise ValueError(
            f"the tokenizer has {len(token_bytes):,} ids but the model's vocabulary has {padded_vocab:,}; "
            "raise model.vocab_size, or use the tokenizer of the model"
        )
    kept = [truncate(token or b"", pos_dim, truncation) for token in token_bytes]
    lengths = np.zeros(padded_vocab, np.int32)
    lengths[: len(kept)] = [len(token) for token in kept]
    table = np.zeros((padded_vocab, pos_dim), np.uint8)
    used = np.arange(pos_dim) < lengths[:, None]
    table[used] = np.frombuffer(b"".join(kept), np.uint8)
    missing = {
        NO_BYTES: tuple(i for i, token in enumerate(token_bytes) if token is None),
        EMPTY: tuple(i for i, token in enumerate(token_bytes) if token == b""),
        PADDING: tuple(range(len(token_bytes), padded_vocab)),
    }
    return ByteTable(
        bytes=table,
        lengths=lengths,
        without_bytes={reason: ids for reason, ids in missing.items() if ids},
        truncated=tuple(i for i, token in enumerate(token_bytes) if token and len(token) > pos_dim),
        truncation=truncation,
        fingerprint=hashlib.sha256(table.tobytes() + lengths.tobytes()).hexdigest(),
        special=frozenset(special),
    )


def check_strings(strings: Any, name: str) -> None:
    """Raises TypeError unless `strings`, which the caller knows by `name`, is a list or the like of bytes and None."""
    remedy = "give a list with the bytes of each id, or None for an id without bytes"
    if (
        isinstance(strings, str | bytes | bytearray | Mapping | Set)
        or not isinstance(strings, Collection)
        or getattr(strings, "shape", None) == ()
    ):
        raise TypeError(f"{name} is a {type(strings).__name__}, not a list of bytes; {remedy}")
    for i, one in enumerate(strings):
        if one is not None and not isinstance(one, bytes | bytearray):
            raise TypeError(f"{name} contains the {type(one).__name__} {one!r:.60} at {i}; {remedy}")


def truncate(token: bytes, pos_dim: int, truncation: str = "head") -> bytes:
    """Returns at most P (`pos_dim`) bytes of `token`; a token of P bytes or fewer is never changed.

    "head" keeps complete UTF-8 characters, as the paper does: it keeps P bytes, or up to 3 fewer.  If none of these
    is valid UTF-8, it keeps the first P bytes; the author's package keeps none.  "head_raw" keeps the first P bytes.
    "head_tail" keeps the first P - P//2 and the last P//2, so that long tokens differ if their ends do.
    """
    if truncation not in TRUNCATIONS:
        raise ValueError(f"embedding.truncation is {truncation!r}; allowed: {', '.join(TRUNCATIONS)}")
    if len(token) <= pos_dim:
        return token
    if truncation == "head_tail":
        tail = pos_dim // 2
        return token[: pos_dim - tail] + token[len(token) - tail :]
    backs_off = min(4, pos_dim) if truncation == "head" else 0
    for cut in range(pos_dim, pos_dim - backs_off, -1):
        try:
            token[:cut].decode()
        except UnicodeDecodeError:
            continue
        return token[:cut]
    return token[:pos_dim]


def collisions(table: ByteTable) -> list[tuple[int, ...]]:
    """Returns the groups of two or more ids that share one code; ids without bytes do not count."""
    groups: dict[bytes, list[int]] = {}
    for token_id in np.flatnonzero(table.lengths):
        groups.setdefault(table.bytes[token_id, : table.lengths[token_id]].tobytes(), []).append(int(token_id))
    return [tuple(ids) for ids in groups.values() if len(ids) > 1]


def summary(table: ByteTable) -> str:
    """Returns one line of counts: truncated ids, ids that share a code, ids without bytes."""
    groups = collisions(table)
    missing = ", ".join(f"{len(ids):,} without bytes ({reason})" for reason, ids in table.without_bytes.items())
    return (
        f"codes of {len(table.lengths):,} ids at P = {table.pos_dim}: {len(table.truncated):,} truncated, "
        f"{sum(map(len, groups)):,} share a code with another ({len(groups):,} groups), {missing or 'all have bytes'}"
    )


def dense_code(table: ByteTable, ids: np.ndarray, norm: str) -> np.ndarray:
    """Returns the codes (N, D) of `ids` (N,) in float64, coordinate by coordinate: the definition, for tests.

    `norm` is "length" for the unit-norm code kappa(b), "z" for the paper's z-norm of it.
    """
    code = np.zeros((len(ids), table.code_dim))
    for row, token_id in enumerate(ids):
        length = table.lengths[token_id]
        for position in range(length):
            code[row, int(table.bytes[token_id, position]) * table.pos_dim + position] = length**-0.5
    if norm == "z":
        mean = code.mean(axis=1, keepdims=True)
        std = code.std(axis=1, ddof=1, keepdims=True)
        code = np.where(table.lengths[ids][:, None] > 0, (code - mean) / (std + Z_NORM_EPS), 0.0)
    return code
