"""A prepared dataset on disk: its manifest, its fingerprint, and checks that its files are complete."""

import dataclasses
import hashlib
import itertools
import json
import re
import reprlib
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from kronecker.runtime import storage

MANIFEST = "manifest.json"
MANIFEST_VERSION = 2
DATASET = "kronecker"  # its name in TFDS
SPLITS = ("train", "validation")
SEAL = "sha256"  # the field of the manifest that covers all others


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset on disk."""

    folder: epath.Path  # holds manifest.json, TFDS' metadata, the array_record shards and the sums of their records
    manifest: dict[str, Any] = dataclasses.field(repr=False)  # written by data preparation
    fingerprint: str  # sha256 over everything that decides the ids, their order and the bytes that they stand for
    location: epath.Path  # for other processes: `folder` as an absolute path, or the original if `folder` is a copy

    def tokens(self, split: str) -> int:
        return self.manifest["splits"][split]["tokens"]

    def text_share(self, split: str) -> float:
        """Returns the bytes of the text by the bytes of its ids: 1 if the tokenizer keeps text exactly."""
        found = self.manifest["splits"][split]
        return found["bytes"] / found["encoded_bytes"] if found["encoded_bytes"] else 1.0


def open_prepared(folder: epath.PathLike) -> Prepared:
    """Returns the dataset in a local folder, after reading its manifest and the sums of its records, not its shards.

    Checks every field of the manifest, and that each shard has its size: this finds a shard that is missing, truncated
    or of another size.  A changed byte, and a shard that was replaced by a valid one of the same size, are found when
    a record is read, by the sum of each record; only `verify` reads every shard.  For remote folders use
    `preparation.open_folder`.

    Raises FileNotFoundError if the manifest or another file is missing; ValueError if the manifest is unreadable or was
    changed, or a file has another size.
    """
    folder = epath.Path(folder)
    manifest = read_manifest(folder)
    prepared = Prepared(folder, manifest, manifest["fingerprint"], folder.resolve())
    _for_each_file(prepared, _check_size)
    return prepared


def read_manifest(folder: epath.Path) -> dict[str, Any]:
    """Returns the manifest in `folder`, which may be remote.

    Raises FileNotFoundError if it is missing; ValueError if it is unreadable, changed, or of another version.
    """
    path, remedy = folder / MANIFEST, f"delete {folder} and prepare the data again"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; prepare the data with scripts/prepare_data.py")
    try:
        manifest = storage.parsed_json(storage.read_whole(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a manifest ({type(error).__name__}: {error}); {remedy}") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if type(version) is not int or version != MANIFEST_VERSION:
        raise ValueError(
            f"{path}: version is {reprlib.repr(version)}, but this code reads {MANIFEST_VERSION}; {remedy}"
        )
    if found := fault(manifest, _FIELDS) or _contradiction(manifest):
        raise ValueError(f"{path}: {found}; {remedy}")
    return manifest


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest with its fingerprint and its seal."""
    manifest = manifest | {"fingerprint": content_fingerprint(manifest)}
    return manifest | {SEAL: sha256(manifest)}


def shard_file(split: str, index: int, count: int) -> str:
    return f"{DATASET}-{split}.array_record-{index:05d}-of-{count:05d}"


def sums_file(split: str) -> str:
    """Returns the name of the file with the crc32 of each record of a split, as little-endian uint32."""
    return f"{DATASET}-{split}.crc32"


