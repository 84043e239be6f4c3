"""Where text comes from: a Source is a fixed sequence of units (files), a unit a fixed sequence of documents."""

import contextlib
import dataclasses
import functools
import glob
import gzip
import hashlib
import io
import itertools
import json
import lzma
import pathlib
import sysconfig
import tokenize
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import ml_collections
import pyarrow as pa
import pyarrow.parquet as pq

from kronecker.data import hub

SPLITS = ("train", "validation")
TEXT_BYTES = 1 << 20  # a longer .txt file is cut after a line end into documents of about this size
PARQUET_ROWS = 1024  # rows held as Python objects at a time

FINEWEB_EDU = "HuggingFaceFW/fineweb-edu"
FINEWEB_SUBSETS = {"": "data"} | {f"sample-{size}": f"sample/{size}" for size in ("10BT", "100BT", "350BT")}

# What the standard library's folder holds besides the library: tests, installed packages, traces of Python's build.
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
MACHINE_MADE = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")


class Document(NamedTuple):
    """One text of a unit."""

    text: str
    split: str | None  # from data.split_field; None: by a hash of the text
    share: float  # of the unit read so far, for progress


@dataclasses.dataclass(frozen=True)
class Unit:
    """One file: its name for messages, its size in bytes, and `read(n)`, which yields documents from number n on."""

    name: str
    size: int
    read: Callable[[int], Iterator[Document]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A corpus."""

    name: str  # readable, for folder names
    identity: Any  # JSON that differs if the text may have changed
    units: tuple[Unit, ...]  # in reading order
    # downloads missing units; called with a progress function of (bytes downloaded, total bytes)
    fetch: Callable[[Callable[[int, int], None]], Any] = lambda progress: None


@dataclasses.dataclass(frozen=True)
class _Fields:
    text: str
    split: str


def open_source(data: ml_collections.ConfigDict) -> Source:
    """Returns the Source that `data.source` names, without reading a document.

    Raises ValueError if its kind or subset is unknown; FileNotFoundError if there is no such file or folder.
    """
    kind, _, what = data.source.partition(":")
    openers = {
        "stdlib": _open_stdlib,
        "text": functools.partial(_open_files, kind, [".txt"], _read_text),
        "jsonl": functools.partial(_open_files, kind, [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst"], _read_jsonl),
        "parquet": functools.partial(_open_files, kind, [".parquet"], _read_parquet),
        "tfds": _open_tfds,
        "fineweb-edu": _open_fineweb_edu,
    }
    if kind not in openers:
        raise ValueError(f"data.source is {data.source!r}; allowed here: {', '.join(openers)}")
    return openers[kind](what, data)


def held_out(text: bytes, fraction: float) -> bool:
    """Returns whether a document is validation text: its sha256, as a number in [0, 1), is below `fraction`."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") < fraction * 2**64


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
    sizes = [(root / file).stat().st_size for file in files]
    units = [
        Unit(str(file), size, functools.partial(_read_source, root / file))
        for file, size in zip(files, sizes, strict=True)
    ]
    identity = [[file.as_posix(), size] for file, size in zip(files, sizes, strict=True)]
    return Source("stdlib", identity, tuple(units))


def _open_files(
    kind: str,
    suffixes: Sequence[str],
    read: Callable[[pathlib.Path, _Fields, int], Iterator[Document]],
    pattern: str,
    data: ml_collections.ConfigDict,
) -> Source:
    root = pathlib.Path(pattern).expanduser()
    patterns = [f"{root}/**/*{suffix}" for suffix in suffixes] if root.is_dir() else [str(root)]
    found = {pathlib.Path(match) for pattern in patterns for match in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    files = sorted(path.resolve() for path in found if path.is_file())
    if not files:
        where = f"{root} contains no {', '.join(suffixes)} file" if root.is_dir() else f"no file matches {root}"
        raise FileNotFoundError(f"data.source={kind}:{pattern}: {where}; give a folder, a file or a glob")
    fields = _Fields(data.text_field, data.split_field)
    stats = [path.stat() for path in files]
    units = [
        Unit(str(path), stat.st_size, functools.partial(read, path, fields))
        for path, stat in zip(files, stats, strict=True)
    ]
    identity = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in zip(files, stats, strict=True)]
    name = files[0].name.split(".")[0] if len(files) == 1 else root.name if root.is_dir() else root.parent.name
    return Source(f"{kind}-{name}", identity, tuple(units))


def _open_tfds(name: str, data: ml_collections.ConfigDict) -> Source:
    import tensorflow_datasets as tfds  # slow to import, and needed for this source only

    folder = pathlib.Path(name).expanduser()
    if (folder / "dataset_info.json").is_file():
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
    unit = Unit(f"tfds:{name}", 1, functools.partial(_read_tfds, builder, _Fields(data.text_field, data.split_field)))
    return Source(f"tfds-{builder.info.name}", identity, (unit,), functools.partial(_fetch_tfds, builder))


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
    folder = pathlib.Path(data.folder).expanduser() / "downloads" / "fineweb-edu"
    listing = hub.pinned_listing(FINEWEB_EDU, FINEWEB_SUBSETS[subset], folder)
    if data.shards > len(listing.files):
        raise ValueError(
            f"data.shards is {data.shards}, but {data.source} has {len(listing.files)} files; lower it (0: all)"
        )
    files = listing.files[: data.shards or None]
    fields = _Fields(data.text_field, data.split_field)
    units = [
        Unit(file.path, file.size, functools.partial(_read_parquet, hub.local_path(file, folder), fields))
        for file in files
    ]
    return Source(
        data.source.replace(":", "-"),
        [dataclasses.astuple(file) for file in files],
        tuple(units),
        lambda progress: hub.download(listing, files, folder, progress),
    )


