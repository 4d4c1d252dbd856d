"""Prometheus scrapes a running job by Ray's own list of targets; no query of the board comes back empty."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import LOOPBACK, Cluster, SubmittedJob, free_port, wait_until
from tests.integration.conftest import ROOT, SMALL

BOARD = ROOT / "cluster" / "grafana" / "ray_distil.json"


def queries() -> list[str]:
    board = json.loads(BOARD.read_text())
    return [target["expr"].replace("$run", ".*") for panel in board["panels"] for target in panel["targets"]]


class Prometheus:
    """Debian's Prometheus, which looks for targets where Ray writes them down."""

    def __init__(self, folder: Path, targets: Path) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
            "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"http://{LOOPBACK}:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return list(json.load(reply)["data"]["result"])

    def is_up(self) -> bool:
        try:
            return bool(self.query("up"))
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: apt-get install prometheus)")
def test_every_query_of_the_board_has_an_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("m")  # short: Ray puts sockets there
    with Cluster(tmp_path, "--num-cpus=4") as cluster:
        targets = tmp_path / "ray" / "prom_metrics_service_discovery.json"
        wait_until(targets.exists, "Ray names its targets", 60)
        prometheus = Prometheus(tmp_path, targets)
        try:
            job = SubmittedJob(cluster, "watched", ROOT, *SMALL, f"run.storage_path={tmp_path}")
            wait_until(prometheus.is_up, "Prometheus answers", 60)
            unanswered = set(queries())
            while unanswered and job.process.poll() is None:
                unanswered -= {query for query in unanswered if prometheus.query(query)}
                time.sleep(2)
            code, output = job.finish()
            assert code == 0, output
            assert unanswered == set()
            written = prometheus.query('sum(ray_distil_rows_written_total{stage="teacher"})')
            assert float(written[0]["value"][1]) > 0
        finally:
            prometheus.stop()
