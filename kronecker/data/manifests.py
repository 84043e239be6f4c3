"""A prepared dataset on disk: its manifest, its fingerprint, and checks that its files are complete."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from concurrent import futures
from typing import Any

from etils import epath

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset on disk."""

    folder: epath.Path  # holds manifest.json, TFDS' metadata and the array_record shards
    manifest: dict[str, Any] = dataclasses.field(repr=False)  # written by data preparation
    fingerprint: str  # sha256 over everything that decides the ids and their order
    location: epath.Path  # for other processes: `folder` as an absolute path, or the original if `folder` is a copy

    def tokens(self, split: str) -> int:
        return self.manifest["splits"][split]["tokens"]


def open_prepared(folder: epath.PathLike) -> Prepared:
    """Returns the dataset in a local folder, in a time that does not depend on its number of tokens.

    Compares the manifest with its own fingerprint, and the size of each shard with the manifest, without reading the
    shards: this finds a shard that is missing, truncated or of another size.  A changed byte in a shard is found when
    its record is read, by array_record's hash of each record; only `verify` finds a shard that was replaced by a valid
    one of the same size.  A dataset whose manifest has no sizes is verified completely.  For remote folders use
    `preparation.open_folder`.

    Raises FileNotFoundError if the manifest or a shard is missing; ValueError if the manifest is unreadable or edited,
    or a shard has another size.
    """
    folder = epath.Path(folder)
    manifest = read_manifest(folder)
    prepared = Prepared(folder, manifest, manifest["fingerprint"], folder.resolve())
    _for_each_shard(prepared, _check_size)
    return prepared


def read_manifest(folder: epath.Path) -> dict[str, Any]:
    """Returns the manifest in `folder`, which may be remote.

    Raises FileNotFoundError if it is missing; ValueError if it is unreadable, edited, or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; prepare the data with scripts/prepare_data.py")
    try:
        manifest = json.loads(path.read_text())
        version, fingerprint = manifest["version"], manifest["fingerprint"]
        intact = version != MANIFEST_VERSION or fingerprint == content_fingerprint(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest ({error!r}); delete {folder} and prepare the data again") from error
    if version != MANIFEST_VERSION:
        raise ValueError(
            f"{path} has version {version}, but this code reads {MANIFEST_VERSION}; "
            f"delete {folder} and prepare the data again"
        )
    if not intact:
        raise ValueError(f"{path} was changed after it was written; delete {folder} and prepare the data again")
    return manifest


def shards_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(split["shards"] for split in manifest["splits"].values()))


def verify(prepared: Prepared) -> int:
    """Reads every shard once, compares its sha256 with the manifest, and returns the number of bytes read.

    Raises FileNotFoundError if a shard is missing; ValueError if a sha256 differs.
    """
    return sum(_for_each_shard(prepared, _check_sha256))


def content_fingerprint(manifest: dict[str, Any]) -> str:
    """Returns the sha256 over what decides the ids and their order; it excludes paths, names and text counts."""
    content = {
        "tokenizer": manifest["tokenizer"]["fingerprint"],
        "dtype": manifest["dtype"],
        "tokens_per_record": manifest["tokens_per_record"],
        "splits": {
            name: {"tokens": split["tokens"], "shards": [shard["sha256"] for shard in split["shards"]]}
            for name, split in manifest["splits"].items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _for_each_shard(prepared: Prepared, check: Callable[[epath.Path, dict[str, Any]], int]) -> list[int]:
    shards = shards_of(prepared.manifest)
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda shard: check(prepared.folder / shard["file"], shard), shards))


def _check_size(path: epath.Path, shard: dict[str, Any]) -> int:
    if "size" not in shard:
        return _check_sha256(path, shard)
    try:
        size = path.stat().length
    except FileNotFoundError as error:
        raise FileNotFoundError(_missing(path)) from error
    if size != shard["size"]:
        raise ValueError(
            f"{path} is damaged: it has {size:,} bytes, but {shard['size']:,} in the manifest; "
            f"delete {path.parent} and prepare the data again"
        )
    return size


def _check_sha256(path: epath.Path, shard: dict[str, Any]) -> int:
    if not path.exists():
        raise FileNotFoundError(_missing(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard["sha256"]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {digest[:12]}, but {shard['sha256'][:12]} in the manifest; "
            f"delete {path.parent} and prepare the data again"
        )
    return path.stat().length


def _missing(path: epath.Path) -> str:
    return f"{path} does not exist; delete {path.parent} and prepare the data again"
