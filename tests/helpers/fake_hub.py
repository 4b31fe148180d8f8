"""A stand-in for the Hugging Face Hub on this machine: accounts, repositories and commits of small files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


@dataclass
class FakeHub:
    """What the hub holds, and how it behaves."""

    role: str = "write"
    """Of the token."""
    refuses: str | None = None
    """Part of a path for which it answers 403."""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Repository -> ``private`` and its ``files``."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""
    endpoint: str = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of a request."""
        self.requests.append(f"{method} {path}")
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid user token."}
        if self.refuses is not None and self.refuses in path:
            return 403, {"error": "You don't have the rights"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "orgs": [{"name": "team"}], "auth": {"accessToken": {"role": self.role}}}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        parts = path.removeprefix("/api/models/").split("?")[0].split("/")
        name, action = "/".join(parts[:2]), "/".join(parts[2:])
        if name not in self.repos:
            return 404, {"error": "Repository not found"}
        if not action:
            return 200, {"id": name, "modelId": name, "private": self.repos[name]["private"], "siblings": []}
        if action.startswith("preupload"):
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            }
        if action.startswith("commit"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repos[name]["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.endpoint}/{name}/commit/1", "commitOid": "1", "success": True}
        return 404, {"error": "unknown"}

    def _create(self, values: dict[str, Any]) -> tuple[int, Any]:
        name = f"{values.get('organization') or 'me'}/{values['name']}"
        address = {"url": f"{self.endpoint}/{name}"}
        if name in self.repos:
            return 409, address | {"error": "You already created this model repo"}
        private = bool(values.get("private")) or values.get("visibility") == "private"
        self.repos[name] = {"private": private, "files": {}}
        return 200, address


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a `FakeHub` on a free port of this machine."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, value = hub.answer(self.command, self.path, self.headers.get("authorization", ""), body)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            if status == 404:
                self.send_header("x-error-code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
