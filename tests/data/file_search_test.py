"""Which files a path, a folder or a glob names: each once, whatever the links."""

import gzip
import json
import os
import pathlib
import tempfile

import pytest

from configs import base
from kronecker.data import preparation, sources
from kronecker.schema import resolution


def opened(form: str) -> sources.Source:
    data = base.get_config().data
    data.source = form
    return sources.open_source(data)


def texts(form: str) -> list[str]:
    return [document.text for unit in opened(form).units for document in unit.read(0)]


def write(file: pathlib.Path, *named: str) -> pathlib.Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"text": text}) + "\n" for text in named).encode()
    file.write_bytes(gzip.compress(content) if file.suffix.lower() == ".gz" else content)
    return file


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two files, with a circle of folders, a link and a hard link to files."""
    write(tmp_path / "loop" / "a.jsonl", "a")
    write(tmp_path / "loop" / "sub" / "b.jsonl", "b")
    (tmp_path / "loop" / "sub" / "up").symlink_to("..")
    (tmp_path / "loop" / "latest.jsonl").symlink_to("a.jsonl")
    os.link(tmp_path / "loop" / "sub" / "b.jsonl", tmp_path / "loop" / "sub" / "c.jsonl")
    return tmp_path / "loop"


@pytest.mark.parametrize(
    "glob", ["", "/**/*.jsonl", "/**", "/**/sub/**/*.jsonl", "/**/**/*.json[l]", "/sub/up/**/*.jsonl"]
)
def test_every_file_is_read_once_whatever_links_lead_to_it(loop: pathlib.Path, glob: str):
    assert set(texts(f"jsonl:{loop}{glob}")) == {"a", "b"}
    assert len(texts(f"jsonl:{loop}{glob}")) == 2
    assert opened(f"jsonl:{loop}{glob}").left_out > 0


@pytest.mark.parametrize("glob", ["", "/**", "/**/**/*.jsonl", "/**/*/**/*.jsonl", "/**/[s]*/../**/*.jsonl"])
def test_names_without_a_link_are_no_further_ones(tmp_path: pathlib.Path, glob: str):
    write(tmp_path / "sub" / "inner" / "a.jsonl", "a")
    assert opened(f"jsonl:{tmp_path}{glob}").left_out == 0


def test_the_order_is_that_of_the_files_and_not_of_the_links(tmp_path: pathlib.Path):
    for name in "bca":
        write(tmp_path / "files" / f"{name}.jsonl", name)
    (tmp_path / "links").mkdir()
    for link, name in zip("123", "cab", strict=True):
        (tmp_path / "links" / f"{link}.jsonl").symlink_to(tmp_path / "files" / f"{name}.jsonl")
    assert texts(f"jsonl:{tmp_path}/links") == texts(f"jsonl:{tmp_path}/files") == ["a", "b", "c"]


def test_folders_that_all_link_to_all_are_searched_at_once(tmp_path: pathlib.Path):
    write(tmp_path / "0" / "a.jsonl", "a")
    for here in range(12):
        (tmp_path / f"{here}").mkdir(exist_ok=True)
        for there in range(12):
            (tmp_path / f"{here}" / f"to{there}").symlink_to(f"../{there}")
    assert texts(f"jsonl:{tmp_path}") == texts(f"jsonl:{tmp_path}/**/*/**/*.jsonl") == ["a"]


def test_preparation_says_how_many_names_are_left_out(loop: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    c = base.get_config()
    c.data.update({"source": f"jsonl:{loop}", "folder": str(loop.parent / "data"), "validation_fraction": 0.5})
    preparation.ensure_prepared(resolution.resolve(c))
    assert "jsonl-loop: 3 further names of its files, by links, are left out\n" in capsys.readouterr().err


def test_the_content_of_a_link_without_suffix_says_how_it_is_compressed(tmp_path: pathlib.Path):
    write(tmp_path / "blobs" / "a.gz", "zipped").rename(tmp_path / "blobs" / "4f2a9c")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "part.jsonl.gz").symlink_to("../../blobs/4f2a9c")
    (snapshot / "bare").symlink_to("../../blobs/4f2a9c")
    assert texts(f"jsonl:{tmp_path}") == texts(f"jsonl:{snapshot}/bare") == ["zipped"]


def test_texts_may_be_compressed_too(tmp_path: pathlib.Path):
    (tmp_path / "a.TXT.gz").write_bytes(gzip.compress(b"zipped"))
    assert texts(f"text:{tmp_path}") == ["zipped"]


@pytest.mark.parametrize("folder", ["data[1]", "what?", "a*b", "{x} [!y]", "back\\slash", "neu\nline"])
def test_characters_of_globs_in_real_names_are_taken_as_they_stand(tmp_path: pathlib.Path, folder: str):
    write(tmp_path / folder / "file[2].JSONL.GZ", "mine")
    write(tmp_path / folder / "b.NDJSON", "also")
    write(tmp_path / "data1" / "c.jsonl", "other")
    assert texts(f"jsonl:{tmp_path}/{folder}") == ["also", "mine"]
    assert texts(f"jsonl:{tmp_path}/{folder}/*") == ["also", "mine"]
    assert texts(f"jsonl:{tmp_path}/{folder}/file[2].JSONL.GZ") == ["mine"]


def test_hidden_files_and_folders_are_left_alone(tmp_path: pathlib.Path):
    write(tmp_path / ".cache" / "a.jsonl", "a")
    write(tmp_path / ".b.jsonl", "b")
    write(tmp_path / "c.jsonl", "c")
    assert texts(f"jsonl:{tmp_path}") == texts(f"jsonl:{tmp_path}/**/*.jsonl") == ["c"]
    assert texts(f"jsonl:{tmp_path}/.cache/*.jsonl") == ["a"]


def test_what_is_no_file_is_named_and_nothing_waits_for_it(tmp_path: pathlib.Path):
    write(tmp_path / "a.jsonl" / "b.jsonl", "in a folder with the name of a file")
    assert len(texts(f"jsonl:{tmp_path}")) == 1
    os.mkfifo(tmp_path / "c.jsonl")
    for form in (f"jsonl:{tmp_path}", f"jsonl:{tmp_path}/c.jsonl", f"parquet:{tmp_path}/c.*", "text:/dev/zero"):
        with pytest.raises(ValueError, match=r"(c.jsonl|zero) is neither a file nor a folder"):
            opened(form)
    (tmp_path / "c.jsonl").unlink()
    for target in ("nowhere", "d.jsonl"):
        (tmp_path / "d.jsonl").symlink_to(target)
        with pytest.raises(OSError, match=r"d.jsonl leads to no file or folder \(.*\); mend or delete the link"):
            opened(f"jsonl:{tmp_path}")
        (tmp_path / "d.jsonl").unlink()


def test_a_folder_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are shut for other users
        root = pathlib.Path(folder)
        write(root / "shut" / "a.jsonl", "a")
        root.chmod(0o755)
        (root / "shut").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read everything
        try:
            with pytest.raises(PermissionError) as refused:
                opened(f"jsonl:{root}")
            assert refused.value.filename == str(root / "shut")
        finally:
            os.seteuid(user)
            (root / "shut").chmod(0o755)
