import bz2
import gzip
import io
import json
import lzma
import pathlib
import random
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from backports import zstd

from configs import base
from kronecker.data import readers, sources

ROOT = pathlib.Path(__file__).parents[2]
TEXTS = [f"Document {i}: naïve café №{i}.\n" for i in range(50)]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd.compress}
PACKED = list(COMPRESS)[1:]


def opened(form, **keys):
    data = base.get_config().data
    data.update({"source": form} | keys)
    return sources.open_source(data)


def documents(source, start=0):
    return [document for unit in source.units for document in unit.read(start)]


def texts(source, start=0):
    return [document.text for document in documents(source, start)]


def write_jsonl(file, records):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    file.write_bytes(COMPRESS[file.suffix if file.suffix in COMPRESS else ""](lines.encode()))
    return f"jsonl:{file}"


def write_streams(file, streams=3):
    form = write_jsonl(file, [{"text": text} for text in TEXTS])
    file.write_bytes(file.read_bytes() * streams)
    return form


def write_parquet(file, columns):
    pq.write_table(pa.table(columns), file, row_group_size=16)
    return f"parquet:{file}"


def write_tfds(folder, values):
    folder.mkdir()
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": np.int64})
    features.save_config(folder)
    writer = array_record_module.ArrayRecordWriter(
        str(folder / "mine-train.array_record-00000-of-00001"), "group_size:1"
    )
    for value in values:
        writer.write(features.serialize_example({"text": value, "label": 0}))
    writer.close()
    split = {"name": "train", "shardLengths": [str(len(values))], "numBytes": "1"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "mine", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return f"tfds:{folder}"


WRITERS = {
    "jsonl": lambda folder: write_jsonl(folder / "a.jsonl", [{"text": text} for text in TEXTS]),
    "jsonl.gz": lambda folder: write_jsonl(folder / "a.jsonl.gz", [{"text": text} for text in TEXTS]),
    "jsonl.xz": lambda folder: write_jsonl(folder / "a.jsonl.xz", [{"text": text} for text in TEXTS]),
    "jsonl.bz2": lambda folder: write_jsonl(folder / "a.jsonl.bz2", [{"text": text} for text in TEXTS]),
    "jsonl.zst": lambda folder: write_jsonl(folder / "a.jsonl.zst", [{"text": text} for text in TEXTS]),
    "parquet": lambda folder: write_parquet(folder / "a.parquet", {"id": range(50), "text": TEXTS}),
    "tfds": lambda folder: write_tfds(folder / "1.0.0", TEXTS),
}


@pytest.fixture(params=WRITERS)
def form(request, tmp_path):
    return WRITERS[request.param](tmp_path)


def test_every_form_gives_the_documents_in_order(form):
    assert texts(opened(form)) == TEXTS


def test_reading_from_the_middle_gives_the_rest(form):
    assert texts(opened(form), 37) == TEXTS[37:]


def test_the_share_read_ends_at_all_of_it(form):
    shares = [document.share for document in documents(opened(form))]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_missing_field_is_named_with_those_that_are_there(form):
    with pytest.raises(
        ValueError, match=r"data.text_field is 'body', but there is no such field; set it to one of .*text"
    ):
        documents(opened(form, text_field="body"))


def test_the_standard_library_comes_without_tests_and_without_what_is_installed():
    names = [unit.name for unit in opened("stdlib").units]
    assert names == sorted(names, key=lambda name: pathlib.Path(name).parts)
    assert {"ast.py", "json/decoder.py", "asyncio/events.py"} <= set(names)
    parts = {part for name in names for part in pathlib.Path(name).parts}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "dist-packages", "sitecustomize.py"}
    assert not any(part.startswith("_sysconfigdata") for part in parts)


def test_a_library_file_is_one_document_with_its_whole_source():
    [unit] = [unit for unit in opened("stdlib").units if unit.name == "ast.py"]
    import ast

    assert [document.text for document in unit.read(0)] == [pathlib.Path(ast.__file__).read_text()]


def test_a_folder_of_text_is_read_recursively_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.md").write_text("no text")
    assert texts(opened(f"text:{tmp_path}")) == texts(opened(f"text:{tmp_path}/**/*.txt")) == ["one", "two"]


def test_a_long_text_is_cut_after_line_ends(tmp_path):
    content = "".join(f"line {i} ünïcode\r\n" for i in range(200_000))
    (tmp_path / "long.txt").write_bytes(content.encode())
    pieces = texts(opened(f"text:{tmp_path}"))
    assert "".join(pieces) == content
    assert all(piece.endswith("\n") and len(piece.encode()) < readers.TEXT_BYTES + 100 for piece in pieces)


