import gzip
import io
import json
import lzma
import pathlib
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
import zstandard
from array_record.python import array_record_module

from configs import base
from kronecker.data import sources

TEXTS = [f"Document {i}: naïve café №{i}.\n" for i in range(50)]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


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
    assert all(piece.endswith("\n") and len(piece.encode()) < sources.TEXT_BYTES + 100 for piece in pieces)


def test_half_a_surrogate_pair_becomes_text(tmp_path):
    form = write_jsonl(tmp_path / "a.jsonl", [{"text": "a\ud83d\ude00 b\ud83d c"}])
    assert texts(opened(form)) == ["a😀 b� c"]


def test_null_is_an_empty_document(tmp_path):
    assert texts(opened(write_parquet(tmp_path / "a.parquet", {"text": ["a", None, "b"]}))) == ["a", "", "b"]


def test_a_field_that_holds_no_text_is_refused(tmp_path):
    form = write_parquet(tmp_path / "a.parquet", {"text": [1, 2]})
    with pytest.raises(ValueError, match=r"a.parquet: row 1: the field 'text' is int, not text; set data.text_field"):
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


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_several_compressed_streams_in_one_file_are_read_as_one(tmp_path, suffix):
    form = write_streams(tmp_path / f"a.jsonl{suffix}")
    assert texts(opened(form)) == TEXTS * 3


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
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
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8"):
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
