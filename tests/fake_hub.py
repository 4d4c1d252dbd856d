"""A Hugging Face hub on this machine: models with commits, as much of its HTTP interface as huggingface_hub needs.

with FakeHub() as hub:
    first = hub.push("org/name", {"config.json": b"{}"})     40 digits
    hub.status = 429                                        every request is answered so
"""

import hashlib
import json
import re
import struct
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ray_distil.store import hub, manifest

INFO = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/?]+))?(?:/tree/([^/?]+))?(?:\?.*)?$")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")


class FakeHub:
    """`commits`: ORG/NAME -> the files of each commit, the newest last. `requests`: the paths that were asked for.

    every: the files of all models that nobody has pushed. gated: models whose files need a licence.
    """

    def __init__(self, every: dict[str, bytes] | None = None) -> None:
        self.every = every
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.status: int | None = None
        self.requests: list[str] = []
        self.gated: set[str] = set()

    def push(self, name: str, files: dict[str, bytes]) -> str:
        """A commit with these files; returns its 40 digits."""
        history = self.commits.setdefault(name, {})
        text = repr((name, len(history), sorted(files)))
        commit = hashlib.sha1(text.encode()).hexdigest()
        history[commit] = files
        return commit

    def find(self, name: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        if self.every is not None and name not in self.commits:
            self.push(name, self.every)
        history = self.commits.get(name, {})
        commit = next(reversed(history), None) if revision in (None, "main") else revision
        return (commit, history[commit]) if commit in history else None

    def __enter__(self) -> "FakeHub":
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests.append(self.path)
                self.answer(*served.reply(self.path))

            do_HEAD = do_GET

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reply(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of a request."""
        if self.status is not None:
            return self.status, b"{}", {}
        if found := INFO.match(path):
            name, revision, tree = found.groups()
            if (at := self.find(name, revision or tree)) is None:
                return 404, b"{}", {"X-Error-Code": "RevisionNotFound" if name in self.commits else "RepoNotFound"}
            commit, files = at
            if tree:
                listed = [
                    {"type": "file", "path": file, "size": len(data), "oid": _etag(data)}
                    for file, data in files.items()
                ]
                return 200, json.dumps(listed).encode(), {"Content-Type": "application/json"}
            told = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            return 200, json.dumps(told).encode(), {"Content-Type": "application/json"}
        if found := FILE.match(path):
            name, revision, file = found.groups()
            if name in self.gated:
                return 403, b"", {"X-Error-Code": "GatedRepo"}
            at = self.find(name, revision)
            if at is None or file not in at[1]:
                return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": at[0] if at else ""}
            return 200, at[1][file], {"ETag": f'"{_etag(at[1][file])}"', "X-Repo-Commit": at[0]}
        return 404, b"", {}


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def header(shapes: dict[str, Iterable[int]]) -> bytes:
    """A file of weights that is a header alone."""
    entries = {name: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def forget() -> None:
    """What this process knows of the hub; as in a new process."""
    hub.snapshot.cache_clear()
    manifest._with_revision.cache_clear()
