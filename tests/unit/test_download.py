"""jobs/download.py, from a server on loopback that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "alibaba-pai/DistilQwen2.5-DS3-0324-7B"
FILES = {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": bytes(range(256)) * 40}
COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """The calls of a snapshot: the list of files of a commit, and each of its files."""

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        folder, _, file = path.rpartition("/")
        if path.startswith((f"/api/models/{NAME}/tree/",)):
            files = [{"type": "file", "path": n, "size": len(c), "oid": "a" * 40} for n, c in FILES.items()]
            self.send(200, json.dumps(files).encode(), body)
        elif path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": name} for name in FILES]
            self.send(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif folder == f"/{NAME}/resolve/{COMMIT}" and file in FILES:
            self.send(200, FILES[file], body)
        else:
            self.send(404, b"{}", body, **{"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, content: bytes, body: bool, **headers: str) -> None:
        self.send_response(status)
        etag = hashlib.sha256(content).hexdigest()
        named = {"Content-Length": str(len(content)), "ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        for name, value in (named | {"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def download(folder: Path, hub: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "download.py"), *arguments]
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_a_published_model_comes_whole(tmp_path: Path, hub: str) -> None:
    made = download(tmp_path, hub, "7b", "--to", "here")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / made.stdout.strip()
    assert folder == tmp_path / "here" / "DistilQwen2.5-DS3-0324-7B"
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == FILES


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody/nothing"], "the hub has no model of the name nobody/nothing; correct it"),
        (["9B"], "'9B' names no model; give ORG/NAME, or one of 7B, 14B, 32B"),
        (["7B", "--from", "modelscope"], "pip install modelscope"),
    ],
)
def test_what_does_not_come_is_told(tmp_path: Path, hub: str, arguments: list[str], told: str) -> None:
    made = download(tmp_path, hub, *arguments)
    assert made.returncode == 2, made.stderr
    assert told in made.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "models" / "DistilQwen2.5-DS3-0324-7B" / "config.json").exists()
