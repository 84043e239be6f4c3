"""Prepared datasets in an object store: uploaded when complete, read from a copy on the local disk.

array_record only reads local files, and training reads rows from everywhere in a dataset, so the first start on a
machine copies all of it; later starts find the copy by its fingerprint.  The environment variable KRONECKER_CACHE sets
the folder of the copies; it is no config key because it depends on the machine, not on the run.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable
from concurrent import futures
from typing import Any

from etils import epath

from kronecker.data import manifests
from kronecker.runtime import locks, storage

CACHE_VARIABLE, CACHE = "KRONECKER_CACHE", "~/.cache/kronecker"
THREADS = 8
BLOCK = 1 << 22  # bytes

Show = Callable[[float, str], None]  # called with the share of work done, 0 to 1, and a short text


def cache() -> pathlib.Path:
    return storage.at_home(os.environ.get(CACHE_VARIABLE) or CACHE)


def fetch(folder: epath.Path, show: Show) -> pathlib.Path:
    """Returns the local copy of a dataset; copies missing files and compares the sha256 of each shard.

    Processes of one machine wait for each other; after a kill, copying resumes after the last complete file.

    Raises FileNotFoundError if the manifest or a shard is missing; ValueError if the manifest is unreadable or edited,
    or the sha256 of a shard differs.
    """
    manifest = manifests.read_manifest(folder)
    local = _place(folder.name, manifest)
    if (local / manifests.MANIFEST).exists():
        return local
    with locks.locked(cache() / f".{local.name}.lock"):
        if not (local / manifests.MANIFEST).exists():
            local.mkdir(exist_ok=True)
            checked = {name: sha256 for name, (_, sha256) in manifests.files_of(manifest).items()}
            _copy_all(folder, epath.Path(local), show, checked)
    return local


def publish(prepared: pathlib.Path, folder: epath.Path, show: Show) -> None:
    """Copies a finished dataset to `folder`, its manifest last; the local folder becomes the local copy.

    Hosts that upload one dataset at the same time write the same bytes, so none has to wait for another.
    """
    own = epath.Path(prepared)
    folder.mkdir(parents=True, exist_ok=True)
    _copy_all(own, folder, show, {})
    local = _place(folder.name, manifests.read_manifest(own))
    with locks.locked(cache() / f".{local.name}.lock"):
        if not local.exists():
            storage.move(prepared, local)


def _place(name: str, manifest: dict[str, Any]) -> pathlib.Path:
    return cache() / f"{name}-{manifest['fingerprint'][:16]}"


def _copy_all(source: epath.Path, target: epath.Path, show: Show, sums: dict[str, str]) -> None:
    """Copies the files of a folder, and those of `sums`, whose sha256 it compares."""
    files = {file.name: None for file in source.iterdir()} | sums
    files.pop(manifests.MANIFEST)
    with futures.ThreadPoolExecutor(THREADS) as pool:
        copied = pool.map(lambda name: _copy(source / name, target / name, files[name]), files)
        for done, _ in enumerate(copied, 1):
            show(done / len(files), f"{done} of {len(files)} files")
    _copy(source / manifests.MANIFEST, target / manifests.MANIFEST)  # last: it marks the copy as complete


def _copy(source: epath.Path, target: epath.Path, sha256: str | None = None) -> None:
    if not storage.is_remote(target) and target.exists():  # a file has its final name only when complete
        return
    digest = hashlib.sha256()
    # An object appears in a store only when complete; a local file is renamed when complete.
    whole = contextlib.nullcontext(target) if storage.is_remote(target) else storage.renamed(target, locked=True)
    with whole as written, source.open("rb") as reading, written.open("wb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            writing.write(block)
        if sha256 and digest.hexdigest() != sha256:
            raise ValueError(
                f"{source} is damaged: its sha256 is {digest.hexdigest()[:12]}, but {sha256[:12]} in the manifest; "
                f"delete {source.parent} and prepare the data again"
            )
