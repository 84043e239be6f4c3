"""Runs and datasets in an object store: the real clients (gcsfs, tensorstore) against an emulator of Google's."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import jax
import ml_collections
import numpy as np
import pytest
import tiny_runs
from etils import epath

from kronecker.data import preparation, remote, rows
from kronecker.run import rundir, sinks
from kronecker.runtime import device_mesh, sharding, storage
from kronecker.training import checkpoint

ROOT = Path(__file__).parents[2]
# The emulator does not say which generation of an object was read; tensorstore, which replaces none but that, wants it.
SERVER = """
import signal, sys, urllib.parse
from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects
download = objects.download
def with_generation(request, response, storage, *_, **__):
    download(request, response, storage)
    if response.status < 300:
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]
objects.download = with_generation
answer = server.RequestHandler.do_GET
def unless_refused(request):
    refused = open(sys.argv[2]).read()
    if not refused or refused not in urllib.parse.unquote(request.path):
        return answer(request)
    request.send_response(403)
    request.send_header("Content-Length", "0")
    request.end_headers()
server.RequestHandler.do_GET = unless_refused
server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
print("ready", flush=True)
signal.pause()
"""
NOBODY = 65_534  # a user without rights
STEPS = 12
OPTIONS = tiny_runs.OPTIONS | {
    "tokenizer": "bpe:300",
    "train.steps": STEPS,
    "checkpoint.every": 4,
    "mesh.cpu_devices": 1,
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with a part of the names of objects that the store refuses to give."""
    file = tmp_path_factory.mktemp("store") / "refused"
    file.write_text("")
    return file


