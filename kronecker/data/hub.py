"""Files of a Hugging Face dataset: a listing pinned to one commit, and downloads that go on where they were cut off.

huggingface_hub gives the endpoint (HF_ENDPOINT), the addresses and the token (HF_TOKEN).  Its own download is not used:
it gives up on the first 5xx answer to a file, checks the size but not the sha256, and its HTTP client, whose errors one
would have to catch, changed twice within the versions that requirements.txt allows.
"""

import dataclasses
import datetime
import email.utils
import hashlib
import json
import logging
import os
import pathlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

import httpx
import huggingface_hub
from huggingface_hub.utils import build_hf_headers

from kronecker.runtime import locks

LOCK_FILE = ".lock"  # two runs must not write one .part file
_log = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte

Result = TypeVar("Result")


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


@dataclasses.dataclass(frozen=True)
class Retry:
    """How long to insist: tries in a row without a new byte, and the seconds waited, doubled from first to longest."""

    tries: int = 8
    first: float = 1.0
    longest: float = 60.0

    def wait(self, failures: int) -> float:
        """Returns the seconds to wait after so many failures in a row, spread so that hosts do not come at once."""
        return random.uniform(0.5, 1.0) * min(self.longest, self.first * 2 ** (failures - 1))


DEFAULT_RETRY = Retry()


def pinned_listing(repo: str, prefix: str, folder: pathlib.Path, retry: Retry = DEFAULT_RETRY) -> Listing:
    """Returns the parquet files below `prefix`, as the hub listed them the first time.

    The first call asks the hub and writes the answer into `folder`; later calls see the same commit without network.
    """
    file = folder / f"listing-{prefix.replace('/', '-')}.json"
    with locks.locked(folder / LOCK_FILE):
        if not file.exists():
            unfinished = file.with_suffix(".part")
            unfinished.write_text(json.dumps(dataclasses.asdict(list_files(repo, prefix, retry)), indent=2))
            unfinished.replace(file)
    stored = json.loads(file.read_text())
    return Listing(stored["repo"], stored["revision"], tuple(RemoteFile(**entry) for entry in stored["files"]))


def list_files(repo: str, prefix: str, retry: Retry = DEFAULT_RETRY) -> Listing:
    """Returns the parquet files below `prefix` at the newest commit of dataset `repo`, sorted by path.

    Raises:
      ValueError: if there is none, or the hub refuses.
      ConnectionError: if the hub kept failing.
    """
    api = f"{_endpoint()}/api/datasets/{repo}"
    with _client() as client:
        revision = _insist(lambda: _get(client, f"{api}/revision/main"), api, retry).json()["sha"]
        entries: list[Mapping[str, Any]] = []
        url: str | None = f"{api}/tree/{revision}/{prefix}?recursive=true"
        while url:
            page = _insist(lambda url=url: _get(client, url), url, retry)
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
    retry: Retry = DEFAULT_RETRY,
) -> list[pathlib.Path]:
    """Downloads what is missing of `files` into `folder` and returns their paths.

    What has arrived of a file waits in NAME.part, is continued by the next call, and gets its name after its size and
    sha256 were checked.

    Args:
      progress: called with (bytes that are there, bytes in all).

    Raises:
      ValueError: if a file is not what the listing says; it is removed.
      ConnectionError: if the hub kept failing.
    """
    total, before = sum(file.size for file in files), 0
    with locks.locked(folder / LOCK_FILE), _client() as client:
        for file in files:
            target = local_path(file, folder)
            if not target.exists():
                _download(
                    client, listing, file, target, lambda here, before=before: progress(before + here, total), retry
                )
            before += file.size
            progress(before, total)
    return [local_path(file, folder) for file in files]


def _download(
    client: httpx.Client,
    listing: Listing,
    file: RemoteFile,
    target: pathlib.Path,
    progress: Callable[[int], None],
    retry: Retry,
) -> None:
    url = huggingface_hub.hf_hub_url(
        listing.repo, file.path, repo_type="dataset", revision=listing.revision, endpoint=_endpoint()
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.touch()
    _insist(lambda: _append(client, url, part, file.size, progress), url, retry, lambda: part.stat().st_size)
    with part.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if part.stat().st_size != file.size or (file.sha256 and sha256 != file.sha256):
        got = f"{part.stat().st_size:,} bytes, sha256 {sha256}"
        part.unlink()
        raise ValueError(
            f"{url}: got {got}, but the hub lists {file.size:,} bytes, sha256 {file.sha256}; removed, run again"
        )
    part.replace(target)


def _append(client: httpx.Client, url: str, part: pathlib.Path, size: int, progress: Callable[[int], None]) -> None:
    here = part.stat().st_size
    if here >= size:
        return
    with client.stream("GET", url, headers={"Range": f"bytes={here}-"} if here else {}) as response:
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        here = here if resumed else 0
        with part.open("ab" if resumed else "wb") as output:
            # Without a chunk size: httpx would drop a chunk that a broken connection left incomplete.
            for chunk in response.iter_raw():
                _write(output, chunk, part)
                here += len(chunk)
                progress(here)
    if here < size:
        raise httpx.RemoteProtocolError(f"the answer ended after {here:,} of {size:,} bytes")


def _write(output: BinaryIO, chunk: bytes, part: pathlib.Path) -> None:
    try:
        output.write(chunk)
    except OSError as error:
        raise OSError(
            f"cannot write {part}: {error}; free some space or set data.folder to another disk; what arrived is kept"
        ) from error


def _endpoint() -> str:
    # The library reads the variable once, when it is imported.
    return os.environ.get("HF_ENDPOINT", huggingface_hub.constants.ENDPOINT).rstrip("/")


def _client() -> httpx.Client:
    # The range counts stored bytes, so the server must not compress what it sends.
    headers = {**build_hf_headers(), "accept-encoding": "identity"}
    return httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True)


def _get(client: httpx.Client, url: str) -> httpx.Response:
    return client.get(url).raise_for_status()


def _insist(attempt: Callable[[], Result], url: str, retry: Retry, arrived: Callable[[], int] = lambda: 0) -> Result:
    """Returns what `attempt` returns, tried again after dropped connections, 429 and 5xx; new bytes reset the count."""
    failures, known = 0, arrived()
    while True:
        try:
            return attempt()
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            response = error.response if isinstance(error, httpx.HTTPStatusError) else None
            reason = f"HTTP {response.status_code}" if response is not None else str(error) or type(error).__name__
            if (
                response is not None
                and response.status_code != httpx.codes.TOO_MANY_REQUESTS
                and response.status_code < 500
            ):
                raise ValueError(
                    f"{url}: {reason}; check the name, and HF_TOKEN if the dataset is private or gated"
                ) from error
            failures = 1 if arrived() > known else failures + 1
            known = arrived()
            if failures >= retry.tries:
                raise ConnectionError(
                    f"{url}: {reason}, {failures} times in a row; run again later, what has arrived is kept"
                ) from error
            asked = _retry_after(response)
            wait = retry.wait(failures) if asked is None else asked
            _log.warning("%s: %s; trying again in %.1f s", url, reason, wait)
            time.sleep(wait)


def _retry_after(response: httpx.Response | None) -> float | None:
    """Returns the seconds that a server's Retry-After asks for, which may also name a date."""
    header = response.headers.get("retry-after") if response is not None else None
    if not header:
        return None
    if header.isdecimal():
        return float(header)
    try:
        until = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())
