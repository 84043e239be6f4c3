import collections
import hashlib
import http.server
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import urllib.parse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kronecker.data import hub

ROOT = pathlib.Path(__file__).parents[2]
REPO = "HuggingFaceFW/fineweb-edu"
COMMIT = "c0ffee"
PAGE = 2  # files a page of the listing
BLOCK = 1_000_000  # a third of the blob
BLOCKS = ["bytes=0-999999", "bytes=1000000-1999999", "bytes=2000000-2999999"]


class LocalHub(http.server.ThreadingHTTPServer):
    """Serves `files` in the hub's API shape; `faults[path]` are what the next requests for a path get instead."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}
        self.faults = collections.defaultdict(list)
        self.requests = collections.defaultdict(list)
        self.ranges = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        kind = "revision" if "/revision/" in url.path else "tree" if "/tree/" in url.path else ""
        path = kind or url.path.removeprefix(f"/datasets/{REPO}/resolve/{COMMIT}/")
        self.server.requests[path].append(self.headers.get("range"))
        fault = self.server.faults[path].pop(0) if self.server.faults[path] else None
        if isinstance(fault, tuple):
            self.answer(fault[0], b"", {"retry-after": fault[1]})
        elif isinstance(fault, int):
            self.answer(fault, b"")
        elif isinstance(fault, bytes):
            self.answer(200, fault)
        elif fault == "refuse oddly":
            self.answer(404, b"[]", {"content-type": "application/json"})
        elif kind == "revision":
            self.answer(200, json.dumps({"sha": COMMIT}).encode())
        elif kind == "tree":
            self.tree(url)
        else:
            self.file(path, cut=fault == "drop")

    def tree(self, url):
        prefix = url.path.removeprefix(f"/api/datasets/{REPO}/tree/{COMMIT}/") + "/"
        page = int(urllib.parse.parse_qs(url.query).get("cursor", ["0"])[0])
        paths = [path for path in reversed(self.server.files) if path.startswith(prefix)]
        link = f'<{self.server.url}{url.path}?recursive=true&cursor={page + 1}>; rel="next"'
        more = {"link": link} if len(paths) > (page + 1) * PAGE else {}
        self.answer(200, json.dumps([self.entry(p) for p in paths[page * PAGE : (page + 1) * PAGE]]).encode(), more)

    def entry(self, path):
        content = self.server.files[path]
        sha256 = self.server.checksums.get(path, hashlib.sha256(content).hexdigest())
        return {"type": "file", "oid": "0", "size": len(content), "path": path, "lfs": {"oid": sha256}}

    def file(self, path, cut):
        content, header = self.server.files[path], self.headers.get("range")
        ranged = header and self.server.ranges
        first, last = map(int, header.removeprefix("bytes=").split("-")) if ranged else (0, len(content))
        body = content[first : last + 1]
        sent = body[: len(body) // 2] if cut else body
        self.answer(206 if ranged else 200, sent, {"content-length": str(len(body))})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    server = LocalHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(hub, "RETRIES", hub.RETRIES | {"max_retries": 3, "base_wait_time": 0.01})
    monkeypatch.setattr(hub, "BLOCK", BLOCK)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def blob(server):
    server.files = {"data/a.parquet": random.Random(0).randbytes(3_000_000)}
    return server.files["data/a.parquet"]


def fetch(folder, progress=lambda done, total: None):
    listing = hub.list_files(REPO, "data")
    return hub.download(listing, listing.files, folder, progress)


def test_a_listing_is_complete_and_sorted_over_pages_and_failures(server):
    server.files = {f"data/{name}.parquet": name.encode() for name in "edcba"} | {"data/read.me": b""}
    server.faults["revision"] = [503]
    server.faults["tree"] = [429, 500]
    listing = hub.list_files(REPO, "data")
    assert [file.path for file in listing.files] == [f"data/{name}.parquet" for name in "abcde"]
    assert listing.files[0] == hub.RemoteFile("data/a.parquet", 1, hashlib.sha256(b"a").hexdigest())


ENTRY = {"type": "file", "size": 4, "path": "data/a.parquet"}
NO_ANSWERS = {
    "revision": [
        b"<html>sign in</html>",
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"sha": 5}',
        b"[" * 100_000,
        b"\xff",
        "refuse oddly",
    ],
    "tree": [b"<html>", b"", b"5", b'{"a": 1}', b"[1]", b"[{}]"]
    + [
        json.dumps([ENTRY | wrong]).encode()
        for wrong in ({"size": -1}, {"size": "4"}, {"path": 5}, {"path": None}, {"lfs": None}, {"lfs": {"oid": 5}})
    ],
}


@pytest.mark.parametrize(("kind", "answer"), [(kind, one) for kind, of in NO_ANSWERS.items() for one in of])
def test_what_no_hub_answers_is_refused_in_one_line_and_leaves_no_listing(server, blob, tmp_path, kind, answer):
    server.faults[kind] = [answer]
    with pytest.raises(ValueError, match=rf"/{kind}/.*: no answer of a model hub \(.*; check HF_ENDPOINT$") as raised:
        hub.pinned_listing(REPO, "data", tmp_path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("listing*"))


@pytest.mark.parametrize("kind", ["revision", "tree", "data/a.parquet"])
def test_an_answer_without_end_is_given_up_at_its_limit(server, blob, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(hub._get, "__defaults__", (1 << 20,))
    listing = hub.list_files(REPO, "data")
    server.ranges = False
    server.faults[kind] = [bytes(BLOCK * 4)]
    with pytest.raises(ValueError, match=r"more than [\d,]+ bytes\); check HF_ENDPOINT"):
        hub.list_files(REPO, "data") if kind != "data/a.parquet" else hub.download(listing, listing.files, tmp_path)


def test_a_listing_whose_pages_never_end_is_given_up(server, blob, monkeypatch):
    monkeypatch.setattr(hub, "MOST_PAGES", 3)
    server.files = {f"data/{i}.parquet": b"x" for i in range(3 * PAGE + 1)}
    with pytest.raises(ValueError, match="lists more than 3 pages; check HF_ENDPOINT"):
        hub.list_files(REPO, "data")


@pytest.mark.parametrize("wrong", [{"size": "4"}, {"sha256": None}, {"path": ["x"]}])
def test_a_kept_listing_with_a_field_of_another_type_is_named(server, blob, tmp_path, wrong):
    hub.pinned_listing(REPO, "data", tmp_path)
    file = tmp_path / "listing-data.json"
    kept = json.loads(file.read_text())
    kept["files"][0] |= wrong
    file.write_text(json.dumps(kept))
    with pytest.raises(
        ValueError, match=rf"{file} is damaged \({next(iter(wrong))} is .*delete it, to list the files anew"
    ):
        hub.pinned_listing(REPO, "data", tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"revision": None}, {"revision": ""}, {"revision": 5}, {"revision": ["main"]}, {"files": []}], ids=str
)
def test_a_kept_listing_that_pins_nothing_is_refused(server, blob, tmp_path, wrong):
    hub.pinned_listing(REPO, "data", tmp_path)
    file = tmp_path / "listing-data.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(ValueError, match=rf"{file} is damaged \(it needs a revision, as text, and files\); delete it"):
        hub.pinned_listing(REPO, "data", tmp_path)


def test_a_pinned_listing_asks_the_hub_once_and_waits_for_no_download(server, blob, tmp_path, monkeypatch):
    first = hub.pinned_listing(REPO, "data", tmp_path)
    server.files["data/b.parquet"] = b"new"
    monkeypatch.setattr(hub.locks, "locked", None)  # which a download may hold for hours
    assert hub.pinned_listing(REPO, "data", tmp_path) == first
    assert len(server.requests["tree"]) == 1


def test_a_dropped_download_is_continued_at_the_block_that_broke(server, blob, tmp_path):
    server.faults["data/a.parquet"] = [None, "drop", 503, 429, None, 408, 500]
    assert [path.read_bytes() for path in fetch(tmp_path)] == [blob]
    assert server.requests["data/a.parquet"] == BLOCKS[:1] + BLOCKS[1:2] * 4 + BLOCKS[2:] * 3


def test_a_download_tells_how_far_it_is_after_each_block(server, blob, tmp_path):
    told = []
    fetch(tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(done, 3_000_000) for done in (1_000_000, 2_000_000, 3_000_000, 3_000_000)]


def test_a_later_call_continues_what_an_earlier_one_left(server, blob, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet.part").write_bytes(blob[:1000])
    assert [path.read_bytes() for path in fetch(tmp_path)] == [blob]
    assert server.requests["data/a.parquet"] == ["bytes=1000-1000999", "bytes=1001000-2000999", "bytes=2001000-2999999"]


def test_a_server_that_ignores_ranges_gets_asked_for_the_whole_file(server, blob, tmp_path):
    server.ranges = False
    server.faults["data/a.parquet"] = ["drop"]
    assert [path.read_bytes() for path in fetch(tmp_path)] == [blob]


def test_a_file_that_is_there_is_not_downloaded_again(server, blob, tmp_path):
    fetch(tmp_path)
    fetch(tmp_path)
    assert server.requests["data/a.parquet"] == BLOCKS


def test_files_of_another_commit_are_downloaded_again_for_a_listing_made_anew(server, blob, tmp_path):
    server.files["data/b.parquet"] = b"the same in both"
    for newest in (blob, blob[::-1], blob[::-1] + b"longer"):
        server.files["data/a.parquet"] = newest
        (tmp_path / "listing-data.json").unlink(missing_ok=True)  # as an error says where it is damaged
        listing = hub.pinned_listing(REPO, "data", tmp_path)
        paths = hub.download(listing, listing.files, tmp_path)
        assert [path.read_bytes() for path in paths] == [newest, b"the same in both"]
    assert len(server.requests["data/b.parquet"]) == 1


def test_retry_after_is_honoured(server, blob, tmp_path):
    server.faults["data/a.parquet"] = [(429, "1")]
    started = time.monotonic()
    fetch(tmp_path)
    assert time.monotonic() - started >= 1


def test_waits_double_up_to_the_longest(server, blob, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(hub, "RETRIES", hub.RETRIES | {"max_retries": 4, "base_wait_time": 1.0, "max_wait_time": 5.0})
    server.faults["data/a.parquet"] = [503, "drop", 500, 429]
    assert [path.read_bytes() for path in fetch(tmp_path)] == [blob]
    assert waits == [1, 2, 4, 5]


def test_a_hub_that_cannot_be_reached_ends_in_one_line(server, blob, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ConnectionError, match=r"revision/main: .*refused.*, 4 times in a row; run the same command later"
    ):
        fetch(tmp_path)


def test_a_wrong_checksum_is_refused_and_the_file_removed(server, blob, tmp_path):
    server.checksums["data/a.parquet"] = "0" * 64
    with pytest.raises(ValueError, match=r"data/a\.parquet: got sha256 [^0].*, but the hub lists .* 0{64}"):
        fetch(tmp_path)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_is_shorter_than_listed_is_refused_and_removed(server, blob, tmp_path, ranges):
    listing = hub.list_files(REPO, "data")
    server.files["data/a.parquet"], server.ranges = blob[:1_500_000], ranges
    with pytest.raises(ValueError, match=r"data/a\.parquet: got 1,500,000 bytes, but the hub lists 3,000,000 bytes"):
        hub.download(listing, listing.files, tmp_path)
    assert not list((tmp_path / "data").iterdir())


def test_a_hub_that_stays_down_ends_in_one_line_and_keeps_what_arrived(server, blob, tmp_path):
    server.faults["data/a.parquet"] = [None] + [503] * 4
    with pytest.raises(ConnectionError, match=r"data/a\.parquet: HTTP 503, 4 times in a row"):
        fetch(tmp_path)
    assert (tmp_path / "data" / "a.parquet.part").stat().st_size == BLOCK


def test_a_refusal_is_not_retried(server, blob, tmp_path):
    server.faults["data/a.parquet"] = [403]
    with pytest.raises(ValueError, match=r"HTTP 403; check data\.source, and set HF_TOKEN"):
        fetch(tmp_path)
    assert len(server.requests["data/a.parquet"]) == 1


def test_prepare_data_downloads_and_tokenises_from_a_hub_that_fails(server, tmp_path):
    texts = {name: [f"Page {i} of file {name}. " * 40 for i in range(200)] for name in "abc"}
    for name, pages in texts.items():
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": pages, "id": list(range(200))}), file, row_group_size=64)
        server.files[f"sample/10BT/{name}.parquet"] = file.read_bytes()
    server.faults["tree"] = [503]
    server.faults["sample/10BT/a.parquet"] = ["drop"]
    server.faults["sample/10BT/b.parquet"] = [(429, "0")]
    command = [sys.executable, "scripts/prepare_data.py", "--config=configs/base.py"]
    keys = {"source": "fineweb-edu:sample-10BT", "shards": "2", "folder": tmp_path / "data"}
    command += [f"--config.data.{key}={value}" for key, value in keys.items()]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [file] = (tmp_path / "data").glob("fineweb-edu-sample-10BT-gpt2-*/manifest.json")
    splits = json.loads(file.read_text())["splits"].values()
    assert sum(split["documents"] for split in splits) == 400
    assert sum(split["bytes"] for split in splits) == sum(map(len, texts["a"] + texts["b"]))
    assert not server.requests["sample/10BT/c.parquet"]