def test_half_a_surrogate_pair_becomes_text(tmp_path):
    form = write_jsonl(tmp_path / "a.jsonl", [{"text": "a\ud83d\ude00 b\ud83d c"}])
    assert texts(opened(form)) == ["a😀 b� c"]


def test_null_is_an_empty_document(tmp_path):
    assert texts(opened(write_parquet(tmp_path / "a.parquet", {"text": ["a", None, "b"]}))) == ["a", "", "b"]


def test_a_field_that_holds_no_text_is_refused(tmp_path):
    form = write_parquet(tmp_path / "a.parquet", {"text": [1, 2]})
    with pytest.raises(ValueError, match=r"a.parquet: the field 'text' is int64, not text; set data.text_field"):
        documents(opened(form))


def test_the_split_field_says_which_split(tmp_path):
    records = [{"text": "a", "split": "train"}, {"text": "b", "split": "validation"}]
    form = write_jsonl(tmp_path / "a.jsonl", records)
    assert [document.split for document in documents(opened(form, split_field="split"))] == ["train", "validation"]


def test_an_unknown_split_is_refused(tmp_path):
    form = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "split": "test"}])
    with pytest.raises(ValueError, match=r"a.jsonl:1: the field 'split' .* is 'test'; allowed: train, validation"):
        documents(opened(form, split_field="split"))


def test_held_out_documents_are_the_asked_share_and_grow_with_it():
    names = [f"text {i}".encode() for i in range(20_000)]
    small, large = ({name for name in names if sources.held_out(name, share)} for share in (0.01, 0.05))
    assert small < large
    assert 0.008 < len(small) / len(names) < 0.012
    assert 0.047 < len(large) / len(names) < 0.053


def test_training_texts_leave_out_validation_and_stop_at_the_limit(tmp_path):
    source = opened(write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS]))
    chosen = list(sources.training_texts(source, 0.3, 1 << 30))
    assert chosen == [text for text in TEXTS if not sources.held_out(text.encode(), 0.3)]
    assert list(sources.training_texts(source, 0.3, len(chosen[0].encode()) + 1)) == chosen[:2]


@pytest.mark.parametrize("suffix", PACKED)
def test_several_compressed_streams_in_one_file_are_read_as_one(tmp_path, suffix):
    form = write_streams(tmp_path / f"a.jsonl{suffix}")
    assert texts(opened(form)) == TEXTS * 3


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("suffix", PACKED)
def test_a_cut_off_file_is_named(tmp_path, suffix, streams):
    file = tmp_path / f"a.jsonl{suffix}"
    write_streams(file, streams)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"a.jsonl{suffix}: damaged or truncated"):
        documents(opened(f"jsonl:{file}"))


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": \n')
    with pytest.raises(ValueError, match=r"a.jsonl:3: not valid JSON"):
        documents(opened(f"jsonl:{tmp_path}"))


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\nb\né".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.txt:3: not UTF-8"):
        documents(opened(f"text:{tmp_path}"))


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"a.parquet: not a parquet file"):
        documents(opened(f"parquet:{tmp_path}"))


@pytest.mark.parametrize("form", ["text:/no/such", "jsonl:/no/*.jsonl", "parquet:/no/such.parquet", "tfds:/no/such"])
def test_a_missing_file_is_named(form):
    with pytest.raises(FileNotFoundError, match=form.partition(":")[2].replace("*", r"\*")):
        opened(form)


@pytest.mark.parametrize("form", ["csv:a.csv", "prepared:folder", "fineweb-edu:sample-1T", "tfds:no_such_dataset"])
def test_an_unknown_form_is_refused(form):
    with pytest.raises(ValueError, match=r"data\.source"):
        opened(form)


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize(
    "after",
    [b"garbage and more of it", COMPRESS[".gz"](b"\n")[:9], None],
    ids=["garbage", "another's start", "nothing"],
)
def test_a_compressed_file_is_read_to_its_last_byte(tmp_path, suffix, after):
    file = tmp_path / f"a.jsonl{suffix}"
    form = write_jsonl(file, [{"text": "a"}])
    file.write_bytes(b"" if after is None else file.read_bytes() + after)
    with pytest.raises(ValueError, match=rf"^{file}: damaged or truncated"):
        documents(opened(form))