@pytest.fixture(scope="module")
def store(refused: Path) -> Iterator[dict[str, str]]:
    """An object store with one empty bucket, `bucket`; yields the variables that lead a process there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), str(refused)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout.readline() == "ready\n"
    address = f"http://127.0.0.1:{port}"
    variables = {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # tensorstore looks for no credentials then
        "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for a kind of bucket that the emulator does not know
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon", "use_listings_cache": False})
        yield variables
    server.terminate()  # its thread has no other end
    server.wait()
    server.stdout.close()


@pytest.fixture
def bucket(store: dict[str, str], request: pytest.FixtureRequest) -> epath.Path:
    return epath.Path(f"gs://bucket/{request.node.name}")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    tiny_runs.write_texts(folder)
    return folder


def run(*words: Any, cache: Path, **keywords: Any) -> subprocess.Popen:
    """Starts a script in a folder of its own, where a path that is taken for a local one would leave its traces."""
    elsewhere = cache / "elsewhere"
    elsewhere.mkdir(parents=True, exist_ok=True)
    script, *rest = map(str, words)
    environment = os.environ | {"KRONECKER_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / script), *rest]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=elsewhere, env=environment, **pipes)


def finished(*words: Any, cache: Path) -> str:
    process = run(*words, cache=cache)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert not list((cache / "elsewhere").iterdir())
    return out


def training(workdir: Any, folder: Any, text: Path, **options: Any) -> list[str]:
    values = OPTIONS | {"data.folder": folder, "data.source": f"text:{text}"}
    values |= {key.replace("__", "."): value for key, value in options.items()}
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    return ["train.py", f"--config={ROOT}/configs/demo.py", f"--workdir={workdir}", *overrides]


def losses(workdir: Any) -> dict[str, float]:
    found = [json.loads(line) for line in (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return {f"{line['kind']} {line['step']}": line["loss"] for line in found}


def wait_for(there: Any, process: subprocess.Popen) -> None:
    while not there() and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket: epath.Path, text: Path, tmp_path: Path):
    finished(*training(tmp_path / "run", tmp_path / "data", text), cache=tmp_path / "cache")
    finished(*training(bucket / "run", bucket / "data", text), cache=tmp_path / "cache")
    assert losses(bucket / "run") == losses(tmp_path / "run")
    names = {"config.json", "env.json", "params.json", "metrics.jsonl", "result.json", "checkpoints"}
    assert {file.name for file in (bucket / "run").iterdir()} == names
    assert {file.name for file in (bucket / "run" / "checkpoints").iterdir()} == {"8", "12"}
    env = json.loads((bucket / "run" / "env.json").read_text())
    [made] = (bucket / "data").iterdir()
    assert env["data"] == str(made)
    # Another machine has neither the text nor a copy of the dataset.
    shutil.move(text, tmp_path / "gone")
    try:
        said = finished("eval.py", f"--workdir={bucket}/run", cache=tmp_path / "another")
        finished("scripts/token_losses.py", bucket / "run", cache=tmp_path / "another")
        compared = finished("scripts/compare.py", bucket, "--baseline=kronecker", cache=tmp_path / "another")
    finally:
        shutil.move(tmp_path / "gone", text)
    with (bucket / "run" / "token_losses.npz").open("rb") as file:
        nats = np.load(file)["nats"]
    assert f"{nats.mean(dtype=np.float64):.4f}" in compared
    assert f"Losses are over all {len(nats):,} held-out tokens" in compared
    assert said.startswith(f"{bucket}/run step {STEPS}: ")
    with (bucket / "run" / "token_losses.npz").open("rb") as file, np.load(file) as arrays:
        assert arrays["step"] == STEPS


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_goes_on_from_its_checkpoint(bucket: epath.Path, text: Path, tmp_path: Path):
    words = training(bucket / "run", bucket / "data", text)
    finished(*training(bucket / "undisturbed", bucket / "data", text), cache=tmp_path)
    process = run(*words, cache=tmp_path)
    wait_for(lambda: rundir.has_checkpoint(bucket / "run"), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (bucket / "run" / "result.json").exists()
    first = max(int(step.name) for step in (bucket / "run" / "checkpoints").iterdir() if step.name.isdigit())
    assert f"train {first}" in losses(bucket / "run")  # what the checkpoint goes on from is there
    finished(*words, cache=tmp_path)
    assert losses(bucket / "run") == losses(bucket / "undisturbed")


def test_a_checkpoint_that_is_half_in_the_bucket_is_none(bucket: epath.Path):
    step = bucket / "run" / "checkpoints" / "4"
    (step / "state" / "manifest.ocdbt").write_bytes(b"half")
    other = configured("data", "stdlib").to_dict() | {"seed": 7}
    (bucket / "run" / "config.json").write_text(json.dumps(other))
    assert not rundir.has_checkpoint(bucket / "run")
    keep = ml_collections.ConfigDict({"checkpoint": {"keep": 1, "keep_every": 0}})
    with checkpoint.open_manager(bucket / "run", keep) as manager:
        assert manager.latest_step() is None  # and orbax is of the same opinion
    rundir.check_same_run(bucket / "run", configured("data", "stdlib"))  # nothing to lose: begins anew
    (step / "state" / "manifest.ocdbt").write_bytes(b"half")
    (step / "commit_success.txt").write_text("")
    assert rundir.has_checkpoint(bucket / "run")
    with checkpoint.open_manager(bucket / "run", keep) as manager:
        assert manager.latest_step() == 4
    with pytest.raises(ValueError, match="holds a run of another config"):
        rundir.check_same_run(bucket / "run", configured("data", "stdlib"))


KEEP = ml_collections.ConfigDict({"checkpoint": {"keep": 2, "keep_every": 0}})


def saved_twice(folder: epath.Path) -> dict[str, jax.Array]:
    """Returns a state of which steps 1 and 2 are saved in a run's folder."""
    state = jax.device_put({"w": np.arange(4.0)}, sharding.replicated(device_mesh.make_mesh()))
    with checkpoint.open_manager(folder, KEEP) as manager:
        for step in (1, 2):
            checkpoint.save(manager, step, state, {})
    return state


@pytest.mark.parametrize("part", ["identity/metadata", "state/manifest.ocdbt"])
def test_a_fault_of_the_network_is_no_damage(bucket: epath.Path, refused: Path, part: str):
    state = saved_twice(bucket)
    refused.write_text(f"checkpoints/2/{part}")
    with pytest.raises(OSError, match=r"/checkpoints/2/.* cannot be read now .* no damage, so nothing is changed"):
        checkpoint.resume(bucket, state, {})
    refused.write_text("")
    assert checkpoint.resume(bucket, state, {})[0] == 2
    assert not (bucket / "damaged-checkpoints").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights from another user and give them back")
@pytest.mark.parametrize("part", ["identity", "state/d", "state/manifest.ocdbt"])
def test_files_that_may_not_be_read_are_no_damage(part: str):
    with tempfile.TemporaryDirectory() as folder:
        state = saved_twice(epath.Path(folder))
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, NOBODY, -1)
        (Path(folder) / "checkpoints" / "2" / part).chmod(0)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(OSError, match=r"cannot be read now .*Permission denied"):
                checkpoint.resume(epath.Path(folder), state, {})
        finally:
            os.seteuid(0)
        assert rundir.saved_steps(epath.Path(folder)) == [2, 1]