def _read_source(path: pathlib.Path, start: int) -> Iterator[Document]:
    if not start:
        with tokenize.open(path) as file:
            yield Document(file.read(), None, 1.0)


def _read_text(path: pathlib.Path, _: _Fields, start: int) -> Iterator[Document]:
    size = path.stat().st_size
    with path.open("rb") as file:
        for number in itertools.count():
            piece = file.read(TEXT_BYTES) + file.readline()
            if not piece:
                return
            if number >= start:
                yield Document(_utf8(piece, str(path)), None, file.tell() / size)


def _read_jsonl(path: pathlib.Path, fields: _Fields, start: int) -> Iterator[Document]:
    with path.open("rb") as stored, _decompressed(stored, path.suffix) as lines:
        try:
            for number, line in enumerate(lines, 1):
                if number > start:
                    yield _json_document(line, fields, f"{path}:{number}", stored.tell() / path.stat().st_size)
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            if getattr(error, "errno", None):  # an error of the disk, not of the content
                raise
            raise ValueError(f"{path}: damaged or truncated ({error}); write or download it again") from error


def _decompressed(stored: BinaryIO, suffix: str) -> contextlib.AbstractContextManager[Iterable[bytes]]:
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=stored), TEXT_BYTES)
    if suffix == ".xz":
        return io.BufferedReader(lzma.LZMAFile(stored), TEXT_BYTES)
    if suffix == ".zst":
        # zstandard's own reader accepts a truncated stream.
        return io.BufferedReader(pa.CompressedInputStream(stored, "zstd"), TEXT_BYTES)
    return contextlib.nullcontext(stored)


def _json_document(line: bytes, fields: _Fields, where: str, share: float) -> Document:
    if line.isspace():
        return Document("", "train", share)
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); each line must be a JSON object") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: the line is a {type(record).__name__}; each line must be a JSON object")
    document = _document(record, fields, where, share)
    # Half a surrogate pair, written as an escape, is valid JSON but not valid text.
    return document._replace(text=_whole(document.text)) if b"\\u" in line else document


def _read_parquet(path: pathlib.Path, fields: _Fields, start: int) -> Iterator[Document]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file ({error}); write or download it again") from error
    with file:
        _check_fields(file.schema_arrow.names, fields, str(path))
        columns = [name for name in (fields.text, fields.split) if name]
        rows, seen = file.metadata.num_rows, 0
        for group in range(file.num_row_groups):
            end = seen + file.metadata.row_group(group).num_rows
            if end <= start:
                seen = end
                continue
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
                for record in batch.to_pylist():
                    seen += 1
                    if seen > start:
                        yield _document(record, fields, f"{path}: row {seen}", seen / rows)


def _read_tfds(builder: Any, fields: _Fields, start: int) -> Iterator[Document]:
    name = f"data.source=tfds:{builder.info.name}"
    if "train" not in builder.info.splits:
        raise ValueError(
            f"{name} has no train split, only {', '.join(builder.info.splits) or 'none'}; use another dataset"
        )
    _check_fields(list(builder.info.features), fields, name)
    try:
        examples = builder.as_data_source(split="train")
    except (ImportError, NotImplementedError) as error:
        raise ValueError(
            f"{name}: cannot be read without TensorFlow; prepare it with file_format='array_record'"
        ) from error
    for index in range(start, len(examples)):
        yield _document(examples[index], fields, f"{name}: example {index}", (index + 1) / len(examples))


def _check_fields(names: Sequence[str], fields: _Fields, where: str) -> None:
    for key, name in (("data.text_field", fields.text), ("data.split_field", fields.split)):
        if name and name not in names:
            raise ValueError(
                f"{where}: {key} is {name!r}, but there is no such field; set it to one of {', '.join(names)}"
            )
    if not fields.text:
        raise ValueError(f"data.text_field is empty; set it to one of {', '.join(names)}")


def _document(record: Mapping[str, Any], fields: _Fields, where: str, share: float) -> Document:
    _check_fields(list(record), fields, where)
    text = record[fields.text]
    if isinstance(text, bytes):
        text = _utf8(text, where)
    if not isinstance(text, str | None):
        raise ValueError(
            f"{where}: the field {fields.text!r} is {type(text).__name__}, not text; set data.text_field to another"
        )
    split = record[fields.split] if fields.split else None
    split = split.decode(errors="replace") if isinstance(split, bytes) else split
    if fields.split and split not in SPLITS:
        raise ValueError(
            f"{where}: the field {fields.split!r} (data.split_field) is {split!r}; allowed: train, validation"
        )
    return Document(text or "", split, share)


def _utf8(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason}); convert the text, for example with iconv") from error


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
