"""Files of a Hugging Face dataset: a listing pinned to one commit, and downloads that go on where they were cut off.

huggingface_hub gives the endpoint (HF_ENDPOINT), the addresses, the token (HF_TOKEN) and requests that are repeated
after dropped connections, 408, 429 and 5xx.  Its download of a whole file is not used: it gives up on the first 5xx,
then deletes what has arrived, and checks no sha256.  Files are requested in blocks here, each with its own retries.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from kronecker.runtime import locks, storage

BLOCK = 1 << 24  # bytes
# Of each request: about four minutes in all, then the same command goes on later.
RETRIES: dict[str, Any] = {"max_retries": 7, "base_wait_time": 1.0, "max_wait_time": 60.0, "timeout": 30.0}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One file: its path in the repository, its size in bytes, its sha256 ("" if the hub does not say)."""

    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files below a prefix of a dataset repository at one commit, by path."""

    repo: str
    revision: str
    files: tuple[RemoteFile, ...]


def pinned_listing(repo: str, prefix: str, folder: pathlib.Path) -> Listing:
    """Returns the parquet files below `prefix`, as the hub listed them the first time.

    The first call asks the hub and writes the answer into `folder`; later calls see the same commit without network.
    """
    file = folder / f"listing-{prefix.replace('/', '-')}.json"
    with locks.locked(folder / locks.LOCK):
        if not file.exists():
            listing = json.dumps(dataclasses.asdict(list_files(repo, prefix)), indent=2)
            with storage.renamed(file) as unfinished:
                unfinished.write_text(listing)
    stored = json.loads(file.read_text())
    return Listing(stored["repo"], stored["revision"], tuple(RemoteFile(**entry) for entry in stored["files"]))


def list_files(repo: str, prefix: str) -> Listing:
    """Returns the parquet files below `prefix` at the newest commit of dataset `repo`, sorted by path.

    Raises:
      ValueError: if there is none, or the hub refuses.
      ConnectionError: if the hub kept failing.
    """
    api = f"{_endpoint()}/api/datasets/{repo}"
    revision = _get(f"{api}/revision/main").json()["sha"]
    entries: list[Mapping[str, Any]] = []
    url: str | None = f"{api}/tree/{revision}/{prefix}?recursive=true"
    while url:
        page = _get(url)
        entries += page.json()
        url = page.links.get("next", {}).get("url")
    files = [
        RemoteFile(entry["path"], entry["size"], entry.get("lfs", {}).get("oid", ""))
        for entry in entries
        if entry["type"] == "file" and entry["path"].endswith(".parquet")
    ]
    if not files:
        raise ValueError(f"{api}: no parquet file below {prefix}/")
    return Listing(repo, revision, tuple(sorted(files, key=lambda file: file.path)))


def local_path(file: RemoteFile, folder: pathlib.Path) -> pathlib.Path:
    """Returns where `download` puts a file."""
    return folder / file.path


def download(
    listing: Listing,
    files: Sequence[RemoteFile],
    folder: pathlib.Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[pathlib.Path]:
    """Downloads what is missing of `files` into `folder` and returns their paths.

    What has arrived of a file waits in NAME.part, is continued by the next call, and gets its name after its size and
    sha256 were checked.

    Args:
      progress: called with (bytes that are there, bytes in all).

    Raises:
      ValueError: if a file is not what the listing says; it is removed.
      ConnectionError: if the hub kept failing.
      OSError: if a file cannot be written.
    """
    total, before = sum(file.size for file in files), 0
    with locks.locked(folder / locks.LOCK):  # two runs must not write one .part file
        for file in files:
            target = local_path(file, folder)
            if not target.exists():
                _download(listing, file, target, lambda here, before=before: progress(before + here, total))
            before += file.size
            progress(before, total)
    return [local_path(file, folder) for file in files]


def _download(listing: Listing, file: RemoteFile, target: pathlib.Path, progress: Callable[[int], None]) -> None:
    url = huggingface_hub.hf_hub_url(
        listing.repo, file.path, repo_type="dataset", revision=listing.revision, endpoint=_endpoint()
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.touch()
    while (here := part.stat().st_size) < file.size:
        answer = _get(url, range=f"bytes={here}-{min(here + BLOCK, file.size) - 1}")
        resumed = answer.status_code == httpx2.codes.PARTIAL_CONTENT  # else it is the whole file
        try:
            with part.open("ab" if resumed else "wb") as output:
                output.write(answer.content)
        except OSError as error:
            raise OSError(
                f"cannot write {part}: {error}; free some space or set data.folder to another disk; what came is kept"
            ) from error
        progress(part.stat().st_size)
        if not (resumed and answer.content):  # there is no more
            break
    with part.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if part.stat().st_size != file.size or (file.sha256 and sha256 != file.sha256):
        got = f"{part.stat().st_size:,} bytes, sha256 {sha256}"
        part.unlink()
        raise ValueError(
            f"{url}: got {got}, but the hub lists {file.size:,} bytes, sha256 {file.sha256}; removed, run again"
        )
    part.replace(target)


def _endpoint() -> str:
    # The library reads the variable once, when it is imported.
    return os.environ.get("HF_ENDPOINT", huggingface_hub.constants.ENDPOINT).rstrip("/")


def _get(url: str, **headers: str) -> httpx2.Response:
    """Returns a good answer, with its content."""
    # A range counts stored bytes, so the server must not compress what it sends.
    headers |= {**build_hf_headers(), "accept-encoding": "identity"}
    try:
        answer = http_backoff("GET", url, headers=headers, **RETRIES)
        hf_raise_for_status(answer)
    except huggingface_hub.errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status not in (httpx2.codes.REQUEST_TIMEOUT, httpx2.codes.TOO_MANY_REQUESTS):
            raise ValueError(
                f"{url}: HTTP {status}; check the name, and HF_TOKEN if the dataset is private or gated"
            ) from error
        raise _gave_up(url, f"HTTP {status}") from error
    except httpx2.TransportError as error:
        raise _gave_up(url, str(error) or type(error).__name__) from error
    return answer


def _gave_up(url: str, reason: str) -> ConnectionError:
    tries = RETRIES["max_retries"] + 1
    return ConnectionError(f"{url}: {reason}, {tries} times in a row; run again later, what has arrived is kept")
