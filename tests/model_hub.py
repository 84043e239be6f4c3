"""The part of the Hugging Face Hub that an upload needs, as an HTTP server on this machine.

A repository is made, files are announced, large ones are stored (by git-lfs's protocol, or by Xet's into a folder), and
a commit names them all.  The server checks the token, and that the large files are there.
"""

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_made_up"
LARGE = ".safetensors"


class Hub(ThreadingHTTPServer):
    """What it holds, and `fails`, part of an address -> the status, or the content, that requests to it get."""

    def __init__(self, xet: Path, fails: Mapping[str, int | bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.xet, self.fails = xet, fails
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.created: dict[str, Any] = {}
        self.objects: dict[str, bytes] = {}  # by sha256, from git-lfs
        self.files: dict[str, bytes] = {}  # of the last commit
        self.large: dict[str, str] = {}  # of the last commit, path -> sha256


@contextlib.contextmanager
def serving(xet: Path, fails: Mapping[str, int | bytes] | None = None) -> Iterator[Hub]:
    """Yields a hub that answers until the end; what Xet uploads goes into the folder `xet`."""
    with Hub(xet, fails or {}) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, answer = self.answer(self.path.partition("?")[0], body)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = handle_request  # noqa: N815  the names that the library asks for

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any], Any]:
        hub = self.server
        for part, instead in hub.fails.items():
            if part in path and isinstance(instead, bytes):
                return 200, {}, instead
            if part in path:
                return instead, {}, {"error": "made to fail"}
        if path.startswith("/store/"):
            hub.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, {}, {}
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {}, {"error": "who are you?"}
        asked = [json.loads(line) for line in body.splitlines()]
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                hub.created = asked[0]
                return 200, {}, {"url": f"{hub.address}/{asked[0]['organization']}/{asked[0]['name']}"}
            case ["api", "validate-yaml"]:
                return 200, {}, {"errors": [], "warnings": []}
            case ["api", "models", _, _, "preupload", "main"]:
                modes = {
                    file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular" for file in asked[0]["files"]
                }
                files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
                return 200, {}, {"files": files}
            case ["api", "models", _, _, "xet-write-token", "main"]:
                told = {"casUrl": f"local://{hub.xet}", "accessToken": "t", "exp": int(time.time()) + 3600}
                names = {
                    "X-Xet-Cas-Url": "casUrl",
                    "X-Xet-Access-Token": "accessToken",
                    "X-Xet-Token-Expiration": "exp",
                }
                return 200, {header: told[name] for header, name in names.items()}, told
            case [_, _, "info", "lfs", "objects", "batch"]:
                actions = {"actions": {"upload": {"href": f"{hub.address}/store/file"}}}
                return 200, {}, {"transfer": "basic", "objects": [one | actions for one in asked[0]["objects"]]}
            case ["api", "models", _, _, "commit", "main"]:
                told = [(one["key"], one["value"]) for one in asked]
                hub.files = {v["path"]: base64.b64decode(v["content"]) for kind, v in told if kind == "file"}
                hub.large = {v["path"]: v["oid"] for kind, v in told if kind == "lfsFile"}
                stored = any((hub.xet / "xet" / "xorbs").glob("*")) or hub.objects.keys() >= {*hub.large.values()}
                url = {"commitUrl": f"{hub.address}/me/mine/commit/{'0' * 40}", "commitOid": "0" * 40}
                return (200, {}, url) if stored else (400, {}, {"error": "a file is not there"})
        return 404, {}, {"error": f"no {path}"}
