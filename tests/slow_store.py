"""An S3 server in memory that is far away and sometimes busy: each request takes `latency` seconds, and for a while all of
them can be answered by 503 or by a closed connection.

It has what Arrow's client asks for. Whoever asks is let in: signatures are not checked.

    python -m tests.slow_store PORT     GET /-/set?latency=0.05&busy_s=8&reset=0.1    GET /-/count
"""

import asyncio
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from tests.integration.cluster import LOOPBACK, free_port
from tests.object_store import BUCKET

ETAG = {"ETag": '"etag"'}
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Server:
    """Objects by key, unfinished uploads by id, and how the server behaves."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.latency = self.reset = self.busy_until = 0.0
        self.counts: Counter[str] = Counter()

    async def control(self, request: web.Request) -> web.Response:
        self.latency = float(request.query.get("latency", self.latency))
        self.reset = float(request.query.get("reset", self.reset))
        self.busy_until = time.monotonic() + float(request.query.get("busy_s", 0))
        return web.Response()

    async def count(self, request: web.Request) -> web.Response:
        counts, self.counts = self.counts, Counter()
        return web.json_response(counts)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if "aws-chunked" in request.headers.get("Content-Encoding", ""):
            body = whole(body)
        await asyncio.sleep(self.latency)
        self.counts[request.method] += 1
        if time.monotonic() < self.busy_until:
            return error("SlowDown", 503)
        if random.random() < self.reset and request.transport is not None:
            request.transport.abort()
            return web.Response()
        _, _, key = unquote(request.raw_path.partition("?")[0]).lstrip("/").partition("/")
        return getattr(self, request.method.lower())(request, key, body)

    def get(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if not key:
            return self.listed(request.query)
        if key not in self.objects:
            return error("NoSuchKey", 404)
        data = self.objects[key]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is None:
            return web.Response(body=data, headers=ETAG)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        part = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return web.Response(body=data[first : last + 1], status=206, headers=ETAG | part)

    def head(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if key and key not in self.objects:
            return web.Response(status=404)
        size = {"Content-Length": str(len(self.objects.get(key, b"")))}
        return web.Response(headers={**ETAG, **size, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})

    def put(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if "uploadId" in request.query:
            self.uploads[request.query["uploadId"]][1][int(request.query["partNumber"])] = body
        elif "x-amz-copy-source" in request.headers:
            source = unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("/")[2]
            self.objects[key] = self.objects[source]
            return xml("<CopyObjectResult><ETag>etag</ETag></CopyObjectResult>")
        else:
            self.objects[key] = body
        return web.Response(headers=ETAG)

    def post(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if "delete" in request.query:
            for name in re.findall("<Key>(.*?)</Key>", body.decode()):
                self.objects.pop(unquote(name), None)
            return xml("<DeleteResult></DeleteResult>")
        if "uploads" in request.query:
            upload = f"{random.getrandbits(64):x}"
            self.uploads[upload] = (key, {})
            return xml(
                f"<InitiateMultipartUploadResult><Key>{escape(key)}</Key><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        _, parts = self.uploads.pop(request.query["uploadId"])
        self.objects[key] = b"".join(part for _, part in sorted(parts.items()))
        return xml(f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key></CompleteMultipartUploadResult>")

    def delete(self, request: web.Request, key: str, body: bytes) -> web.Response:
        self.objects.pop(key, None)
        return web.Response(status=204)

    def listed(self, query: Any) -> web.Response:
        """A page of keys and common prefixes in their order, as ListObjectsV2 has them."""
        prefix, most = query.get("prefix", ""), int(query.get("max-keys", "1000"))
        after = query.get("continuation-token", "")
        found: dict[str, bool] = {}  # key or common prefix -> whether it is a key
        for key in self.objects:
            if key.startswith(prefix):
                below, mark, _ = key[len(prefix) :].partition(query.get("delimiter") or "\0")
                found[prefix + below + mark] = not mark
        names = sorted(name for name in found if name > after)
        page = names[:most]
        keys = "".join(
            f"<Contents><Key>{escape(n)}</Key><Size>{len(self.objects[n])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for n in page
            if found[n]
        )
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{escape(n)}</Prefix></CommonPrefixes>" for n in page if not found[n]
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(names) > most else ""
        return xml(
            f'<ListBucketResult xmlns="{NAMESPACE}"><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>'
            f"<IsTruncated>{str(len(names) > most).lower()}</IsTruncated>{more}{keys}{prefixes}</ListBucketResult>"
        )


def whole(body: bytes) -> bytes:
    """A body in the chunks of "aws-chunked": size in hexadecimal digits, line end, bytes, line end."""
    parts, at = [], 0
    while True:
        line = body.index(b"\r\n", at)
        size = int(body[at:line].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2


def xml(text: str, status: int = 200) -> web.Response:
    return web.Response(text=f'<?xml version="1.0"?>{text}', content_type="application/xml", status=status)


def error(code: str, status: int) -> web.Response:
    return xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)


class SlowStore:
    """`with SlowStore() as store`: a server in a process of its own; `store.uri("runs")` is a folder of its bucket."""

    def __init__(self) -> None:
        self.port = free_port()

    def uri(self, path: str) -> str:
        options = f"scheme=http&endpoint_override={LOOPBACK}:{self.port}&region=us-east-1"
        return f"s3://{BUCKET}/{path}?{options}"

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/-/{path}", timeout=20) as reply:
            return bytes(reply.read())

    def set(self, **behaviour: float) -> None:
        self._ask("set?" + "&".join(f"{name}={value}" for name, value in behaviour.items()))

    def count(self) -> dict[str, int]:
        """The requests since the last call, by method."""
        return dict(json.loads(self._ask("count")))

    def __enter__(self) -> "SlowStore":
        root = Path(__file__).resolve().parents[1]
        self.server = subprocess.Popen([sys.executable, "-m", "tests.slow_store", str(self.port)], cwd=root)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.count()
                return self
            except OSError:
                assert self.server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.wait()


def main() -> None:
    server, application = Server(), web.Application(client_max_size=2**30)
    application.router.add_get("/-/set", server.control)
    application.router.add_get("/-/count", server.count)
    application.router.add_route("*", "/{tail:.*}", server.handle)
    web.run_app(application, host=LOOPBACK, port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
