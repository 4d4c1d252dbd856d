"""A Hugging Face hub on this machine: models with commits, as much of its HTTP interface as huggingface_hub needs.

with FakeHub() as hub:
    first = hub.push("org/name", {"config.json": b"{}"})     40 digits
    hub.status = 429                                        every request is answered so

`WritableHub` takes uploads of data sets too.
"""

import base64
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

            def do_POST(self) -> None:
                served.requests.append(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, reply = served.post(self.path, body, self.headers.get("Authorization"))
                self.answer(status, json.dumps(reply).encode(), {"Content-Type": "application/json"})

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
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

    def post(self, path: str, body: bytes, authorization: str | None) -> tuple[int, Any]:
        """(status, reply) of a request that writes. Here: nobody may write."""
        return 403, {"error": "nobody may write"}

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


class WritableHub(FakeHub):
    """A hub to which owners upload data sets. `datasets`: OWNER/NAME -> its files; `is_private`: OWNER/NAME -> bool.

    owners: token -> the names under which it may write. yaml_errors: what the hub says of each card.
    """

    def __init__(self, owners: dict[str, list[str]]) -> None:
        super().__init__()
        self.owners, self.datasets, self.is_private = owners, dict[str, dict[str, bytes]](), dict[str, bool]()
        self.yaml_errors: list[str] = []

    def reply(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        found = re.match(r"/api/datasets/([^/]+/[^/?]+)(/tree/)?", path)
        if self.status is not None or not found:
            return super().reply(path)
        if found[1] not in self.datasets:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        files = self.datasets[found[1]]
        told: Any = {"id": found[1], "sha": "0" * 40, "private": self.is_private[found[1]]}
        told |= {"siblings": [{"rfilename": file} for file in files]}
        if found[2]:
            told = [{"type": "file", "path": f, "size": len(data), "oid": _etag(data)} for f, data in files.items()]
        return 200, json.dumps(told).encode(), {"Content-Type": "application/json"}

    def post(self, path: str, body: bytes, authorization: str | None) -> tuple[int, Any]:
        if self.status is not None:
            return self.status, {"error": "not now"}
        names = self.owners.get((authorization or "").removeprefix("Bearer "))
        if names is None:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] not in names:
                return 403, {"error": "You don't have the rights to create a dataset under this namespace"}
            reply = {"url": f"{self.url}/datasets/{name}"}
            if name in self.datasets:
                return 409, reply
            self.datasets[name], self.is_private[name] = {}, asked.get("visibility") == "private"
            return 200, reply
        if path == "/api/validate-yaml":
            errors = [{"message": message} for message in self.yaml_errors]
            return (400 if errors else 200), {"errors": errors, "warnings": []}
        found = re.match(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None:
            return 404, {}
        if found[2] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.datasets[found[1]][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                self.datasets[found[1]].pop(value["path"])
        return 200, {"commitUrl": f"{self.url}/datasets/{found[1]}/commit/{'1' * 40}", "commitOid": "1" * 40}


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
