"""A small model hub on this machine: what huggingface_hub asks of one, and ways to go wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files of repositories: {"owner/name": {"file": content}}, and a log of requests."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.commit = COMMIT
        self.log: list[str] = []  # "METHOD PATH RANGE"
        self.stall_after: int | None = None  # bytes of a body, then nothing more comes
        self.released = threading.Event()  # ends the stalling
        self.lie = False  # send other bytes than the ones described
        self.gated = False
        self.url = ""
        self.store = ""  # the address of contents, another host as far as a client can see

    def bodies(self) -> list[str]:
        """The requests for contents."""
        return [line for line in self.log if line.startswith("GET /cdn/")]


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves the hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.store = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.log.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            self._tree(match[1])
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._content(match[1], match[2], body)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._resolve(match[1], match[2])
        else:
            self._reply(404, {})

    def _reply(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _tree(self, repo: str) -> None:
        files = self.hub.repositories.get(repo)
        if files is None:
            self._reply(404, {"X-Error-Code": "RepoNotFound"})
            return
        rows = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
            for name, data in files.items()
        ]
        content = json.dumps(rows).encode()
        self._reply(200, {"Content-Type": "application/json"}, content)

    def _resolve(self, repo: str, name: str) -> None:
        """As the real one: a redirect to the store, with the description in its headers."""
        files = self.hub.repositories.get(repo)
        if self.hub.gated:
            self._reply(403, {"X-Error-Code": "GatedRepo"})
        elif files is None:
            self._reply(404, {"X-Error-Code": "RepoNotFound"})
        elif name not in files:
            self._reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit})
        else:
            described = {
                "X-Repo-Commit": self.hub.commit,
                "X-Linked-Etag": f'"{hashlib.sha256(files[name]).hexdigest()}"',
                "X-Linked-Size": str(len(files[name])),
                "Location": f"{self.hub.store}/cdn/{repo}/{name}",
            }
            self._reply(302, described)

    def _content(self, repo: str, name: str, body: bool) -> None:
        content = self.hub.repositories[repo][name]
        if self.hub.lie:
            content = bytes(len(content))
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(span[1]) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if span:
            size = len(content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if not body:
            return
        if self.hub.stall_after is not None:
            self.wfile.write(content[start : start + self.hub.stall_after])
            self.wfile.flush()
            self.hub.released.wait()
            self.close_connection = True
        else:
            self.wfile.write(content[start:])
