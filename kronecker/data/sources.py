"""Where text comes from: a Source is a fixed sequence of units (files), a unit a fixed sequence of documents."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections

from kronecker.data import compressed, file_search, hub, readers
from kronecker.runtime import storage

FINEWEB_EDU = "HuggingFaceFW/fineweb-edu"
FINEWEB_SUBSETS = {"": "data"} | {f"sample-{size}": f"sample/{size}" for size in ("10BT", "100BT", "350BT")}

# What the standard library's folder holds besides the library: tests, installed packages, traces of Python's build.
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
MACHINE_MADE = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")


@dataclasses.dataclass(frozen=True)
class Unit:
    """One file: its name for messages, its size in bytes, and `read(n)`, which yields documents from number n on."""

    name: str
    size: int
    read: Callable[[int], Iterator[readers.Document]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A corpus."""

    name: str  # readable, for folder names
    identity: Any  # JSON that differs if the text may have changed
    units: tuple[Unit, ...]  # in reading order
    left_out: int = 0  # further names, by links, of its files and folders
    # downloads missing units; called with a progress function of (bytes downloaded, total bytes)
    fetch: Callable[[Callable[[int, int], None]], Any] = lambda progress: None


def open_source(data: ml_collections.ConfigDict) -> Source:
    """Returns the Source that `data.source` names, without reading a document.

    Raises ValueError if its kind or subset is unknown; FileNotFoundError if there is no such file or folder.
    """
    kind, _, what = data.source.partition(":")
    openers = {
        "stdlib": _open_stdlib,
        "text": functools.partial(_open_files, kind, [".txt"], readers.read_text),
        "jsonl": functools.partial(_open_files, kind, [".jsonl", ".ndjson"], readers.read_jsonl),
        "parquet": functools.partial(_open_files, kind, [".parquet"], readers.read_parquet),
        "tfds": _open_tfds,
        "fineweb-edu": _open_fineweb_edu,
    }
    if kind not in openers:
        raise ValueError(f"data.source is {data.source!r}; allowed here: {', '.join(openers)}")
    return openers[kind](what, data)


def check_apart(source: Source, out: os.PathLike[str]) -> None:
    """Raises ValueError if `out`, which is to be written, is a file of the source, by any name."""
    target, files = pathlib.Path(out), (pathlib.Path(unit.name) for unit in source.units)
    if target.exists() and any(file.exists() and file.samefile(target) for file in files):
        raise ValueError(f"--out={out}: is a file of the text, which would be lost; give another name")


def check_unchanged(source: Source, data: ml_collections.ConfigDict, more: str = "") -> None:
    """Raises ValueError if the text is no longer the one that was opened; for callers about to write what they read."""
    if open_source(data).identity != source.identity:
        raise ValueError(f"data.source={data.source} changed while it was read; run the same command again{more}")


def _fields(data: ml_collections.ConfigDict) -> readers.Fields:
    return readers.Fields(data.text_field, data.split_field, data.document_bytes)


