"""An OpenAI-compatible server on loopback that answers as it is told: a list of faults, then well."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = {"object": "list", "data": [{"id": "served", "object": "model"}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # its default of 5 turns away what comes at once
    away_until = 0.0  # monotonic; connections are closed at once
    turned_away = 0  # connections

    def verify_request(self, request: Any, client_address: Any) -> bool:
        here = time.monotonic() >= self.away_until
        self.turned_away += not here
        return here


class EndpointServer:
    """`faults` are used up one a request, whoever asks: "429", "500", "400", "401" (which repeats the key),
    "cut", "told", "hang", "close" (without a reply), "short" (a part of the reply), "trickle" (blank lines for ever),
    "slow" (blank lines for four seconds, then well), "length" (well, but cut by max_tokens), "json", "empty",
    "error in 200" (as some gateways send it).
    """

    def __init__(
        self,
        *faults: str,
        message: dict[str, Any] | None = None,
        finish_reason: str = "stop",
        meet: int = 1,
        retry_after: str = "0.2",
        body: Any = None,
        odd: Sequence[tuple[bytes, str]] = (),
        models: Any = MODELS,
    ) -> None:
        """`body`: of each reply. `odd`: bytes and type of the first replies. `models`: what /models says."""
        self.faults, self.requests, self.times = deque(faults), [], []
        self.paths: list[str] = []  # of the requests
        self.fault_of: Callable[[dict[str, Any]], str] = lambda body: ""  # of a request, whatever `faults` say
        self.message_of: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # of a request, without `stream`
        self.message, self.finish_reason = message or {"content": "It is 5."}, finish_reason
        self.retry_after, self.body, self.odd = retry_after, body, deque(odd)
        self.most_at_once = self.now = 0
        self.lock = threading.Lock()
        self.met = threading.Event()  # set once `meet` requests are here together; until then none is answered
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.here = False
                self.answer(200, models, {"Content-Type": "text/html"} if isinstance(models, str) else {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((self.headers, body))
                    server.paths.append(self.path)
                    server.times.append(time.monotonic())
                    server.now += 1
                    self.here = True
                    server.most_at_once = max(server.most_at_once, server.now)
                    if server.now >= meet:
                        server.met.set()
                fault = server.fault_of(body)  # it may sleep, while other requests are answered
                with server.lock:
                    fault = fault or (server.faults.popleft() if server.faults else "")
                try:
                    self.reply(fault, body)
                finally:
                    self.leave()

            def leave(self) -> None:
                """Count the request out, before the client can know that it is answered and send another."""
                with server.lock:
                    server.now -= self.here
                    self.here = False

            def reply(self, fault: str, body: dict[str, Any]) -> None:
                choice = {"index": 0, "finish_reason": "length" if fault == "length" else server.finish_reason}
                fault = fault if fault != "length" else ""
                with server.lock:
                    odd = server.odd.popleft() if server.odd else None
                if odd is not None:
                    return self.answer(200, odd[0], {"Content-Type": odd[1]})
                if server.body is not None:
                    return self.answer(200, server.body)
                if fault == "429":
                    self.answer(429, {"error": {"message": "slow down"}}, {"Retry-After": server.retry_after})
                elif fault in ("500", "503", "400", "402", "403"):
                    self.answer(int(fault), {"error": {"message": f"status {fault}"}})
                elif fault == "401":
                    self.answer(401, {"error": {"message": f"no such key: {self.headers['Authorization']}"}})
                elif fault == "error in 200":
                    self.answer(200, {"error": {"message": "upstream failed", "code": 502}})
                elif fault == "hang":
                    time.sleep(3)
                elif fault == "close":
                    self.leave()
                elif fault == "short":
                    self.answer(200, "{", {"Content-Length": "100"})
                elif fault == "trickle":
                    self.trickle()
                elif fault == "slow":
                    self.trickle(4, json.dumps({"choices": [choice | {"message": server.message}], "usage": USAGE}))
                elif fault == "json":
                    self.answer(200, "{not json")
                elif fault == "empty":
                    self.answer(200, {"id": "1", "object": "chat.completion", "choices": [], "usage": USAGE})
                elif body.get("stream"):
                    self.stream(choice, fault)
                else:
                    server.met.wait(20)
                    message = server.message if server.message_of is None else server.message_of(body)
                    made = choice | {"message": {"role": "assistant", **message}}
                    self.answer(200, {"id": "1", "object": "chat.completion", "choices": [made], "usage": USAGE})

            def stream(self, choice: dict[str, Any], fault: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                parts = [
                    {n: half} for n, text in server.message.items() for half in ((text or "")[:3], (text or "")[3:])
                ]
                chunks = [{"choices": [{"index": 0, "delta": part}]} for part in parts]
                chunks += [{"choices": [choice | {"delta": {}}]}, {"choices": [], "usage": USAGE}]
                if fault:
                    chunks = chunks[:1] + ([{"error": {"message": "the engine died"}}] if fault == "told" else [])
                for chunk in chunks:
                    self.wfile.write(f"data: {json.dumps({'id': '1', **chunk})}\n\n".encode())
                if not fault:
                    self.wfile.write(b"data: [DONE]\n\n")

            def trickle(self, seconds: float = 3, end: str = "") -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                with suppress(OSError):  # until the client goes away
                    for _ in range(int(seconds / 0.05)):
                        self.wfile.write(b"\n")
                        self.wfile.flush()
                        time.sleep(0.05)
                    self.leave()
                    self.wfile.write(end.encode())

            def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
                self.leave()
                data = (
                    body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
                )
                self.send_response(status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "EndpointServer":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def away(self, seconds: float) -> None:
        """Answer nobody for so long. The port stays taken: another process could take it."""
        self.server.away_until = time.monotonic() + seconds
