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
import zipfile
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
import safetensors.numpy
import tiny_runs
from disturbed import HARMLESS, WRONG, Tally
from etils import epath

from kronecker import tokenization
from kronecker.data import hub, manifests, preparation, readers, remote, shards, sources
from kronecker.interop import gpt2_folder, llama_weights, tensors
from kronecker.model import transformer
from kronecker.probes import prompts
from kronecker.report import compare, inputs, losses_by_token, other_texts
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
    file = folder / "rows.parquet"
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 150, pa.int32()), pa.array(["a" * (8 << 20)]))
    pq.write_table(pa.table({"text": same}), file, compression="zstd", store_schema=False)
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


def read_losses_bombs(folder: Path) -> Tally:
    """Reads token losses of which one array unpacks to 600 MB, and others whose header declares 8 TB."""
    tally, file, run = Tally(), folder / "run" / rundir.TOKEN_LOSSES, finished_runs.read(epath.Path(folder / "run"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    header = "\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }"
    for length, megabytes, words in ((MEGABYTES << 18, MEGABYTES, "unpacks to"), (2 * 10**12, 0, "allocate|EOF|read")):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made, made.open("nats.npy", "w") as member:
            member.write(f"{header % length:127}\n".encode("latin-1"))
            for _ in range(megabytes):
                member.write(bytes(1 << 20))

        def tell(words: str = words) -> str:
            with pytest.raises(
                ValueError, match=rf"token_losses\.npz: damaged \(.*({words}).*--again {run.folder}$"
            ) as raised:
                losses_by_token.read(run)
            raise raised.value

        disturbed.tried(tally, "decompression bomb", f"token losses, {words}", tell)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10
    return tally


def test_token_losses_that_declare_gigabytes_are_refused_in_bounded_memory(tmp_path: Path, tally: Tally):
    write_two_runs(tmp_path)
    tally.update(disturbed.isolated(read_losses_bombs, tmp_path, memory=MEMORY, seconds=120))
    tally.check()


def write_two_runs(folder: Path) -> None:
    for name, arm in {"run": "kronecker", "other": "table_untied"}.items():
        run_folders.write_run(folder / name, arm, 0, 4.5)


def readers_of(folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Returns the name of a file in a folder, which holds a run -> what reads it."""
    run, other = (finished_runs.read(epath.Path(folder / name)) for name in ("run", "other"))
    (folder / "llama").mkdir()
    safetensors.numpy.save_file({"x": np.zeros(1)}, folder / "llama" / tensors.SINGLE)
    state = {"w": jax.device_put(np.arange(4.0), sharding.replicated(device_mesh.make_mesh()))}
    keep = ml_collections.ConfigDict({"checkpoint": {"keep": 1, "keep_every": 0}})
    with checkpoint.open_manager(epath.Path(folder / "saved"), keep) as manager:
        checkpoint.save(manager, 1, state, {})
    shape = transformer.Shape(**dict.fromkeys((field.name for field in dataclasses.fields(transformer.Shape)), 1))
    return {
        **{
            f"run/{name}": lambda file: finished_runs.read(epath.Path(file.parent))
            for name in (rundir.CONFIG, rundir.ENV, rundir.PARAMS, rundir.RESULT, sinks.METRICS)
        },
        f"run/{rundir.TOKEN_LOSSES}": lambda _: losses_by_token.read(run),
        f"run/{rundir.HELD_OUT}": lambda _: losses_by_token.documents(run),
        f"run/{rundir.INPUT_USE}": lambda _: inputs.read(run),
        f"run/{rundir.TEXTS}/x.json": lambda _: other_texts.compared(compare.compare([run, other])),
        **{
            f"saved/checkpoints/1/{name}": lambda _: checkpoint.restore(epath.Path(folder / "saved"), state, {})
            for name in ("identity/metadata", "state/_METADATA", "state/manifest.ocdbt")
        },
        f"data/{manifests.MANIFEST}": lambda file: manifests.open_prepared(file.parent),
        "data/part-00000-00000.json": lambda file: shards.finished_parts(file.parent, 0),
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


def read_endless(folder: Path) -> Tally:
    """Tries each reader on a folder where a file that it reads is a pipe, or leads to a device."""
    tally = Tally()
    for name, read in readers_of(folder).items():
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


def read_huge(folder: Path) -> Tally:
    """Tries each reader on a sparse file of 5 GB in place of one that it reads; a small one is named with its limit."""
    tally = Tally()
    for name, read in {**readers_of(folder), "config.py": lambda file: config_files.load(str(file))}.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        before = file.read_bytes() if file.exists() else None
        with file.open("wb") as sparse:
            sparse.truncate(5 << 30)
        whole = file.suffix in (".json", ".model", ".py") or file.name in (
            "ranks",
            "metadata",
            "_METADATA",
            "manifest.ocdbt",
        )
        words = rf"{file}\b.* has 5,368,709,120 bytes.* at most [\d,]+; " if whole else "."

        def tell(words: str = words) -> str:
            with pytest.raises(disturbed.BAD_INPUT, match=words) as raised:
                read(file)  # noqa: B023
            raise raised.value

        disturbed.tried(tally, "file of 5 GB", name, tell)
        file.unlink() if before is None else file.write_bytes(before)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert grown < (1 << 30) >> 10, f"{grown:,} kB"
    return tally


def test_a_file_of_5_gb_in_place_of_a_small_one_is_refused_with_its_size_and_the_limit(tmp_path: Path, tally: Tally):
    write_two_runs(tmp_path)
    tally.update(disturbed.isolated(read_huge, tmp_path, memory=16 << 30, seconds=120))
    tally.check()


def test_a_pipe_a_device_or_a_folder_in_place_of_a_file_is_refused_at_once(tmp_path: Path, tally: Tally):
    write_two_runs(tmp_path)
    tally.update(disturbed.isolated(read_endless, tmp_path, seconds=60))
    tally.check()
