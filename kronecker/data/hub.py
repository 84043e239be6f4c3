"""Files of a Hugging Face dataset: a listing pinned to one commit, and downloads that resume.

huggingface_hub provides the endpoint (HF_ENDPOINT), the addresses, the token (HF_TOKEN) and requests with retries
after dropped connections, 408, 429 and 5xx.  Its own file download is not used: at the first 5xx it gives up and
deletes the partial file, and it checks no sha256.  Here files are requested in blocks, each with its own retries.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from kronecker.data import manifests
from kronecker.runtime import locks, storage

BLOCK = 1 << 24  # bytes
MOST_PAGES = 10_000  # of a listing; one has 1,000 files
# For each request: about four minutes in total.
RETRIES: dict[str, Any] = {"max_retries": 7, "base_wait_time": 1.0, "max_wait_time": 60.0, "timeout": 30.0}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One file: its path in the repository, its size in bytes, its sha256 ("" if the hub lists none)."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        fields = {"path": manifests.TEXT, "size": manifests.COUNT, "sha256": manifests.TEXT}
        if fault := manifests.fault(vars(self), fields):
            raise ValueError(fault)
        place = pathlib.PurePosixPath(self.path)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(
                f"the hub lists the file {self.path!r}, which is outside of its dataset; use another dataset"
            )


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files below a prefix of a dataset repository at one commit, by path."""

    repo: str
    revision: str
    files: tuple[RemoteFile, ...]


