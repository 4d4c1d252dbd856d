"""An S3 server on loopback (moto), in a process of its own, with one bucket."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.cluster import LOOPBACK, free_port

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true"}


class ObjectStore:
    """`with ObjectStore(log) as store`: `store.uri("runs")` is a folder of the bucket, for processes with CREDENTIALS."""

    def __init__(self, log: Path) -> None:
        self.port, self.log = free_port(), log

    def uri(self, path: str) -> str:
        options = f"scheme=http&endpoint_override={LOOPBACK}:{self.port}&region=us-east-1"
        return f"s3://{BUCKET}/{path}?{options}"

    def __enter__(self) -> "ObjectStore":
        command = [sys.executable, "-m", "moto.server", f"-H{LOOPBACK}", f"-p{self.port}"]
        with open(self.log, "wb") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while True:
            request = urllib.request.Request(f"http://{LOOPBACK}:{self.port}/{BUCKET}", method="PUT")
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return self
            except OSError:
                assert self.server.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.wait()


@contextmanager
def store_with_credentials(log: Path) -> Iterator[ObjectStore]:
    """A store, while CREDENTIALS are in the environment of this process."""
    with pytest.MonkeyPatch.context() as environment, ObjectStore(log) as store:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield store
