"""The files of a prepared dataset: shards are written part by part, then renamed and described.

A split's ids are stored in records of TOKENS_PER_RECORD ids, for any training sequence; the last record of a shard is
padded with zeros, and the manifest has the number of real ids.  A part has at most one shard per split.  The file
part-SEGMENT-N.json is written after a part's shards and marks them complete; segment-SEGMENT.json marks all parts of a
segment complete.  `finish` renames the shards and writes the manifest last.  Files are written under a temporary name
and renamed, so a final name means a complete file.
"""

import contextlib
import hashlib
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import ml_collections
import numpy as np
from array_record.python import array_record_module

from kronecker import tokenization
from kronecker.data import manifests, sources
from kronecker.runtime import storage

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Features: TypeAlias = "tfds.features.FeaturesDict"
TOKENS_PER_RECORD = 2048

# One record per chunk gives random access.  On 2 cores: 500M tokens/s written and 300M read at random, against 55M and
# 145M with the default compression, which saves a third of the space.  Also, no compressor's version affects the bytes.
WRITER_OPTIONS = "group_size:1,uncompressed"


class Stream(NamedTuple):
    """The ids of a sequence of documents in one split, and the counts of their text."""

    ids: np.ndarray
    documents: int
    bytes: int
    encoded_bytes: int  # of the text as the ids have it
    changed_bytes: int  # of the text, that the ids do not have, or have in addition, whichever are more


class Job(NamedTuple):
    """A dataset that is being prepared."""

    source: sources.Source
    tokenizer: tokenization.Tokenizer
    folder: pathlib.Path
    config: ml_collections.ConfigDict

    @property
    def features(self) -> Features:
        """Those of a record: `tokens`, stored as one string of bytes."""
        import tensorflow_datasets as tfds  # slow to import, and not needed for reading

        dtype = np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32)
        tokens = tfds.features.Tensor(shape=(TOKENS_PER_RECORD,), dtype=dtype, encoding="bytes")
        return tfds.features.FeaturesDict({"tokens": tokens})


def _part_file(folder: pathlib.Path, part: tuple[int, int], suffix: str) -> pathlib.Path:
    segment, number = part
    return folder / f"part-{segment:05d}-{number:05d}{suffix}"


def _shard_file(folder: pathlib.Path, part: tuple[int, int], split: str) -> pathlib.Path:
    return _part_file(folder, part, f"-{split}.array_record")


_PART = {
    "end": [manifests.COUNT],
    "splits": dict.fromkeys(
        manifests.SPLITS,
        dict.fromkeys((*manifests.COUNTS, "size"), manifests.COUNT)
        | dict.fromkeys(("sha256", "crc32"), manifests.TEXT),
    ),
}


def finished_parts(folder: pathlib.Path, segment: int) -> list[dict[str, Any]]:
    """Returns the descriptions of the complete parts of a segment: {"end": ..., "splits": {split: {"tokens": ...}}}.

    Raises ValueError if one is damaged.
    """
    parts = []
    for file in sorted(folder.glob(f"part-{segment:05d}-?????.json")):
        content = storage.read_whole(file)
        try:
            part = storage.parsed_json(content)
        except ValueError as error:
            part = str(error)
        if found := manifests.fault(part, _PART):
            raise ValueError(f"{file} is damaged: {found}; delete {folder} and prepare the data again")
        parts.append(part)
    return parts


def _segment_file(folder: pathlib.Path, segment: int) -> pathlib.Path:
    return folder / f"segment-{segment:05d}.json"


def is_finished(folder: pathlib.Path, segment: int) -> bool:
    return _segment_file(folder, segment).exists()


def finish_segment(folder: pathlib.Path, segment: int, parts: int) -> None:
    _write_json(_segment_file(folder, segment), {"parts": parts})


def write_part(job: Job, part: tuple[int, int], end: tuple[int, int], streams: dict[str, Stream]) -> None:
    """Writes a part, its segment and its number, and its description last, which marks it complete.

    `end` is the position in the source after the part, where a restart resumes.  Raises OSError if a file cannot be
    written; the incomplete file is deleted.
    """
    splits = {
        split: {"tokens": stream.ids.size}
        | {key: value for key, value in stream._asdict().items() if key != "ids"}
        | _write_shard(_shard_file(job.folder, part, split), stream.ids, job.features)
        for split, stream in streams.items()
    }
    _write_json(_part_file(job.folder, part, ".json"), {"end": end, "splits": splits})