def held_out(text: bytes, fraction: float) -> bool:
    """Returns whether a document is validation text: its sha256, as a number in [0, 1), is below `fraction`."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") < fraction * 2**64


def with_parts(data: ml_collections.ConfigDict, part_field: str) -> Iterator[tuple[readers.Document, str]]:
    """Yields each document that `data` names with its part, the value of another field; without a field, "all".

    Raises ValueError if a field is named and the source has none.
    """
    kind = data.source.partition(":")[0]
    if kind in ("stdlib", "text") and (part_field or data.split_field):
        raise ValueError(f"data.source={kind} has no fields; leave --part_field and --split_field out, or use jsonl")
    documents = (document for unit in open_source(data).units for document in unit.read(0))
    if not part_field:
        yield from ((document, "all") for document in documents)
        return
    of_part = data.copy_and_resolve_references()
    of_part.text_field = part_field
    yield from zip(documents, _parts(of_part), strict=True)


def _parts(of_part: ml_collections.ConfigDict) -> Iterator[str]:
    try:
        yield from (document.text for unit in open_source(of_part).units for document in unit.read(0))
    except ValueError as error:
        raise ValueError(str(error).replace("data.text_field", "--part_field")) from error


def training_texts(source: Source, fraction: float, limit: int) -> Iterator[str]:
    """Yields the training texts of a source, in order, until their UTF-8 bytes reach `limit`."""
    for unit in source.units:
        for document in unit.read(0):
            text = document.text.encode()
            if document.split == "train" or (document.split is None and not held_out(text, fraction)):
                yield document.text
                limit -= len(text)
                if limit <= 0:
                    return


def _open_stdlib(_: str, data: ml_collections.ConfigDict) -> Source:
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    files = sorted(
        path.relative_to(root)
        for path in root.rglob("*.py")
        if NOT_LIBRARY.isdisjoint(path.relative_to(root).parts) and not path.name.startswith(MACHINE_MADE)
    )
    # Folders such as config-3.11-x86_64-linux-gnu depend on how this interpreter was built.
    files = [file for file in files if not file.parts[0].startswith("config-")]
    if not files:
        raise FileNotFoundError(f"data.source=stdlib: {root} has no source files; set data.source to another text")
    sizes = {file: (root / file).stat().st_size for file in files}
    units = [Unit(str(file), size, functools.partial(readers.read_source, root / file)) for file, size in sizes.items()]
    identity = [[file.as_posix(), size] for file, size in sizes.items()]
    return Source("stdlib", identity, tuple(units))


def _open_files(
    kind: str,
    suffixes: Sequence[str],
    read: Callable[[pathlib.Path, readers.Fields, int], Iterator[readers.Document]],
    pattern: str,
    data: ml_collections.ConfigDict,
) -> Source:
    root = storage.at_home(pattern)
    endings = tuple(suffix + packed for suffix in suffixes for packed in ("", *compressed.SUFFIXES))
    files, left_out = file_search.search(root, lambda name: name.endswith(endings))
    if not files:
        where = f"{root} contains no {', '.join(suffixes)} file" if root.is_dir() else f"no file matches {root}"
        raise FileNotFoundError(f"data.source={kind}:{pattern}: {where}; give a folder, a file or a glob")
    fields = _fields(data)
    units = [Unit(str(path), found.st_size, functools.partial(read, path, fields)) for path, found in files.items()]
    identity = [[str(path), found.st_size, found.st_mtime_ns] for path, found in files.items()]
    first = next(iter(files)).name.split(".")[0]
    name = first if len(files) == 1 else root.name if root.is_dir() else root.parent.name
    return Source(f"{kind}-{name}", identity, tuple(units), left_out)


def _open_tfds(name: str, data: ml_collections.ConfigDict) -> Source:
    import tensorflow_datasets as tfds  # slow to import, and needed for this source only

    folder = storage.at_home(name)
    if (folder / "dataset_info.json").is_file():
        with readers.damage_named(f"data.source=tfds:{name}"):
            builder = tfds.builder_from_directory(folder.resolve())
        identity = sorted([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in folder.iterdir())
    elif folder.is_absolute() or folder.exists():
        raise FileNotFoundError(
            f"data.source=tfds:{name}: {folder} has no dataset_info.json; give the folder of one version of the dataset"
        )
    else:
        try:
            builder = tfds.builder(name)
            if not builder.is_prepared():
                builder = tfds.builder(name, file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"data.source=tfds:{name}: {reason} Give the name or the folder of a dataset") from error
        identity = builder.info.full_name
    unit = Unit(f"tfds:{name}", 1, functools.partial(readers.read_tfds, builder, _fields(data)))
    return Source(f"tfds-{builder.info.name}", identity, (unit,), fetch=functools.partial(_fetch_tfds, builder))


def _fetch_tfds(builder: Any, progress: Callable[[int, int], None]) -> None:
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except ImportError as error:
            raise ValueError(
                f"data.source=tfds:{builder.info.name} cannot be prepared without TensorFlow ({error}); prepare it on "
                "another machine with file_format='array_record' and give its folder as tfds:FOLDER"
            ) from error


def _open_fineweb_edu(subset: str, data: ml_collections.ConfigDict) -> Source:
    if subset not in FINEWEB_SUBSETS:
        known = " or ".join(filter(None, FINEWEB_SUBSETS))
        raise ValueError(
            f"data.source is {data.source!r}; allowed: fineweb-edu (all of it) or fineweb-edu:NAME, NAME being {known}"
        )
    folder = storage.at_home(data.folder) / "downloads" / "fineweb-edu"
    listing = hub.pinned_listing(FINEWEB_EDU, FINEWEB_SUBSETS[subset], folder)
    if data.shards > len(listing.files):
        raise ValueError(
            f"data.shards is {data.shards}, but {data.source} has {len(listing.files)} files; lower it (0: all)"
        )
    files = listing.files[: data.shards or None]
    fields = _fields(data)
    units = [
        Unit(file.path, file.size, functools.partial(readers.read_parquet, folder / file.path, fields))
        for file in files
    ]
    return Source(
        data.source.replace(":", "-"),
        [dataclasses.astuple(file) for file in files],
        tuple(units),
        fetch=lambda progress: hub.download(listing, files, folder, progress),
    )
