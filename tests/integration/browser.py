"""Headless Chromium, told what to do over its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]


class Browser:
    """One page of one Chromium. `requests` are the URLs that the page has asked for since it was opened."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        self.requests: list[str] = []
        self.numbers = itertools.count(1)

    async def __aenter__(self) -> "Browser":
        options = [f"--{name}" for name in (*QUIET, "headless", "no-sandbox", "remote-debugging-port=0")]
        self.process = subprocess.Popen(
            [str(CHROMIUM), *options, f"--user-data-dir={self.profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = await self._port()
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self.socket = await self.session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        await self.tell("Page.enable")
        await self.tell("Network.enable")
        await self.tell("Emulation.setScrollbarsHidden", hidden=True)
        return self

    async def _port(self) -> str:
        file, deadline = Path(self.profile.name) / "DevToolsActivePort", time.monotonic() + 60
        while not (file.exists() and file.read_text().strip()):
            assert self.process.poll() is None, "Chromium does not start"
            assert time.monotonic() < deadline, "Chromium is not there after a minute"
            await asyncio.sleep(0.1)
        return file.read_text().split()[0]

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()

    async def tell(self, method: str, until: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command; returns its result when that, and the event `until`, has come."""
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        result = None
        while result is None or until is not None:
            message = json.loads((await self.socket.receive(timeout=60)).data)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == until:
                until = None
            if message.get("id") == number:
                assert "error" not in message, message
                result = message["result"]
        return result

    async def open(self, url: str, width: int, scheme: str) -> None:
        """Open a page as a screen of that width shows it, in the `scheme` "light" or "dark"."""
        self.requests.clear()
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.tell("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.tell("Emulation.setEmulatedMedia", features=features)
        await self.tell("Page.navigate", until="Page.loadEventFired", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def screenshot(self, file: Path) -> None:
        """The whole page, from top to bottom."""
        picture = await self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))
