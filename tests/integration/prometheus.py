"""Debian's Prometheus, which looks for targets where Ray writes them down."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.integration.cluster import LOOPBACK, free_port, wait_until

PROMETHEUS = shutil.which("prometheus")


class Prometheus:
    """`with Prometheus(folder, targets) as prometheus: prometheus.query("up")`; `targets`: Ray's file of them."""

    def __init__(self, folder: Path, targets: Path) -> None:
        self.folder, self.port = folder, free_port()
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
            "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    def __enter__(self) -> "Prometheus":
        options = [
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
        ]
        self.process = subprocess.Popen(
            [str(PROMETHEUS), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.began = time.time()
        wait_until(self._answers, "Prometheus answers")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def _answers(self) -> bool:
        try:
            self.query("up")
        except OSError:
            return False
        return True

    def had_answer(self, expression: str) -> bool:
        """Whether the query had an answer at any second since this Prometheus began: some things live for seconds."""
        told = {"query": expression, "start": self.began, "end": time.time(), "step": 1}
        url = f"http://{LOOPBACK}:{self.port}/api/v1/query_range?{urllib.parse.urlencode(told)}"
        with urllib.request.urlopen(url, timeout=60) as reply:
            return bool(json.load(reply)["data"]["result"])

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"http://{LOOPBACK}:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=60) as reply:
            return list(json.load(reply)["data"]["result"])