def pinned_listing(repo: str, prefix: str, folder: pathlib.Path) -> Listing:
    """Returns the parquet files below `prefix`, as the hub listed them in the first call.

    The first call stores the listing in `folder`; later calls read it from there, for the same commit, without network.
    """
    file = folder / f"listing-{prefix.replace('/', '-')}.json"
    with contextlib.nullcontext() if file.exists() else locks.locked(folder / locks.LOCK):  # a download holds it long
        if not file.exists():
            listing = list_files(repo, prefix)
            for one in listing.files:  # what is there may be of another commit
                if (there := folder / one.path).exists() and _difference(one, there):
                    there.unlink()
            storage.write_text(file, json.dumps(dataclasses.asdict(listing), indent=2), locked=True)
    try:
        stored = storage.parsed_json(storage.read_whole(file))
        if not (isinstance(stored["revision"], str) and stored["revision"] and stored["files"]):
            raise ValueError("it needs a revision, as text, and files")
        return Listing(repo, stored["revision"], tuple(RemoteFile(**entry) for entry in stored["files"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it, to list the files anew") from error


def list_files(repo: str, prefix: str) -> Listing:
    """Returns the parquet files below `prefix` at the newest commit of dataset `repo`, sorted by path.

    Raises ValueError if there is none, the hub refuses the request, or what answers is no hub; ConnectionError if all
    retries fail.
    """
    api = f"{_endpoint()}/api/datasets/{repo}"
    with _answer(f"{api}/revision/main") as (found, _):
        if fault := manifests.fault(found["sha"], manifests.TEXT, "sha"):
            raise ValueError(fault)
        revision = found["sha"]
    files: list[RemoteFile] = []
    url: str | None = f"{api}/tree/{revision}/{prefix}?recursive=true"
    for _ in range(MOST_PAGES):
        with _answer(url) as (entries, url):
            files += [
                RemoteFile(entry["path"], entry["size"], entry.get("lfs", {}).get("oid", ""))
                for entry in entries
                if entry["type"] == "file" and entry["path"].endswith(".parquet")
            ]
        if not url:
            break
    else:
        raise ValueError(f"{api}: lists more than {MOST_PAGES:,} pages; check HF_ENDPOINT")
    if not files:
        raise ValueError(f"{api}: no parquet file below {prefix}/; check data.source and HF_ENDPOINT")
    return Listing(repo, revision, tuple(sorted(files, key=lambda file: file.path)))


def download(
    listing: Listing,
    files: Sequence[RemoteFile],
    folder: pathlib.Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[pathlib.Path]:
    """Downloads those of `files` that `folder` lacks, and returns the paths of all, each below it as in the listing.

    A partial file is NAME.part, which the next call resumes; it is renamed after its size and sha256 are checked.
    `progress` is called with (bytes downloaded, total bytes).

    Raises ValueError if a file differs from the listing, and deletes it; ConnectionError if all retries fail; OSError
    if a file cannot be written.
    """
    total, before = sum(file.size for file in files), 0
    with locks.locked(folder / locks.LOCK):  # two runs must not write one .part file
        for file in files:
            target = folder / file.path
            if not target.exists():
                _download(listing, file, target, lambda here, before=before: progress(before + here, total))
            before += file.size
            progress(before, total)
    return [folder / file.path for file in files]


def _download(listing: Listing, file: RemoteFile, target: pathlib.Path, progress: Callable[[int], None]) -> None:
    url = huggingface_hub.hf_hub_url(
        listing.repo, file.path, repo_type="dataset", revision=listing.revision, endpoint=_endpoint()
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.touch()
    while (here := part.stat().st_size) < file.size:
        answer, content = _get(url, file.size, range=f"bytes={here}-{min(here + BLOCK, file.size) - 1}")
        resumed = answer.status_code == httpx2.codes.PARTIAL_CONTENT  # otherwise the answer is the complete file
        try:
            with part.open("ab" if resumed else "wb") as output:
                output.write(content)
        except OSError as error:
            raise OSError(
                f"cannot write {part}: {error}; free some space, or set data.folder to another disk; then run the same "
                "command again: it resumes the download"
            ) from error
        progress(part.stat().st_size)
        if not (resumed and content):  # nothing more will come
            break
    if got := _difference(file, part):
        part.unlink()
        raise ValueError(
            f"{url}: got {got}, but the hub lists {file.size:,} bytes, sha256 {file.sha256}; the file was deleted; run "
            "the same command again"
        )
    storage.sync(part)
    storage.move(part, target)


def _difference(file: RemoteFile, path: pathlib.Path) -> str:
    """Returns what a file on this disk has, if it is not what the hub lists."""
    if (size := path.stat().st_size) != file.size:
        return f"{size:,} bytes"
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return "" if sha256 == (file.sha256 or sha256) else f"sha256 {sha256}"


def _endpoint() -> str:
    # The library reads the variable once, when it is imported.
    return os.environ.get("HF_ENDPOINT", huggingface_hub.constants.ENDPOINT).rstrip("/")


@contextlib.contextmanager
def _answer(url: str) -> Iterator[tuple[Any, str | None]]:
    """Yields the JSON that a hub answers, and the address of its next page; raises ValueError for another shape."""
    answer, content = _get(url)
    try:
        yield json.loads(content), answer.links.get("next", {}).get("url")
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _no_hub(url, error) from error


def _no_hub(url: str, error: Exception) -> ValueError:
    return ValueError(f"{url}: no answer of a model hub ({type(error).__name__}: {error}); check HF_ENDPOINT")


def _get(url: str, most: int = storage.MOST_BYTES, **headers: str) -> tuple[httpx2.Response, bytes]:
    """Returns a successful response, and its content, of at most `most` bytes; BLOCK if it is of a range."""
    # A range counts stored bytes, so the server must not compress its response.
    headers |= {**build_hf_headers(), "accept-encoding": "identity"}
    try:
        # The generator behind the context, which also tries again if a connection drops within the content.
        with contextlib.closing(http_stream_backoff.__wrapped__("GET", url, headers=headers, **RETRIES)) as tries:
            answer = next(tries)
            while True:
                try:
                    hf_raise_for_status(answer)
                    content = bytearray()
                    for part in answer.iter_bytes():
                        content += part
                        if len(content) > (BLOCK if answer.status_code == httpx2.codes.PARTIAL_CONTENT else most):
                            raise ValueError(f"more than {len(content) - len(part):,} bytes")
                    return answer, bytes(content)
                except httpx2.TransportError as error:
                    answer = tries.throw(error)
    except huggingface_hub.errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status not in (httpx2.codes.REQUEST_TIMEOUT, httpx2.codes.TOO_MANY_REQUESTS):
            raise ValueError(
                f"{url}: HTTP {status}; check data.source, and set HF_TOKEN if the dataset is private or gated"
            ) from error
        raise _gave_up(url, f"HTTP {status}") from error
    except httpx2.TransportError as error:
        raise _gave_up(url, str(error) or type(error).__name__) from error
    except (AttributeError, TypeError, ValueError) as error:  # also the library's, of what comes with a refusal
        raise _no_hub(url, error) from error


def _gave_up(url: str, reason: str) -> ConnectionError:
    tries = RETRIES["max_retries"] + 1
    return ConnectionError(f"{url}: {reason}, {tries} times in a row; run the same command later: it resumes")