@pytest.mark.parametrize("suffix", PACKED)
def test_zeros_between_compressed_streams_are_no_text(tmp_path, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    form = write_jsonl(file, [{"text": text} for text in TEXTS])
    file.write_bytes((file.read_bytes() + bytes(512)) * 2)
    assert texts(opened(form)) == TEXTS * 2


BOMB_PEAK = """
import sys
from configs import base
from kronecker.data import sources
data, most = base.get_config().data, lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
data.source, before = sys.argv[1], most()
try:
    print(sum(1 for unit in sources.open_source(data).units for _ in unit.read(0)))
except ValueError as error:
    print(error)
print(most() - before)
"""


def test_a_line_of_600_mb_out_of_a_small_file_takes_little_memory(tmp_path):
    begun, block = b'{"text": "a"}\n{"text": "', b"a" * (1 << 20)
    file = tmp_path / "a.jsonl.zst"
    options = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.enable_long_distance_matching: 1}
    with zstd.open(file, "wb", options=options) as packed:
        packed.write(begun)
        for _ in range(600):
            packed.write(block)
    assert file.stat().st_size < 3_000_000
    ran = subprocess.run([sys.executable, "-c", BOMB_PEAK, f"jsonl:{file}"], capture_output=True, text=True, cwd=ROOT)
    said, kilobytes = ran.stdout.splitlines()
    assert said == (
        f"{file}:2: a document of more than 64,000,000 bytes (data.document_bytes); cut it, or raise the key"
    )
    assert int(kilobytes) < 300_000


@pytest.mark.parametrize("kind", ["jsonl", "text", "parquet", "tfds"])
def test_a_document_above_the_limit_is_named_and_one_at_it_is_read(tmp_path, kind):
    text = "é" * 40
    form = {
        "jsonl": lambda: write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b" * 80}]),
        "text": lambda: (tmp_path / "a.txt").write_text(text) and f"text:{tmp_path}",
        "parquet": lambda: write_parquet(tmp_path / "a.parquet", {"text": ["a", text]}),
        "tfds": lambda: write_tfds(tmp_path / "1.0.0", ["a", text]),
    }[kind]()
    size = len('{"text": ""}\n') + 80 if kind == "jsonl" else 80
    assert len(texts(opened(form, document_bytes=size))[-1].encode()) == 80
    place = {"jsonl": r"a.jsonl:2", "text": "a.txt:1", "parquet": "a.parquet: row 2", "tfds": "example 1"}[kind]
    with pytest.raises(ValueError, match=rf"{place}: a document of more than {size - 1} bytes \(data.document_bytes\)"):
        documents(opened(form, document_bytes=size - 1))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "\xed\xa0\xbd\xed\xb8\x80 \xed\xa0\xbd"}', "😀 �"),
        (b'{"text": "\xed\xa0\xbd\\ude00"}', "😀"),
        ('{"text": "한국어 힣"}'.encode(), "한국어 힣"),
        (b'\xef\xbb\xbf{"text": "a"}\r\n', "a"),
        (b'{"text": "a\\u0000b", "score": NaN}', "a\0b"),
        (b'{"text": null}', ""),
        (b" \t\r\n", ""),
    ],
)
def test_unusual_lines_are_read(tmp_path, line, expected):
    (tmp_path / "a.jsonl").write_bytes(line)
    assert texts(opened(f"jsonl:{tmp_path}")) == [expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x", "te\\u0078t": "y"}', "the field 'text' is there more than once; each line must have it once"),
        (b'{"text": {"a": 1}}', "the field 'text' is an object, not text; set data.text_field to another"),
        (b'{"text": "x", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "its JSON is nested too deeply"),
        (b'{"text": NaN}', "the field 'text' is float, not text"),
        (b'{"text": ["a"]}', "the field 'text' is list, not text"),
        (b'["text"]', "the line is a list"),
        (b'{"text": "a\0b"}', "not valid JSON"),
        (b"\0\0\0\0", "not valid JSON"),
        (b'{"text": "\xe9"}', "not valid JSON .*in UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "not valid JSON .*in UTF-8"),
        (b'{"text": "a"} {"text": "b"}', "not valid JSON"),
        (b'{"text": "a", "n": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (
            json.dumps(dict.fromkeys(map(str, range(100_000)))).encode(),
            "no such field; set it to one of '0', '1', .*'19', ...$",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a.jsonl:2: .*{message}") as refused:
        documents(opened(f"jsonl:{tmp_path}"))
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "ü"], pa.large_string()),
        pa.array([b"a", None, "ü".encode()]),
        pa.array(["a", None, "ü"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type)[:10],
)
def test_text_of_every_type_of_parquet_is_read(tmp_path, column):
    assert texts(opened(write_parquet(tmp_path / "a.parquet", {"text": column}))) == ["a", "", "ü"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [["a"]]}, "a.parquet: the field 'text' is list<element: string>, not text"),
        ({"text": [{"a": "b"}]}, "a.parquet: the field 'text' is struct<a: string>, not text"),
        ({"text": [b"a"] * 300 + [b"\xff"]}, "a.parquet: row 301, field 'text': not UTF-8"),
        (
            {"a.text": ["a"]},
            "a.parquet: data.text_field is 'text', but there is no such field; set it to one of 'a.text'",
        ),
    ],
)
def test_a_column_that_holds_no_text_is_named(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        documents(opened(write_parquet(tmp_path / "a.parquet", columns)))


def test_no_damage_of_a_parquet_file_with_checksums_goes_unseen(tmp_path):
    file, rng = tmp_path / "a.parquet", random.Random(0)
    table = pa.table({"text": TEXTS * 4, "other": range(200)})
    pq.write_table(table, file, row_group_size=64, compression="zstd", write_page_checksum=True)
    content, expected = file.read_bytes(), TEXTS * 4
    found = 0
    for number in range(100):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged if number % 2 else content[: rng.randrange(len(content))])
        try:
            assert texts(opened(f"parquet:{file}")) == expected  # the damage is in the other column, or in notes
        except ValueError as error:
            assert str(error).startswith(f"{file}: ")
            found += 1
    assert found > 50


