"""The log of a run in an object store is in the run, while it works and when it has ended, however it ended."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_distil.runner import shipped_logs
from ray_distil.runner.shipped_logs import shipped
from ray_distil.store.storage import Folder
from tests.object_store import ObjectStore, store_with_credentials


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with store_with_credentials(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store


def read(run: Folder, kind: str) -> str:
    (name,) = (run / "logs").files(kind, ".log")
    return (run / "logs").read_text(name)


def test_it_is_copied_while_the_run_works_and_when_it_fails(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped_logs, "COPY_S", 0.05)
    monkeypatch.setattr(shipped_logs, "COPIED_BYTES", 12)
    run, log = Folder(store.uri("run")), tmp_path / "driver.log"
    log.write_text("a line that is long\n")

    def work() -> None:
        with shipped(log, run):
            deadline = time.monotonic() + 20
            while not (run / "logs").files("driver"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            log.write_text("the last\n")
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        work()
    assert read(run, "driver") == "the last\n"
    assert read(run, "error").endswith("ValueError: lost\n")


def test_of_a_long_log_the_end_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_logs, "COPIED_BYTES", 5)
    (tmp_path / "log").write_text("0123456789")
    assert shipped_logs._end_of(tmp_path / "log") == b"56789"


def test_on_a_disk_nothing_is_copied(tmp_path: Path) -> None:
    with shipped(tmp_path / "none.log", Folder.at(tmp_path / "run")):
        pass
    assert not (tmp_path / "run").exists()


def test_a_store_that_is_away_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OSError("AWS Error ACCESS_DENIED")

    monkeypatch.setattr(Folder, "write_bytes", away)
    with shipped(tmp_path / "none.log", Folder("s3://bucket/run")):
        pass
