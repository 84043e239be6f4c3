"""Reads the documents of one file or dataset, in order, in memory that does not grow with the file.

Faults of the text name the file and the line, row or example.
"""

import codecs
import contextlib
import dataclasses
import itertools
import json
import pathlib
import reprlib
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from array_record.python import array_record_module

from kronecker.data import compressed, manifests

TEXT_BYTES = 1 << 20  # a longer .txt file is cut after a line end into documents of about this size
PARQUET_ROWS = 128  # at a time; fewer if they may be long
PARQUET_BYTES = 1 << 27
PARQUET_EXTRA = 1 << 20  # bytes, more than parquet adds to a cell
FIELDS_SHOWN = 20
MANY_LINES = 256
_OBJECTS = json.JSONDecoder(object_pairs_hook=tuple)  # else the last of two fields of one name wins


class Document(NamedTuple):
    """One text of a file: `where` is its line, row or example, for messages."""

    text: str
    split: str | None  # from data.split_field; None: by a hash of the text
    share: float  # of the file read so far, for progress
    where: str


@dataclasses.dataclass(frozen=True)
class Fields:
    """What the config says of every document."""

    text: str
    split: str
    most_bytes: int


def read_source(path: pathlib.Path, start: int) -> Iterator[Document]:
    if not start:
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no source in the encoding that it says ({error}); mend or move it") from None
        yield Document(text, None, 1.0, str(path))


def read_text(path: pathlib.Path, fields: Fields, start: int) -> Iterator[Document]:
    with compressed.opened(path) as (content, share):
        line = 1
        for number in itertools.count():
            where = f"{path}:{line}"
            piece = content.read(TEXT_BYTES)
            piece += content.readline(max(fields.most_bytes - len(piece), 0) + 1)
            if not piece:
                return
            if len(piece) > fields.most_bytes:
                raise _too_large(fields, where)
            if number >= start:
                yield Document(_utf8(piece, lambda before, line=line: f"{path}:{line + before}"), None, share(), where)
            line += piece.count(b"\n")


def read_jsonl(path: pathlib.Path, fields: Fields, start: int) -> Iterator[Document]:
    with compressed.opened(path) as (content, share):
        read = 0.0
        lines = iter(lambda: content.readline(fields.most_bytes + 1), b"")
        for number, line in enumerate(lines, 1):
            if len(line) > fields.most_bytes:
                raise _too_large(fields, f"{path}:{number}")
            if number < MANY_LINES or number % MANY_LINES == 0:  # each asks the system
                read = share()
            if number > start:
                yield _json_document(line, fields, f"{path}:{number}", read)