def test_every_damage_of_a_tfds_dataset_is_named(tmp_path):
    folder, rng = tmp_path / "1.0.0", random.Random(0)
    form = write_tfds(folder, TEXTS)
    info = (folder / "dataset_info.json").read_text()
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for damaged in (b"", b"[]", content[: rng.randrange(1, len(content))], content[:99] + b"7" + content[100:]):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"(?s)^data.source=tfds:.*; write or download it again$"):
                documents(opened(form))
        file.write_bytes(content)
    (folder / "dataset_info.json").write_text(info.replace('"50"', '"40"'))
    with pytest.raises(ValueError, match="has 50 examples, but 40 by its metadata"):
        documents(opened(form))


def test_the_identity_changes_with_the_file(tmp_path):
    form = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    before = opened(form).identity
    write_jsonl(tmp_path / "a.jsonl", [{"text": "ab"}])
    assert opened(form).identity != before


def test_a_tfds_dataset_is_prepared_by_name_without_tensorflow(tmp_path, monkeypatch):
    module = """
        import tensorflow_datasets as tfds

        class TinyPages(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
                return self.dataset_info_from_configs(features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i in range(9):
                    yield i, {"text": f"page {i}"}
    """
    package = tmp_path / "tiny_pages"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tiny_pages.py").write_text(textwrap.dedent(module))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    __import__("tiny_pages.tiny_pages")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds"))
    source = opened("tfds:tiny_pages")
    source.fetch(lambda done, total: None)
    assert sorted(texts(source)) == [f"page {i}" for i in range(9)]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "form", ["text:~nobody-has-this-name/*.txt", "text:~$draft.txt", "tfds:~nobody-has-this-name/x"]
)
def test_a_home_that_there_is_not_is_named(form):
    with pytest.raises(ValueError, match=r"^~.*: there is no such home folder; set HOME, or write the whole path$"):
        opened(form)


def test_a_file_of_the_text_is_not_written_over(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Text.")
    link = tmp_path / "link"
    link.symlink_to(text)
    source = opened(f"text:{text}")
    for name in (text, link):
        with pytest.raises(ValueError, match="would be lost; give another name"):
            sources.check_apart(source, name)
    sources.check_apart(source, tmp_path / "other.json")


@pytest.mark.parametrize(
    "content", [b"# coding: none\n", b"# coding: ascii\nx = '\xc3\xa9'\n", b"x = '\xff'\n", b"\xff\xfex"]
)
def test_a_source_file_of_the_standard_library_that_cannot_be_decoded_is_named(content, tmp_path):
    file = tmp_path / "odd.py"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.py: no source in the encoding that it says \(.*\); mend or move it$"):
        next(readers.read_source(file, 0))