def _write_shard(file: pathlib.Path, ids: np.ndarray, features: Features) -> dict[str, Any]:
    if not ids.size:
        return {"records": 0, "size": 0, "sha256": "", "crc32": ""}
    sums: list[int] = []
    records = np.pad(ids, (0, -ids.size % TOKENS_PER_RECORD)).reshape(-1, TOKENS_PER_RECORD)
    with writing(file) as unfinished:
        writer = array_record_module.ArrayRecordWriter(str(unfinished), WRITER_OPTIONS)
        try:
            for record in records:
                example = features.serialize_example({"tokens": record})
                sums.append(zlib.crc32(example))
                writer.write(example)
        finally:
            writer.close()
        with unfinished.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    size, crc32 = file.stat().st_size, np.array(sums, "<u4").tobytes().hex()
    return {"records": len(records), "size": size, "sha256": sha256, "crc32": crc32}


def finish(job: Job, parts: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Gives the shards of `all_parts` their final names and writes the files that describe them, the manifest last."""
    source, tokenizer, folder, config = job
    features = job.features
    splits = {split: _finish_split(folder, parts, split) for split in manifests.SPLITS}
    features.save_config(folder)
    storage.sync(folder)
    _write_json(folder / "dataset_info.json", _dataset_info(folder, splits))
    manifest = {
        "version": manifests.MANIFEST_VERSION,
        "name": folder.name,
        "tokenizer": {
            "spec": config.tokenizer,
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eot_id": tokenizer.eot_id,
        },
        "source": {
            "spec": config.data.source,
            "files": len(source.units),
            "text_field": config.data.text_field,
            "split_field": config.data.split_field,
            "validation_fraction": config.data.validation_fraction,
        },
        "dtype": features["tokens"].np_dtype.name,
        "tokens_per_record": TOKENS_PER_RECORD,
        "splits": splits,
    }
    _write_json(folder / manifests.MANIFEST, manifests.sealed(manifest))
    for file in [*folder.glob("part-*"), *folder.glob("segment-*")]:
        file.unlink()


def all_parts(folder: pathlib.Path, segments: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Returns the finished parts of the first `segments` segments, in order, by (segment, number)."""
    return {
        (segment, number): part
        for segment in range(segments)
        for number, part in enumerate(finished_parts(folder, segment))
    }


def _finish_split(folder: pathlib.Path, parts: dict[tuple[int, int], dict[str, Any]], split: str) -> dict[str, Any]:
    numbered = [(number, part["splits"][split]) for number, part in parts.items()]
    filled = [(number, part) for number, part in numbered if part["records"]]
    shards = []
    for index, (number, part) in enumerate(filled):
        name = manifests.shard_file(split, index, len(filled))
        # A process that was killed here may have renamed some already.
        if _shard_file(folder, number, split).exists():
            _shard_file(folder, number, split).replace(folder / name)
        shards.append({"file": name} | {key: part[key] for key in ("records", "tokens", "size", "sha256")})
    sums = bytes.fromhex("".join(part["crc32"] for _, part in filled))
    with writing(folder / manifests.sums_file(split)) as unfinished:
        unfinished.write_bytes(sums)
    totals = {key: sum(part[key] for _, part in numbered) for key in manifests.COUNTS}
    return totals | {"records_sha256": hashlib.sha256(sums).hexdigest(), "shards": shards}


def _dataset_info(folder: pathlib.Path, splits: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": manifests.DATASET,
        "version": f"{manifests.MANIFEST_VERSION}.0.0",
        "fileFormat": "array_record",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(shard["records"]) for shard in found["shards"]],
                "numBytes": str(sum((folder / shard["file"]).stat().st_size for shard in found["shards"])),
            }
            for split, found in splits.items()
            if found["shards"]
        ],
    }


@contextlib.contextmanager
def writing(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `file`, and renames it to `file` on success.

    Raises an OSError with the file, the reason and the fix if it could not be written.
    """
    try:
        with storage.renamed(file, locked=True) as unfinished:
            yield unfinished
    except (OSError, RuntimeError) as error:  # array_record reports a full disk as a RuntimeError
        if getattr(error, "filename", None) not in (None, str(file)):  # of what is read meanwhile
            raise
        raise OSError(
            f"cannot write {file}: {error}; free some space, or set data.folder to another disk; the same command then "
            "resumes after the last finished shard"
        ) from error


def _write_json(file: pathlib.Path, content: Any) -> None:
    with writing(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
