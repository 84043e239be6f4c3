"""What a prepared dataset's files say of themselves, and that no change of them goes unseen."""

import copy
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import base
from kronecker.data import manifests, preparation, rows, shards, stream
from kronecker.schema import resolution

OTHERS = [
    None,
    True,
    -1,
    0,
    1,
    2,
    7,
    10**400,
    0.5,
    float("nan"),
    "",
    "7",
    "../x",
    "uint16",
    "f" * 64,
    [],
    [1],
    {},
    {"a": 1},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> manifests.Prepared:
    """A dataset of two shards of equal size and one that is held out."""
    return made(tmp_path_factory.mktemp("manifests"), seed=0)


def made(folder: Path, seed: int) -> manifests.Prepared:
    rng = random.Random(seed)
    texts = ["".join(rng.choices("abcdefgh ", k=5_000)) for _ in range(12)]
    lines = [{"text": text, "split": "validation" if i == 11 else "train"} for i, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c = base.get_config()
    c.tokenizer = "bpe:260"
    c.data.update({"folder": str(folder), "source": f"jsonl:{folder}/a.jsonl", "split_field": "split"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "BATCH_CHARACTERS", 30_000)  # two batches, so two shards
        return preparation.ensure_prepared(resolution.resolve(c), 20_000)[0]


@pytest.fixture
def folder(prepared: manifests.Prepared, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared.folder, tmp_path / "copy"))


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from leaves(part, (*path, key))


def changed(manifest: dict, path: tuple, *value: Any) -> dict:
    """Returns a copy with another value there, or without it."""
    manifest = copy.deepcopy(manifest)
    at = manifest
    for key in path[:-1]:
        at = at[key]
    if value:
        at[path[-1]] = value[0]
    else:
        del at[path[-1]]
    return manifest


def refusal(folder: Path, manifest: Any) -> str:
    file = folder / manifests.MANIFEST
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"^{file}: ") as refused:
        manifests.read_manifest(folder)
    assert len(str(refused.value)) < 1000 and "\n" not in str(refused.value)
    return str(refused.value)


def test_every_change_of_a_manifest_is_refused_in_one_line(folder: Path):
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    assert len(manifest["splits"]["train"]["shards"]) == 2
    tried = 0
    for path in leaves(manifest):
        refusal(folder, changed(manifest, path))
        for value in OTHERS:
            with_value = changed(manifest, path, value)
            if json.dumps(with_value) != json.dumps(manifest):
                refusal(folder, with_value)
                tried += 1
    refusal(folder, manifest | {"more": 1})
    refusal(folder, [manifest])
    assert tried > 900


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("splits", "train", "shards", 1, "file"), "../kronecker", r"splits.train.shards\[1\].file is '../kronecker'"),
        (("splits", "train", "tokens"), 5, "splits.train.tokens is 5, which is not the sum over its shards"),
        (
            ("splits", "train", "documents"),
            -1,
            "splits.train.documents is -1; it must be a whole number from",
        ),
        (
            ("splits", "train", "bytes"),
            10**400,
            "splits.train.bytes is 1000.*; it must be a whole number",
        ),
        (("splits", "validation", "bytes"), "5", "splits.validation.bytes is '5'; it must be a whole number"),
        (("tokens_per_record",), 16, r"splits.train.shards\[0\].records is .*, but its tokens need another number"),
        (("dtype",), "int8", "dtype is 'int8'; it must be uint16 or uint32"),
        (("splits", "train"), [], r"splits.train is \[\]; it must be a group of fields"),
        (("tokenizer", "spec"), "gpt3", "sha256 is not that of the other fields: one was changed"),
    ],
)
def test_the_field_that_was_changed_is_named(path: tuple, value: Any, message: str, folder: Path):
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    assert re.search(message, refusal(folder, changed(manifest, path, value)))


def test_counts_that_are_moved_from_shard_to_shard_give_another_fingerprint(folder: Path):
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    first, second = manifest["splits"]["train"]["shards"]
    first["tokens"], second["tokens"] = first["tokens"] - 1, second["tokens"] + 1
    assert "fingerprint is not that of the content" in refusal(folder, manifest)
    assert manifests.sealed(manifest)["fingerprint"] != manifest["fingerprint"]


def test_the_fingerprint_follows_tokenizer_and_content_but_not_names(prepared: manifests.Prepared):
    manifest = prepared.manifest
    for path in (("name",), ("source", "spec"), ("tokenizer", "spec"), ("tokenizer", "name")):
        assert manifests.content_fingerprint(changed(manifest, path, "x")) == prepared.fingerprint
    for path in (("tokenizer", "fingerprint"), ("splits", "validation", "bytes"), ("dtype",)):
        assert manifests.content_fingerprint(changed(manifest, path, "x")) != prepared.fingerprint


def test_a_shard_in_the_place_of_another_of_its_size_is_named_when_it_is_read(folder: Path, tmp_path: Path):
    other = made(tmp_path, seed=1)
    first, second = sorted(folder.glob("kronecker-train.array_record-*"))
    equal = min(first.stat().st_size, second.stat().st_size)
    content = first.read_bytes()
    for replacement in (second.read_bytes()[:equal], (other.folder / first.name).read_bytes()):
        first.write_bytes(replacement.ljust(len(content), b"\0")[: len(content)])
        read = stream.Stream(manifests.open_prepared(folder), "train")
        with pytest.raises(ValueError, match=f"^{first}: a record .* damaged"):
            read.read(0, 10)
    first.write_bytes(content)
    sums = folder / "kronecker-train.crc32"
    sums.write_bytes(sums.read_bytes()[::-1])
    with pytest.raises(ValueError, match=f"^{sums} is damaged: its sha256 is"):
        next(rows.train_batches(manifests.open_prepared(folder), 16, 4, seed=0))


def test_no_flipped_bit_of_a_shard_changes_what_is_read(folder: Path):
    rng, opened = random.Random(0), manifests.open_prepared(folder)
    whole = stream.Stream(opened, "train")
    expected = whole.read(0, len(whole))
    shard = folder / opened.manifest["splits"]["train"]["shards"][0]["file"]
    content = shard.read_bytes()
    found = 0
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        shard.write_bytes(flipped)
        try:
            read = stream.Stream(opened, "train").read(0, len(whole))
        except ValueError as error:
            assert str(error).startswith(f"{shard}: ")
            found += 1
        else:
            np.testing.assert_array_equal(read, expected)
    assert found > 20
    shard.write_bytes(content)


def test_a_damaged_note_of_a_part_is_named(folder: Path):
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    note = folder / "part-00000-00000.json"
    for content in ("", "[]", '{"end": [0, 1]}', json.dumps(manifest)):
        note.write_text(content)
        with pytest.raises(ValueError, match=f"^{note} is damaged: .*; delete {folder} and prepare the data again"):
            shards.finished_parts(folder, 0)