def _json_document(line: bytes, fields: Fields, where: str, share: float) -> Document:
    try:
        # Half a surrogate pair, as an escape or as bytes, is no text; many programs write it nevertheless.
        pairs = _OBJECTS.decode(line.removeprefix(codecs.BOM_UTF8).decode(errors="surrogatepass"))
    except ValueError as error:
        if line.isspace():
            return Document("", "train", share, where)
        raise ValueError(f"{where}: not valid JSON ({error}); each line must be a JSON object in UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{where}: its JSON is nested too deeply to be read; leave out that field") from error
    if not isinstance(pairs, tuple):
        raise ValueError(f"{where}: the line is a {type(pairs).__name__}; each line must be a JSON object")
    record, names = dict(pairs), [name for name, _ in pairs]
    if twice := [name for name in (fields.text, fields.split) if names.count(name) > 1]:
        raise ValueError(f"{where}: the field {twice[0]!r} is there more than once; each line must have it once")
    found = document(record, fields, where, share)
    if b"\\u" in line or b"\xed" in line:
        return found._replace(text=found.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return found


def read_parquet(path: pathlib.Path, fields: Fields, start: int) -> Iterator[Document]:
    with _named(f"{path}: not a parquet file, or damaged"):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        names = file.schema_arrow.names
        _check_fields(names, fields, str(path))
        columns = [name for name in (fields.text, fields.split) if name]
        for key, name in zip(("data.text_field", "data.split_field"), columns, strict=False):
            _check_column(file.schema_arrow, key, name, str(path))
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        rows, seen = sum(group.num_rows for group in groups), 0
        for number, group in enumerate(groups):
            end = seen + group.num_rows
            if end <= start:
                seen = end
                continue
            length = group.total_byte_size // max(group.num_rows, 1)  # on average, of all columns
            if length > fields.most_bytes + PARQUET_EXTRA and group.num_columns > 1:
                with _named(f"{path}: rows {seen + 1} to {end}: damaged"):  # else `column` below aborts the process
                    next(file.iter_batches(1, row_groups=[number], columns=columns), None)
                length = _stored_bytes(group, fields.text) // max(group.num_rows, 1)
            if length > fields.most_bytes + PARQUET_EXTRA:  # so that of one row at least is
                raise _too_large(fields, f"{path}: rows {seen + 1} to {end}")
            # A text that many rows share may be stored once, but each row read has all of it.
            longest = max(min(group.total_byte_size, fields.most_bytes), 1)
            at_once = max(1, min(PARQUET_ROWS, PARQUET_BYTES // longest))
            batches = file.iter_batches(at_once, row_groups=[number], columns=columns, use_threads=False)
            while True:
                rows_read = f"rows {seen + 1} to {min(seen + at_once, end)}"
                with _named(f"{path}: {rows_read}, field {' or '.join(map(repr, columns))}: damaged"):
                    batch = next(batches, None)
                    if batch is None:
                        break
                    # As bytes, so that text that is not UTF-8 is found row by row.
                    values = [batch.column(name).cast(pa.large_binary()) for name in columns]
                if values[0].nbytes > fields.most_bytes:  # before Python has a copy
                    for row, size in enumerate(pc.binary_length(values[0]).to_pylist(), seen + 1):
                        if size and size > fields.most_bytes:
                            raise _too_large(fields, f"{path}: row {row}")
                for record in zip(*values, strict=True):
                    seen += 1
                    if seen > start:
                        found = {name: value.as_py() for name, value in zip(columns, record, strict=True)}
                        yield document(found, fields, f"{path}: row {seen}", seen / rows)
            if seen != end:
                raise ValueError(f"{path}: damaged: {seen:,} rows were read, but it should have {end:,} up to there")


def _stored_bytes(group: pq.RowGroupMetaData, name: str) -> int:
    columns = map(group.column, range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == name)


@contextlib.contextmanager
def _named(fault: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None):  # an error of the disk, not of the content
            raise
        raise ValueError(f"{fault} ({error}); write or download it again") from error


def _check_column(schema: pa.Schema, key: str, name: str, where: str) -> None:
    found = schema.field(name).type if schema.names.count(name) == 1 else "there more than once"
    stored = found.value_type if isinstance(found, pa.DictionaryType) else found
    if stored not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.null()):
        raise ValueError(f"{where}: the field {name!r} is {found}, not text; set {key} to another")


def read_tfds(builder: Any, fields: Fields, start: int) -> Iterator[Document]:
    name = f"data.source=tfds:{builder.info.name}"
    if "train" not in builder.info.splits:
        raise ValueError(
            f"{name} has no train split, only {', '.join(builder.info.splits) or 'none'}; use another dataset"
        )
    _check_fields(list(builder.info.features), fields, name)
    try:
        with damage_named(name):
            examples = builder.as_data_source(split="train")
            _check_lengths(builder.info)
    except (ImportError, NotImplementedError) as error:
        raise ValueError(
            f"{name}: cannot be read without TensorFlow; prepare it with file_format='array_record'"
        ) from error
    for index in range(start, len(examples)):
        where = f"{name}: example {index}"
        with damage_named(where):
            example = examples[index]
        yield document(example, fields, where, (index + 1) / len(examples))


def _check_lengths(info: Any) -> None:
    """Raises ValueError if dataset_info.json gives another number of examples than a file has: TFDS believes it."""
    for shard in info.splits["train"].file_instructions if info.file_format.value == "array_record" else ():
        found = array_record_module.ArrayRecordReader(str(shard.filename)).num_records()
        if found != shard.examples_in_shard:
            raise ValueError(
                f"{shard.filename} has {found:,} examples, but {shard.examples_in_shard:,} by its metadata"
            )


@contextlib.contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Makes a ValueError of what TFDS raises for a damaged dataset, which may be anything."""
    try:
        yield
    except (ImportError, NotImplementedError):
        raise
    except Exception as error:
        raise ValueError(f"{where}: the dataset is damaged ({error}); write or download it again") from error


def _check_fields(names: Sequence[str], fields: Fields, where: str) -> None:
    some = ", ".join(map(reprlib.repr, names[:FIELDS_SHOWN])) + (", ..." if len(names) > FIELDS_SHOWN else "")
    for key, name in (("data.text_field", fields.text), ("data.split_field", fields.split)):
        if name and name not in names:
            raise ValueError(f"{where}: {key} is {name!r}, but there is no such field; set it to one of {some}")
    if not fields.text:
        raise ValueError(f"data.text_field is empty; set it to one of {some}")


def document(record: Mapping[str, Any], fields: Fields, where: str, share: float) -> Document:
    """Returns the document of a record.

    Raises ValueError with `where` if a field is missing, or holds no text, no split or too much.
    """
    if fields.text not in record or (fields.split and fields.split not in record):
        _check_fields(list(record), fields, where)
    text = record[fields.text]
    if not isinstance(text, str | bytes | None):
        raise ValueError(
            f"{where}: the field {fields.text!r} is {'an object' if isinstance(text, tuple) else type(text).__name__}, "
            "not text; set data.text_field to another"
        )
    if text is not None and len(text) > fields.most_bytes:
        raise _too_large(fields, where)
    if isinstance(text, bytes):
        text = _utf8(text, lambda _: f"{where}, field {fields.text!r}")
    split = record[fields.split] if fields.split else None
    split = split.decode(errors="replace") if isinstance(split, bytes) else split
    if fields.split and split not in manifests.SPLITS:
        raise ValueError(
            f"{where}: the field {fields.split!r} (data.split_field) is {reprlib.repr(split)}; "
            f"allowed: {', '.join(manifests.SPLITS)}"
        )
    return Document(text or "", split, share, where)


def _too_large(fields: Fields, where: str) -> ValueError:
    return ValueError(
        f"{where}: a document of more than {fields.most_bytes:,} bytes (data.document_bytes); cut it, or raise the key"
    )


def _utf8(content: bytes, where: Callable[[int], str]) -> str:
    """Returns the text; `where` is called with the number of line ends before the fault."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        place = where(content.count(b"\n", 0, error.start))
        raise ValueError(f"{place}: not UTF-8 ({error.reason}); convert the text, for example with iconv") from error