def files_of(manifest: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Returns the size and the sha256 of each file that holds ids or their sums, by name."""
    found = {}
    for name, split in manifest["splits"].items():
        found |= {shard["file"]: (shard["size"], shard["sha256"]) for shard in split["shards"]}
        found[sums_file(name)] = (4 * split["records"], split["records_sha256"])
    return found


def record_sums(prepared: Prepared, split: str) -> np.ndarray:
    """Returns the crc32, uint32 (records,), of each record of a split; raises ValueError if their file was changed."""
    path = prepared.folder / sums_file(split)
    _check_sha256(path, *files_of(prepared.manifest)[path.name])
    return np.frombuffer(path.read_bytes(), "<u4")


def verify(prepared: Prepared) -> int:
    """Reads every shard once, compares its sha256 with the manifest, and returns the number of bytes read.

    Raises FileNotFoundError if a shard is missing; ValueError if a sha256 differs.
    """
    return sum(_for_each_file(prepared, _check_sha256))


def content_fingerprint(manifest: dict[str, Any]) -> str:
    """Returns the sha256 over what decides ids, their order and the bytes of their text, and not over names."""
    keys = ("dtype", "tokens_per_record", "splits")
    return sha256([manifest["tokenizer"]["fingerprint"], *(manifest[key] for key in keys)])


def sha256(content: Any) -> str:
    """Returns the hash of JSON, the same for every order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a field of a file may hold: in words, and as a function."""

    words: str
    holds: Callable[[Any], bool]


COUNT = Kind("a whole number from 0 to below 2^63", lambda value: type(value) is int and 0 <= value < 2**63)
POSITIVE = Kind("a whole number from 1 to below 2^63", lambda value: type(value) is int and 0 < value < 2**63)
TEXT = Kind("text", lambda value: isinstance(value, str))
_SHARE = Kind("a number in [0, 1)", lambda value: type(value) in (int, float) and 0 <= value < 1)
_HASH = Kind("a sha256", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
_DTYPE = Kind("uint16 or uint32", lambda value: value in ("uint16", "uint32"))
COUNTS = ("tokens", "bytes", "encoded_bytes", "changed_bytes", "documents", "records")  # of a split
_SHARD = {"file": TEXT, "records": POSITIVE, "tokens": POSITIVE, "size": POSITIVE, "sha256": _HASH}
_SPLIT = dict.fromkeys(COUNTS, COUNT) | {"records_sha256": _HASH, "shards": [_SHARD]}
_FIELDS = {
    "version": POSITIVE,
    "name": TEXT,
    "tokenizer": {"spec": TEXT, "name": TEXT, "fingerprint": TEXT, "vocab_size": POSITIVE, "eot_id": COUNT},
    "source": {"spec": TEXT, "files": COUNT, "text_field": TEXT, "split_field": TEXT, "validation_fraction": _SHARE},
    "dtype": _DTYPE,
    "tokens_per_record": POSITIVE,
    "splits": dict.fromkeys(SPLITS, _SPLIT),
    "fingerprint": _HASH,
    SEAL: _HASH,
}


def fault(value: Any, shape: Any, name: str = "") -> str | None:
    """Returns what is wrong with the first field of `value` that is not as in `shape`; None: nothing.

    A shape is a Kind, a dict with the shape of each field, or a list with the shape of every element.
    """
    if isinstance(shape, Kind):
        return None if shape.holds(value) else f"{name} is {reprlib.repr(value)}; it must be {shape.words}"
    if not isinstance(value, type(shape)):
        words = "a list" if isinstance(shape, list) else "a group of fields"
        return f"{name or 'its content'} is {reprlib.repr(value)}; it must be {words}"
    if isinstance(shape, list):
        parts = [(part, shape[0], f"{name}[{number}]") for number, part in enumerate(value)]
    else:
        inner = {key: f"{name}.{key}".lstrip(".") for key in shape}
        if missing := [inner[key] for key in shape if key not in value]:
            return f"{missing[0]} is missing"
        if unknown := sorted(value.keys() - shape.keys()):
            return f"{name or 'it'} has a field {reprlib.repr(unknown[0])}, which is none of its own"
        parts = [(value[key], shape[key], inner[key]) for key in shape]
    return next(filter(None, itertools.starmap(fault, parts)), None)


def _contradiction(manifest: dict[str, Any]) -> str | None:
    """Returns what contradicts the rest of a manifest whose fields have their types; None: nothing."""
    for name, split in manifest["splits"].items():
        shards = split["shards"]
        for key in ("tokens", "records"):
            if split[key] != sum(shard[key] for shard in shards):
                return f"splits.{name}.{key} is {reprlib.repr(split[key])}, which is not the sum over its shards"
        for index, shard in enumerate(shards):
            where = f"splits.{name}.shards[{index}]"
            if shard["file"] != shard_file(name, index, len(shards)):
                return (
                    f"{where}.file is {reprlib.repr(shard['file'])}; it must be {shard_file(name, index, len(shards))}"
                )
            if shard["records"] != -(-shard["tokens"] // manifest["tokens_per_record"]):
                return f"{where}.records is {reprlib.repr(shard['records'])}, but its tokens need another number"
    if manifest["fingerprint"] != content_fingerprint(manifest):
        return "fingerprint is not that of the content: a field was changed after it was written"
    if manifest[SEAL] != sha256({key: value for key, value in manifest.items() if key != SEAL}):
        return f"{SEAL} is not that of the other fields: one was changed after it was written"
    return None


def _for_each_file(prepared: Prepared, check: Callable[[epath.Path, int, str], int]) -> list[int]:
    files = files_of(prepared.manifest)
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: check(prepared.folder / name, *files[name]), files))


def _check_size(path: epath.Path, size: int, _: str) -> int:
    try:
        found = path.stat().length
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; delete {path.parent} and prepare the data again") from error
    if found != size:
        raise _damaged(path, f"it has {found:,} bytes, but {size:,} in the manifest")
    return size


def _check_sha256(path: epath.Path, size: int, sha256: str) -> int:
    _check_size(path, size, sha256)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise _damaged(path, f"its sha256 is {digest[:12]}, but {sha256[:12]} in the manifest")
    return size


def _damaged(path: epath.Path, fault: str) -> ValueError:
    return ValueError(f"{path} is damaged: {fault}; delete {path.parent} and prepare the data again")
