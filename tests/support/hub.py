"""A hub on loopback: the endpoints of Hugging Face's that a download needs, and what can go wrong there."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """``repositories``: files by name, by repository; the other sets name repositories. ``cuts``: after how
    many bytes the next answers end; ``damaged``: files whose bytes are changed on the way; ``asked``: method,
    path and headers of all requests; ``elsewhere``: a host name to which downloads are redirected."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.token = "hf_right"
        self.cuts: list[int] = []
        self.damaged: set[str] = set()
        self.takes_ranges = True
        self.states_checksums = True
        self.elsewhere = ""
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""
        self.status = 0
        """If not 0, the status of all answers."""

    def requests(self, method: str, part: str = "") -> list[dict[str, str]]:
        """The headers of the requests so far, in lower case."""
        return [headers for each, path, headers in self.asked if each == method and part in path]


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append((self.command, path, headers))
        if self.hub.status:
            self.refuse(self.hub.status)
        elif path == "/api/models":
            self.search(parse_qs(url.query)["search"][0])
        elif path.startswith("/api/models/"):
            self.describe("/".join(path.split("/")[3:5]), *path.split("/")[6:])
        elif path.startswith("/blob/"):
            self.send_content(path.rpartition("/")[2])
        else:
            user, repository, _resolve, revision, file = path[1:].split("/", 4)
            self.resolve(f"{user}/{repository}", revision, file)

    def search(self, words: str) -> None:
        found = [name for name in self.hub.repositories if words.lower() in name.lower()]
        self.send_json([{"id": name, "modelId": name} for name in found])

    def describe(self, repository: str, revision: str = "main") -> None:
        if self.allowed(repository, revision):
            files = [
                {
                    "rfilename": name,
                    "size": len(content),
                    "lfs": {"sha256": checksum(content), "size": 1, "pointerSize": 1},
                }
                for name, content in self.hub.repositories[repository].items()
            ]
            self.send_json({"id": repository, "sha": COMMIT, "siblings": files})

    def allowed(self, repository: str, revision: str) -> bool:
        hub, has_token = self.hub, self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.headers.get("Authorization") and not has_token:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif repository not in hub.repositories or (repository in hub.private and not has_token):
            self.refuse(404 if has_token else 401, "RepoNotFound")
        elif repository in hub.gated:
            self.refuse(403 if has_token else 401, "GatedRepo")
        elif revision not in ("main", "v2", COMMIT):
            self.refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def resolve(self, repository: str, revision: str, file: str) -> None:
        if not self.allowed(repository, revision):
            return
        content = self.hub.repositories[repository].get(file)
        if content is None:
            self.refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": COMMIT}
        etag = checksum(content) if self.hub.states_checksums else "made-up"
        if self.hub.elsewhere:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            port = self.server.server_address[1]
            headers["Location"] = (
                f"http://{self.hub.elsewhere}:{port}/blob/{repository.replace('/', '--')}/{file}"
            )
            self.send(302, b"", headers)
        else:
            self.send_content(file, content, headers | {"ETag": f'"{etag}"'})

    def send_content(self, file: str, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        hub = self.hub
        content = content or next(files[file] for files in hub.repositories.values() if file in files)
        if file in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, wanted = 200, self.headers.get("Range")
        if wanted and hub.takes_ranges:
            content, status = content[int(wanted.removeprefix("bytes=").removesuffix("-")) :], 206
        self.send(status, content, headers or {})

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(status, b"{}", {name: value for name, value in named.items() if value})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = (
            self.hub.cuts.pop(0)
            if self.hub.cuts and status in (200, 206) and "json" not in str(headers)
            else None
        )
        self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