def test_a_damaged_checkpoint_in_the_bucket_is_passed_over_and_kept(bucket: epath.Path):
    state = saved_twice(bucket)
    manifest = "state/manifest.ocdbt"
    (bucket / "checkpoints" / "2" / manifest).write_bytes(b"half")
    found = checkpoint.resume(bucket, state, {})
    assert found[0] == 1
    np.testing.assert_array_equal(found[1]["w"], np.arange(4.0))
    assert {folder.name for folder in (bucket / "checkpoints").iterdir()} == {"1"}
    assert (bucket / "damaged-checkpoints" / "2" / manifest).read_bytes() == b"half"
    with checkpoint.open_manager(bucket, KEEP) as manager:
        checkpoint.save(manager, 2, state, {})
    assert rundir.saved_steps(bucket) == [2, 1]


def test_lines_reach_the_bucket_at_a_sync_and_at_the_end(bucket: epath.Path):
    lines = storage.Lines(bucket / "lines", ["kept"])
    assert (bucket / "lines").read_text() == "kept\n"
    lines.append("one")
    lines.append("two")
    assert (bucket / "lines").read_text() == "kept\n"
    lines.sync()
    assert (bucket / "lines").read_text() == "kept\none\ntwo\n"
    lines.append("three")
    lines.close()
    assert (bucket / "lines").read_text() == "kept\none\ntwo\nthree\n"


