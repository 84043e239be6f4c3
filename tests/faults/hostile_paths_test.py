"""Names that lead out of their folder, and little files that hold much: refused, or read in bounded memory."""

import dataclasses
import gzip
import hashlib
import http.server
import json
import lzma
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import disturbed
import jax
import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_folders
import tiny_runs
from disturbed import HARMLESS, WRONG, Tally
from etils import epath

from kronecker import tokenization
from kronecker.data import hub, manifests, preparation, readers, remote, sources
from kronecker.interop import gpt2_folder, llama_weights, tensors
from kronecker.model import transformer
from kronecker.probes import prompts
from kronecker.report import losses_by_token
from kronecker.run import finished_runs, rundir, sinks
from kronecker.runtime import device_mesh, sharding
from kronecker.schema import config_files, resolution
from kronecker.training import checkpoint

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


def documents(source: str) -> Iterator[readers.Document]:
    data = config_files.load("configs/demo.py").data
    data.source = source
    for unit in sources.open_source(data).units:
        yield from unit.read(0)


def read_bomb(source: str) -> Tally:
    tally = Tally()

    def read() -> str:
        return HARMLESS if sum(1 for _ in documents(source)) else WRONG

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


def read_endless(folder: Path) -> Tally:
    """Tries each reader on a folder where a file that it reads is a pipe, or leads to a device."""
    run = finished_runs.read(epath.Path(folder / "run"))
    state = {"w": jax.device_put(np.arange(4.0), sharding.replicated(device_mesh.make_mesh()))}
    keep = ml_collections.ConfigDict({"checkpoint": {"keep": 1, "keep_every": 0}})
    with checkpoint.open_manager(epath.Path(folder / "run"), keep) as manager:
        checkpoint.save(manager, 1, state, {})
    shape = transformer.Shape(**dict.fromkeys((field.name for field in dataclasses.fields(transformer.Shape)), 1))
    reading: dict[str, Callable[[Path], Any]] = {
        **{
            f"run/{name}": lambda file: finished_runs.read(epath.Path(file.parent))
            for name in (rundir.CONFIG, rundir.ENV, rundir.PARAMS, rundir.RESULT, sinks.METRICS)
        },
        f"run/{rundir.TOKEN_LOSSES}": lambda _: losses_by_token.read(run),
        **{
            f"run/checkpoints/1/{name}": lambda _: checkpoint.restore(epath.Path(folder / "run"), state, {})
            for name in ("identity/metadata", "state/_METADATA", "state/manifest.ocdbt")
        },
        f"data/{manifests.MANIFEST}": lambda file: manifests.open_prepared(file.parent),
        "data/listing-x.json": lambda file: hub.pinned_listing("x/y", "x", file.parent),
        "tokenizer.json": lambda file: tokenization.load(f"tokenizers:{file}"),
        "tokenizer.model": lambda file: tokenization.load(f"sentencepiece:{file}"),
        "ranks": lambda file: tokenization.load(f"tiktoken:{file}"),
        "pairs.json": prompts.read_pairs,
        "text.jsonl": lambda file: list(documents(f"jsonl:{file}")),
        "text.parquet": lambda file: list(documents(f"parquet:{file.parent}")),
        "gpt2/config.json": lambda file: gpt2_folder.read(str(file.parent), shape),
        "llama/config.json": lambda file: llama_weights.read(file.parent),
        tensors.SINGLE: tensors.input_table,
        f"x/{tensors.INDEX}": lambda file: tensors.input_table(file.parent),
        "x.gguf": tensors.input_table,
    }
    tally = Tally()
    for name, read in reading.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        before = file.read_bytes() if file.exists() else None
        for kind, put in {
            "pipe": os.mkfifo,
            "device": lambda file: file.symlink_to("/dev/zero"),
            "folder": Path.mkdir,
        }.items():
            file.unlink(missing_ok=True)
            put(file)
            disturbed.tried(tally, "pipe, device or folder", f"{kind} {name}", lambda: (read(file), WRONG)[1])  # noqa: B023
            file.rmdir() if kind == "folder" else file.unlink()
        if before is not None:
            file.write_bytes(before)
    return tally


def test_a_pipe_a_device_or_a_folder_in_place_of_a_file_is_refused_at_once(tmp_path: Path, tally: Tally):
    run_folders.write_run(tmp_path / "run", "kronecker", 0, 4.5)
    tally.update(disturbed.isolated(read_endless, tmp_path, seconds=60))
    tally.check()
