"""Batches as a function of (dataset, seed, step), on any number of hosts, and what a bad dataset says."""

import hashlib
import itertools
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from kronecker.data import manifests, rows, stream

PER_RECORD = 32  # the real 2048 would need a long stream before a row straddles two records
TRAIN = (100, 1, 300)  # tokens of each shard: one shorter than any row, none a multiple of PER_RECORD
VALIDATION = (70,)
STREAM = 401
GOLDEN_ORDER = [21, 37, 31, 14, 9, 7, 28, 6, 24, 3]


def stored(dtype: str, per_record: int = PER_RECORD) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
        {"tokens": tfds.features.Tensor(shape=(per_record,), dtype=np.dtype(dtype), encoding="bytes")}
    )


def write_prepared(folder: Path, dtype: str = "uint16", train: tuple[int, ...] = TRAIN, validation=VALIDATION) -> Path:
    """Writes streams 0, 1, 2, ... in the layout of data preparation and returns the folder."""
    folder.mkdir()
    stored(dtype).save_config(folder)
    splits = {
        name: {
            "tokens": sum(sizes),
            "bytes": 0,
            "encoded_bytes": 0,
            "changed_bytes": 0,
            "documents": 1,
        }
        | write_shards(folder, name, sizes, dtype)
        for name, sizes in (("train", train), ("validation", validation))
    }
    info = [
        {
            "name": name,
            "shardLengths": [str(shard["records"]) for shard in split["shards"]],
            "numBytes": "0",
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for name, split in splits.items()
    ]
    header = {"name": "kronecker", "version": "1.0.0", "fileFormat": "array_record", "splits": info}
    (folder / "dataset_info.json").write_text(json.dumps(header))
    manifest = {
        "version": manifests.MANIFEST_VERSION,
        "name": "rows",
        "tokenizer": {"spec": "gpt2", "name": "gpt2", "fingerprint": "f", "vocab_size": 50257, "eot_id": 50256},
        "source": {"spec": "stdlib", "files": 1, "text_field": "text", "split_field": "", "validation_fraction": 0.01},
        "dtype": dtype,
        "tokens_per_record": PER_RECORD,
        "splits": splits,
    }
    write_manifest(folder, manifest)
    return folder


def write_shards(folder: Path, split: str, sizes: tuple[int, ...], dtype: str) -> dict:
    features, shards, sums = stored(dtype), [], []
    ends = itertools.accumulate(sizes)
    for i, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        file = folder / f"kronecker-{split}.array_record-{i:05}-of-{len(sizes):05}"
        ids = np.zeros((-(-size // PER_RECORD), PER_RECORD), dtype)
        ids.flat[:size] = np.arange(end - size, end)
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
        for record in ids:
            example = features.serialize_example({"tokens": record})
            writer.write(example)
            sums.append(zlib.crc32(example))
        writer.close()
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        one = {"file": file.name, "records": len(ids), "tokens": size, "size": file.stat().st_size, "sha256": sha256}
        shards.append(one)
    content = np.array(sums, "<u4").tobytes()
    (folder / f"kronecker-{split}.crc32").write_bytes(content)
    return {"records": len(sums), "records_sha256": hashlib.sha256(content).hexdigest(), "shards": shards}


def write_manifest(folder: Path, manifest: dict) -> None:
    unsealed = {key: value for key, value in manifest.items() if key not in ("fingerprint", "sha256")}
    (folder / manifests.MANIFEST).write_text(json.dumps(manifests.sealed(unsealed)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def prepared(folder: Path) -> manifests.Prepared:
    return manifests.open_prepared(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def first(batches, steps: int) -> np.ndarray:
    return np.stack(list(itertools.islice(batches, steps)))


def test_records_are_read_as_tfds_reads_them(folder: Path, prepared: manifests.Prepared):
    examples = tfds.builder_from_directory(folder).as_data_source("validation")
    by_tfds = np.concatenate([example["tokens"] for example in examples])
    ours = rows.Stream(prepared, "validation")
    np.testing.assert_array_equal(ours.read(0, len(ours)), by_tfds[: len(ours)])


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("per_record", [1, 32, 2048, 1 << 20])  # lengths that take 1, 2 and more bytes to write
def test_the_ids_are_the_last_bytes_that_tfds_writes(dtype: str, per_record: int):
    ids = np.arange(per_record).astype(dtype)
    assert stored(dtype, per_record).serialize_example({"tokens": ids}).endswith(ids.tobytes())


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("sequence", [1, 7, 32, 33, 400])
def test_row_i_is_t_plus_one_ids_from_i_times_t_across_records_and_shards(dtype: str, sequence: int, tmp_path: Path):
    batches = rows.train_batches(manifests.open_prepared(write_prepared(tmp_path / "data", dtype)), sequence, 1, seed=0)
    firsts = range(0, STREAM - sequence, sequence)
    epoch = sorted(row.tolist() for (row,) in itertools.islice(batches, len(firsts)))
    assert epoch == [list(range(first, first + sequence + 1)) for first in firsts]


def test_every_epoch_visits_every_row_once_in_another_order(prepared: manifests.Prepared):
    firsts = first(rows.train_batches(prepared, 10, 4, seed=0), 30)[:, :, 0].reshape(3, 40) // 10
    for epoch in firsts:
        assert sorted(epoch) == list(range(40))
    assert len({tuple(epoch) for epoch in firsts}) == 3


def test_a_batch_may_span_two_epochs(prepared: manifests.Prepared):
    firsts = first(rows.train_batches(prepared, 10, 16, seed=0), 5)[:, :, 0].reshape(2, 40) // 10
    assert [sorted(epoch) for epoch in firsts] == [list(range(40))] * 2


@pytest.mark.parametrize("step", [1, 9, 10, 25])
def test_starting_at_a_step_equals_skipping_to_it(step: int, prepared: manifests.Prepared):
    skipped = first(rows.train_batches(prepared, 10, 4, seed=3), step + 4)[step:]
    np.testing.assert_array_equal(first(rows.train_batches(prepared, 10, 4, seed=3, start_step=step), 4), skipped)


def test_a_start_far_ahead_is_as_near_as_the_first_step(prepared: manifests.Prepared):
    epochs_of_ten_steps = 10**8
    far = first(rows.train_batches(prepared, 10, 4, seed=0, start_step=10 * epochs_of_ten_steps), 10)
    assert sorted(far[:, :, 0].reshape(-1) // 10) == list(range(40))


@pytest.mark.parametrize("hosts", [2, 3, 4])
@pytest.mark.parametrize("start_step", [0, 13])
def test_the_hosts_batches_joined_are_the_batch_of_one_host(hosts: int, start_step: int, prepared: manifests.Prepared):
    one = first(rows.train_batches(prepared, 10, 12, 5, start_step), 20)
    each = [first(rows.train_batches(prepared, 10, 12, 5, start_step, host, hosts), 20) for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(each, axis=1), one)


def test_the_order_follows_the_seed_and_nothing_else(prepared: manifests.Prepared, copy: Path):
    batch = first(rows.train_batches(prepared, 10, 4, seed=0), 3)
    np.testing.assert_array_equal(first(rows.train_batches(manifests.open_prepared(copy), 10, 4, seed=0), 3), batch)
    assert (first(rows.train_batches(prepared, 10, 4, seed=1), 3) != batch).any()


def test_the_order_of_seed_zero_is_the_recorded_one(prepared: manifests.Prepared):
    # A library that shuffles otherwise would silently break every resumed run and every pair across machines.
    assert (next(rows.train_batches(prepared, 10, 10, seed=0))[:, 0] // 10).tolist() == GOLDEN_ORDER


@pytest.mark.parametrize("sequence", [9, 10])
def test_training_batches_are_int32_rows_whose_targets_follow_their_inputs(sequence: int, prepared: manifests.Prepared):
    batch = next(rows.train_batches(prepared, sequence, 4, seed=0))
    assert (batch.dtype, batch.shape) == (np.int32, (4, sequence + 1))
    np.testing.assert_array_equal(batch[:, 1:], batch[:, :-1] + 1)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize(("sequence", "batch"), [(1, 4), (10, 4), (23, 4), (69, 4), (100, 8)])
def test_validation_predicts_every_token_but_the_first_once(
    sequence: int, batch: int, hosts: int, prepared: manifests.Prepared
):
    predicted, counts = [], set()
    for host in range(hosts):
        batches = list(rows.validation_batches(prepared, sequence, batch, 0, host, hosts))
        counts.add(len(batches))
        for tokens, weights in batches:
            assert (tokens.dtype, tokens.shape) == (np.int32, (batch // hosts, sequence + 1))
            assert (weights.dtype, weights.shape) == (np.float32, (batch // hosts, sequence))
            predicted += tokens[:, 1:][weights == 1].tolist()
            np.testing.assert_array_equal(tokens[:, 1:][weights == 1], tokens[:, :-1][weights == 1] + 1)
            assert not tokens[:, 1:][weights == 0].any()
    assert sorted(predicted) == list(range(1, sum(VALIDATION)))
    assert len(counts) == 1


def test_validation_can_be_cut_to_its_first_sequences(prepared: manifests.Prepared):
    weights = [weights for _, weights in rows.validation_batches(prepared, 10, 2, sequences=3)]
    assert [w.sum(axis=1).tolist() for w in weights] == [[10, 10], [10, 0]]


def test_a_token_more_than_full_sequences_adds_no_batch_of_padding(prepared: manifests.Prepared):
    assert [weights.sum() for _, weights in rows.validation_batches(prepared, 23, 3)] == [sum(VALIDATION) - 1]


@pytest.mark.parametrize("tokens", [TRAIN, ()])
def test_a_split_shorter_than_one_sequence_is_refused_with_what_is_needed(tokens: tuple[int, ...], tmp_path: Path):
    short = manifests.open_prepared(write_prepared(tmp_path / "data", train=tokens))
    message = rf"{sum(tokens)} tokens, but train\.sequence = 401 needs 402; lower train\.sequence or prepare"
    with pytest.raises(ValueError, match=message):
        rows.train_batches(short, 401, 1, seed=0)


def test_three_validation_tokens_are_enough(tmp_path: Path):
    least = manifests.open_prepared(write_prepared(tmp_path / "data", validation=(3,)))
    ((tokens, weights),) = rows.validation_batches(least, 3, 1)
    assert (tokens.tolist(), weights.tolist()) == ([[0, 1, 2, 0]], [[1, 1, 0]])


@pytest.mark.parametrize("validation", [(), (1,), (2,)])
def test_an_empty_validation_split_is_refused_with_the_remedy(validation: tuple[int, ...], tmp_path: Path):
    empty = manifests.open_prepared(write_prepared(tmp_path / "data", validation=validation))
    with pytest.raises(ValueError, match=r"the validation split has [012] tokens.*data\.validation_fraction"):
        rows.validation_batches(empty, 10, 4)


def test_one_prediction_is_refused_as_it_may_be_the_end_of_a_text(prepared: manifests.Prepared):
    with pytest.raises(ValueError, match=r"at least 3, of which 2 are predicted; .* or eval\.sequences"):
        rows.validation_batches(prepared, 1, 4, sequences=1)
    assert len(list(rows.validation_batches(prepared, 1, 4, sequences=2))) == 1


@pytest.mark.parametrize("batches", [rows.train_batches, rows.validation_batches])
def test_a_batch_the_hosts_cannot_share_is_refused(batches, prepared: manifests.Prepared):
    with pytest.raises(ValueError, match="batch is 6; use multiples of 4, the number of hosts"):
        batches(prepared, 10, 6, 0, process_count=4)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_changed_byte_is_found_by_verify_and_not_by_opening(copy: Path):
    assert manifests.verify(manifests.open_prepared(copy)) == sum(
        file.stat().st_size for file in copy.glob("kronecker-*")
    )
    shard = copy / "kronecker-train.array_record-00002-of-00003"
    flip(shard, 1000)
    opened = manifests.open_prepared(copy)
    with pytest.raises(ValueError, match=f"^{shard} is damaged: its sha256 is .* prepare the data again"):
        manifests.verify(opened)


def test_a_damaged_record_is_named_when_a_batch_reads_it(copy: Path):
    shard = copy / "kronecker-train.array_record-00002-of-00003"
    content = shard.read_bytes()
    record = np.arange(101 + PER_RECORD, 101 + 2 * PER_RECORD, dtype="<u2").tobytes()
    flip(shard, content.index(record) + len(record) - 1)
    batches = rows.train_batches(manifests.open_prepared(copy), 10, 40, seed=0)
    with pytest.raises(ValueError, match=f"{shard.name}: a record cannot be read .*--verify"):
        next(batches)


def test_a_record_of_another_dataset_is_named_when_it_is_read(copy: Path, tmp_path: Path):
    name = "kronecker-train.array_record-00002-of-00003"
    other = write_prepared(tmp_path / "other", train=(100, 2, 300))  # all ids of this shard are one more
    shutil.copy(other / name, copy / name)
    read = stream.Stream(manifests.open_prepared(copy), "train").read
    np.testing.assert_array_equal(read(0, 101), np.arange(101))
    for record in range(101, 401, PER_RECORD):
        with pytest.raises(ValueError, match=f"{name}: a record is not the one that was written"):
            read(record, record + 1)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"x", lambda _: b""])
def test_a_shard_of_another_size_is_named_at_the_start(change, copy: Path):
    shard = copy / "kronecker-train.array_record-00002-of-00003"
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(ValueError, match=f"^{shard} is damaged: it has .* bytes, but 131,072 in the manifest; delete"):
        manifests.open_prepared(copy)


def test_opening_reads_no_shard(copy: Path):
    for shard in copy.glob("*.array_record-*"):
        size = shard.stat().st_size
        shard.unlink()
        with shard.open("wb") as hole:
            hole.truncate(size)
    manifests.open_prepared(copy)


def test_a_missing_shard_is_named(copy: Path):
    shard = copy / "kronecker-validation.array_record-00000-of-00001"
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{shard} does not exist"):
        manifests.open_prepared(copy)


def test_a_folder_without_a_manifest_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json does not exist; prepare the data with"):
        manifests.open_prepared(tmp_path)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "\0"])
def test_a_manifest_that_is_none_is_named(content: str, copy: Path):
    (copy / manifests.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        manifests.open_prepared(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "other", "sha256 is not that of the other fields: one was changed after it was written"),
        ("version", 1, "version is 1, but this code reads 2; delete .* and prepare the data again"),
    ],
)
def test_a_manifest_that_was_edited_or_is_of_another_version_is_refused(key: str, value: int, message: str, copy: Path):
    manifest = json.loads((copy / manifests.MANIFEST).read_text()) | {key: value}
    (copy / manifests.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        manifests.open_prepared(copy)
