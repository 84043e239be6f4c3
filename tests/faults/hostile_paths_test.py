"""Names that lead out of their folder, and little files that hold much: refused, or read in bounded memory."""

import gzip
import hashlib
import http.server
import json
import lzma
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import disturbed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_runs
from disturbed import HARMLESS, WRONG, Tally
from etils import epath

from kronecker.data import hub, manifests, preparation, remote, sources
from kronecker.schema import config_files, resolution

OUTSIDE = "outside.array_record"
NAMES = (
    f"../{OUTSIDE}",
    f"../../{OUTSIDE}",
    "/{root}/" + OUTSIDE,
    f"x/../../{OUTSIDE}",
    f"..\\{OUTSIDE}",
    "..",
    "",
    "x/y",
)
MEGABYTES = 600  # of a line in a file that takes a thousandth on the disk
MEMORY = 500 << 20  # that reading it may take; a document may have 64 MB


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths")
    (folder / "text").mkdir()
    tiny_runs.write_texts(folder / "text")
    config = config_files.load("configs/demo.py")
    config.tokenizer, config.data.folder = "gpt2", str(folder / "data")
    config.data.source = f"text:{folder / 'text'}"
    prepared, _ = preparation.ensure_prepared(resolution.resolve(config))
    return Path(prepared.folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reader", ["training", "copying"])
def test_a_manifest_reaches_no_file_outside_its_folder(
    name: str, reader: str, dataset: Path, tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = disturbed.copied(dataset, tmp_path / "a" / "b" / "dataset")
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    shard = manifest["splits"]["train"]["shards"][0]
    for place in (folder.parent, folder.parent.parent, tmp_path):  # there is such a file
        (place / OUTSIDE).write_bytes((folder / shard["file"]).read_bytes())
    shard["file"] = name.replace("/{root}", str(tmp_path))
    (folder / manifests.MANIFEST).write_text(
        json.dumps(manifest | {"fingerprint": manifests.content_fingerprint(manifest)})
    )
    before = {path for path in tmp_path.rglob("*") if path.is_file()}

    def read() -> str:
        if reader == "training":
            manifests.open_prepared(folder)
        else:
            remote.fetch(epath.Path(folder), lambda share, words: None)
        return WRONG

    disturbed.tried(tally, "path traversal", f"{reader} of {name!r}", read)
    made = set(tmp_path.rglob("*.array_record*")) - before
    assert not [path for path in made if tmp_path / "cache" not in path.parents or path.name == OUTSIDE]
    tally.check()


class _Hub(http.server.BaseHTTPRequestHandler):
    """Lists one file under a hostile path, and serves it."""

    path_listed = ""
    content = b"PAR1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        digest = hashlib.sha256(self.content).hexdigest()
        entry = {"type": "file", "oid": "0", "size": 4, "path": self.path_listed, "lfs": {"oid": digest}}
        listing = {"/revision/": {"sha": "c0ffee"}, "/tree/": [entry]}
        found = next(
            (json.dumps(answer).encode() for part, answer in listing.items() if part in self.path), self.content
        )
        self.send_response(200)
        self.send_header("content-length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)


@pytest.fixture
def hostile_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "RETRIES", hub.RETRIES | {"max_retries": 1, "base_wait_time": 0.01})
    yield _Hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["../../x.parquet", "/tmp-x/x.parquet", "data/../../../x.parquet", "data/x\0.parquet"])
def test_a_hub_puts_no_file_outside_the_folder_of_downloads(
    path: str, hostile_hub: type[_Hub], tmp_path: Path, tally: Tally
):
    hostile_hub.path_listed = path.replace("/tmp-x", str(tmp_path / "elsewhere"))
    folder = tmp_path / "a" / "b" / "downloads"

    def read() -> str:
        listing = hub.pinned_listing("x/y", "data", folder)
        hub.download(listing, listing.files, folder)
        return HARMLESS

    disturbed.tried(tally, "path traversal", f"hub lists {path!r}", read)
    strays = [file for file in tmp_path.rglob("*") if file.is_file() and folder not in file.parents]
    assert strays == []
    tally.check()


def bombs(folder: Path) -> dict[str, Path]:
    """Writes files whose only document is much longer than they are; returns source -> file."""
    begin, part, end = b'{"text": "', b"a" * (1 << 20), b'"}\n'
    packers = {
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    }
    found = {}
    for suffix, pack in packers.items():
        file = folder / f"line{suffix}" / f"bomb.jsonl{suffix}"
        file.parent.mkdir()
        file.write_bytes(pack(begin) + pack(part) * MEGABYTES + pack(end))
        found[f"jsonl:{file}"] = file
    # A frame of 5 bytes whose header asks for a window of 2 GB.
    file = folder / "window.jsonl.zst"
    document = b'{"text": "small"}\n'
    block = (len(document) << 3 | 1).to_bytes(3, "little") + document
    file.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + block)
    found[f"jsonl:{file}"] = file
    file = folder / "row.parquet"
    pq.write_table(pa.table({"text": ["a" * (MEGABYTES << 18)]}), file, compression="zstd")
    found[f"parquet:{file}"] = file
    file = folder / "line.txt"
    with file.open("wb") as sparse:
        sparse.truncate(MEGABYTES << 20)  # one line of so many NUL bytes, which take no room on the disk
    found[f"text:{file}"] = file
    return found


def read_bomb(source: str) -> Tally:
    tally = Tally()
    data = config_files.load("configs/demo.py").data
    data.source = source

    def read() -> str:
        sizes = [len(document.text) for unit in sources.open_source(data).units for document in unit.read(0)]
        return HARMLESS if sizes else WRONG

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    disturbed.tried(tally, "decompression bomb", source, read)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEMORY >> 10, f"{source}: {grown:,} kB"
    return tally


@pytest.mark.slow
def test_a_small_file_that_holds_much_is_refused_or_read_in_bounded_memory(tmp_path: Path, tally: Tally):
    for source in bombs(tmp_path):
        tally.update(disturbed.isolated(read_bomb, source, memory=MEMORY, seconds=120))
    tally.check()
