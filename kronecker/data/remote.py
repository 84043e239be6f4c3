"""Prepared datasets in an object store: published there whole, read from a copy on this machine's disk.

array_record reads files of a disk alone, and training reads rows from all over a dataset, so the first start on a
machine copies all of it; later starts find the copy by the dataset's fingerprint.  KRONECKER_CACHE says where copies
live: a matter of the machine, not of a run.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from etils import epath

from kronecker.data import manifests
from kronecker.runtime import locks, storage

CACHE_VARIABLE, CACHE = "KRONECKER_CACHE", "~/.cache/kronecker"
THREADS = 8
BLOCK = 1 << 22  # bytes

Show = Callable[[float, str], None]  # takes a share of the work, 0 to 1, and a few words


class _Copy(NamedTuple):
    source: epath.Path
    target: epath.Path
    sha256: str | None = None


def cache() -> pathlib.Path:
    return pathlib.Path(os.environ.get(CACHE_VARIABLE) or CACHE).expanduser()


def fetch(folder: epath.Path, show: Show) -> pathlib.Path:
    """Returns this machine's copy of a dataset, copying what is missing; each shard's sha256 is compared on the way.

    Processes of one machine wait for each other; one that was killed is gone on from behind its last whole file.

    Raises FileNotFoundError if there is no manifest or a shard is missing; ValueError if the manifest cannot be read or
    was edited, or what arrives of a shard has another sha256.
    """
    manifest = manifests.read_manifest(folder)
    local = _place(folder.name, manifest)
    if (local / manifests.MANIFEST).exists():
        return local
    with locks.locked(cache() / f".{local.name}.lock"):
        if not (local / manifests.MANIFEST).exists():
            local.mkdir(exist_ok=True)
            shards = {shard["file"]: shard["sha256"] for shard in manifests.shards_of(manifest)}
            files = {file.name: None for file in folder.iterdir()} | shards
            files.pop(manifests.MANIFEST)
            own = epath.Path(local)
            _copy_all([_Copy(folder / name, own / name, sha256) for name, sha256 in files.items()], show)
            _copy(_Copy(folder / manifests.MANIFEST, own / manifests.MANIFEST))  # last: it says that all is there
    return local


def publish(prepared: pathlib.Path, folder: epath.Path, show: Show) -> None:
    """Copies a finished dataset to `folder`, its manifest last, and makes what is here this machine's copy of it.

    Hosts that publish one dataset at once write the same bytes, so none has to wait for another.
    """
    own = epath.Path(prepared)
    folder.mkdir(parents=True, exist_ok=True)
    _copy_all(
        [_Copy(own / file.name, folder / file.name) for file in own.iterdir() if file.name != manifests.MANIFEST], show
    )
    _copy(_Copy(own / manifests.MANIFEST, folder / manifests.MANIFEST))
    local = _place(folder.name, manifests.read_manifest(own))
    with locks.locked(cache() / f".{local.name}.lock"):
        if not local.exists():
            prepared.rename(local)


def _place(name: str, manifest: dict[str, Any]) -> pathlib.Path:
    return cache() / f"{name}-{manifest['fingerprint'][:16]}"


def _copy_all(files: Sequence[_Copy], show: Show) -> None:
    with futures.ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(_copy, files), 1):
            show(done / len(files), f"{done} of {len(files)} files")


def _copy(copy: _Copy) -> None:
    source, target, sha256 = copy
    if not storage.is_remote(target) and target.exists():  # it got its name when it was whole
        return
    digest = hashlib.sha256()
    # An object is whole when it appears; a file of a disk gets its name when it is.
    whole = contextlib.nullcontext(target) if storage.is_remote(target) else storage.renamed(target)
    with whole as written, source.open("rb") as reading, written.open("wb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            writing.write(block)
        if sha256 and digest.hexdigest() != sha256:
            raise ValueError(
                f"{source} is damaged: its sha256 is {digest.hexdigest()[:12]}, the manifest's {sha256[:12]}; "
                f"delete {source.parent} and prepare the data again"
            )