def test_lines_reach_the_bucket_after_a_while(bucket: epath.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_UPLOADS", 0.0)
    lines = storage.Lines(bucket / "lines", [])
    lines.append("one")
    assert (bucket / "lines").read_text() == "one\n"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what reaches the disk itself, in order."""
    names, fsync = [], os.fsync

    def recorded(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return names


def test_lines_reach_a_disk_at_once_and_outlive_a_power_cut_after_a_sync(tmp_path: Path, synced: list[str]):
    lines = storage.Lines(epath.Path(tmp_path / "lines"), ["kept"])
    synced.clear()
    lines.append("one")
    assert (tmp_path / "lines").read_text() == "kept\none\n"
    assert not synced
    lines.sync()
    assert synced == ["lines"]
    lines.close()


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(tmp_path: Path, synced: list[str]):
    with storage.writing(epath.Path(tmp_path / "file")) as file:
        file.write(b"all")
    assert synced == [f"file.{storage.of_this_process()}.tmp", tmp_path.name]
    synced.clear()
    with storage.renamed(tmp_path / "folder", locked=True) as folder:
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "file").write_text("all")
    assert synced == ["file", "in", "folder.tmp", tmp_path.name]


def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path: Path, small_disk: Path):
    for place, content in ((tmp_path / "none" / "file", b""), (small_disk / "file", bytes(2**22))):
        with pytest.raises(OSError) as caught, storage.writing(epath.Path(place)) as file:
            file.write(content)
        assert (caught.value.filename, caught.value.filename2) == (str(place), None)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError) as caught, storage.writing(epath.Path(small_disk / "file")) as file:
        file.write(b"")
    assert caught.value.filename == str(small_disk / "file")


def test_metrics_in_a_bucket_drop_what_lies_beyond_the_checkpoint(bucket: epath.Path):
    for resume_step, new in ((0, (1, 2, 3)), (2, (3, 4))):
        sink = sinks.JsonLines(bucket, resume_step)
        for step in new:
            sink.write({"kind": "held", "step": step, "seconds": 1.0, "try": resume_step})
        sink.close()
    assert [(line["step"], line["try"]) for line in sinks.read(bucket)] == [(1, 0), (2, 0), (3, 2), (4, 2)]


@pytest.mark.parametrize("remotely", [False, True])
def test_a_writer_that_fails_leaves_what_was_there(bucket: epath.Path, tmp_path: Path, remotely: bool):
    path = (bucket if remotely else epath.Path(tmp_path)) / "file"
    with storage.writing(path) as file:
        file.write(b"before")
    with pytest.raises(ZeroDivisionError), storage.writing(path) as file:
        file.write(b"half")
        file.write(1 / 0)
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("path", ["s3://bucket/run", "ftp://host/run", "gs://"])
def test_a_place_that_cannot_be_opened_is_refused_with_what_can(path: str):
    with pytest.raises(ValueError, match=f"--workdir={path}: unknown kind of path; allowed: a local path, or gs://"):
        storage.open_path(path, "--workdir")


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "CLIENTS", {"gs": "no_such_package"})
    with pytest.raises(ValueError, match=r"needs the package no_such_package; pip install --editable \"\.\[gcs\]\""):
        storage.open_path("gs://bucket/run")


def configured(folder: Any, source: str) -> Any:
    from configs import base
    from kronecker.schema import resolution

    c = base.get_config()
    c.tokenizer = "bpe:300"
    c.data.update({"folder": str(folder), "source": source})
    return resolution.resolve(c)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: Any) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in epath.Path(folder).iterdir()}


def test_a_dataset_made_for_a_bucket_is_the_one_made_on_a_disk(
    bucket: epath.Path, cache: Path, text: Path, tmp_path: Path
):
    local, _ = preparation.ensure_prepared(configured(tmp_path / "data", f"text:{text}"))
    made, tokenizer = preparation.ensure_prepared(configured(bucket, f"text:{text}"))
    assert made.location == bucket / local.folder.name
    assert contents(made.location) == contents(made.folder) == contents(local.folder)
    assert Path(made.folder).parent == cache
    again, _ = preparation.ensure_prepared(configured(tmp_path, f"prepared:{made.location}"))
    assert again == made
    assert next(rows.train_batches(again, 16, 4, 0)).max() < tokenizer.vocab_size


def test_a_machine_without_a_copy_makes_one_and_goes_on_where_it_was_cut_off(
    bucket: epath.Path, cache: Path, text: Path
):
    made, _ = preparation.ensure_prepared(configured(bucket, f"text:{text}"))
    expected = contents(made.folder)
    shard = next(Path(made.folder).glob("*-train.array_record-*"))
    inode = shard.stat().st_ino
    for file in Path(made.folder).iterdir():
        if file != shard:
            file.unlink()
    (Path(made.folder) / "features.json.tmp").write_text("half")
    copied, _ = preparation.ensure_prepared(configured(bucket, f"text:{text}"))
    assert contents(copied.folder) == expected
    assert shard.stat().st_ino == inode


def test_a_shard_that_arrives_damaged_is_named_and_not_kept(bucket: epath.Path, cache: Path, text: Path):
    made, _ = preparation.ensure_prepared(configured(bucket, f"text:{text}"))
    shutil.rmtree(cache)
    shard = made.location / made.manifest["splits"]["train"]["shards"][0]["file"]
    shard.write_bytes(shard.read_bytes().replace(b"tokens", b"nekots", 1))
    with pytest.raises(ValueError, match=f"^{shard} is damaged: its sha256 is .*prepare the data again"):
        preparation.ensure_prepared(configured(bucket, f"text:{text}"))
    assert not list(cache.glob("*/manifest.json")) + list(cache.glob(f"*/{shard.name}"))


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import pathlib\n\nprint(pathlib)\n", "TID251"),
        ("from pathlib import Path\n\nprint(Path)\n", "TID251"),
        ("import shutil\n\nprint(shutil)\n", "TID251"),
        ('with open("config.json") as file:\n    print(file)\n', "PTH123"),
    ],
)
@pytest.mark.parametrize("module", ["kronecker/training/loop.py", "kronecker/run/finished_runs.py", "train.py"])
def test_the_linter_refuses_local_files_where_a_path_may_be_remote(code: str, rule: str, module: str):
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", f"--stdin-filename={module}", "-"]
    done = subprocess.run(command, input=f'"""Doc."""\n\n{code}', cwd=ROOT, capture_output=True, text=True)
    assert [line.split()[1] for line in done.stdout.splitlines() if ": " in line] == [rule]


def test_a_page_is_not_written_to_a_bucket():
    with pytest.raises(ValueError, match=r"^gs://bucket/report\.html: .* name a local file with --out$"):
        storage.local_file("gs://bucket/report.html", "--out")


def test_the_folder_of_a_file_to_be_written_is_made_and_one_in_its_place_is_refused_before_any_work(tmp_path: Path):
    file = tmp_path / "new" / "folder" / "report.json"
    storage.write_text(storage.local_file(str(file), "--json"), "{}")
    assert file.read_text() == "{}"
    with pytest.raises(ValueError, match=r"^--json=.*/new/folder is a folder; name a file$"):
        storage.local_file(str(file.parent), "--json")
    command = [sys.executable, ROOT / "scripts" / "probe.py", tmp_path / "no_run", f"--json={file.parent}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: --json={file.parent} is a folder; name a file\n")


WRITER = """
import pathlib, sys
from kronecker.runtime import storage
with storage.renamed(pathlib.Path(sys.argv[1])) as mine:
    mine.write_text("BBB")
    print(mine.name, flush=True)
    sys.stdin.readline()
"""


def test_of_two_writers_at_once_the_last_one_wins_whole(tmp_path: Path):
    file = tmp_path / "page.html"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, file], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        with storage.renamed(file) as mine:
            assert other.stdout.readline().strip() != mine.name
            mine.write_text("A")
        assert file.read_text() == "A"
        other.communicate("\n")
    assert other.returncode == 0
    assert file.read_text() == "BBB"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
