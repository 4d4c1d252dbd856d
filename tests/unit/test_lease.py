"""One process at a time makes a run in an object store; the run of a process that is lost is taken over."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ray_distil.errors import UserError
from ray_distil.runner import lease
from ray_distil.runner.lease import LEASE, read_lease, run_lock
from ray_distil.store.storage import Folder
from tests.object_store import ObjectStore, store_with_credentials

HOLD = """
import sys, time
from ray_distil.runner import lease
from ray_distil.store.storage import Folder
lease.SETTLING_S, lease.RENEWAL_S = 0.1, 0.2
with lease.run_lock(Folder(sys.argv[1])):
    print("HELD", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with store_with_credentials(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store


@pytest.fixture
def run(store: ObjectStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A run's folder. Leases are renewed five times a second."""
    for name, seconds in {"SETTLING_S": 0.3, "RENEWAL_S": 0.2, "POLL_S": 0.1}.items():
        monkeypatch.setattr(lease, name, seconds)
    return Folder(store.uri(f"runs/{request.node.name}"))


@pytest.fixture
def holder(run: Folder) -> Iterator["subprocess.Popen[str]"]:
    """Another process that makes the run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "HELD\n"
    yield process
    process.kill()
    process.wait()


def from_elsewhere(run: Folder) -> None:
    """The lease is that of a process on another machine, which renews it no more."""
    written = json.loads(run.read_text(LEASE))
    run.write_text(LEASE, json.dumps(written | {"host": "elsewhere", "machine": "elsewhere"}))


def test_a_run_whose_lease_is_renewed_is_refused(run: Folder, holder: "subprocess.Popen[str]") -> None:
    refused = rf"another process is making .*: process {holder.pid} of .*run.take_over=true"
    with pytest.raises(UserError, match=refused), run_lock(run):
        raise AssertionError
    assert read_lease(run).pid == holder.pid  # type: ignore[union-attr]


def test_a_process_of_this_machine_that_was_killed_holds_nothing(run: Folder, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert read_lease(run) is not None
    with run_lock(run):
        assert read_lease(run).pid != holder.pid  # type: ignore[union-attr]
    assert read_lease(run) is None


def test_an_expired_lease_is_taken_over_and_one_that_is_renewed_is_not(
    run: Folder, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 3.0)
    with pytest.raises(UserError, match="another process is making"), run_lock(run):
        raise AssertionError
    holder.kill()
    holder.wait()
    from_elsewhere(run)
    lines: list[str] = []
    started = time.monotonic()
    with run_lock(run, say=lines.append):
        assert time.monotonic() - started >= 2  # the store's clock has whole seconds
    assert "is held by process" in lines[0]
    assert "elsewhere" in lines[0]
    assert "which has not renewed its lease" in lines[-1]


def test_it_is_taken_over_at_once_where_that_is_said(run: Folder, holder: "subprocess.Popen[str]") -> None:
    """The process from which it is taken says so, and leaves the new lease alone."""
    with run_lock(run, take_over=True):
        own = read_lease(run)
        assert own is not None
        time.sleep(1)
        assert read_lease(run).holder == own.holder  # type: ignore[union-attr]
    assert holder.poll() is None


def test_of_two_that_begin_at_once_one_has_it(run: Folder) -> None:
    held, refused, over = [], [], threading.Event()

    def begin(number: int) -> None:
        try:
            with run_lock(run):
                held.append(number)
                over.wait(20)
        except UserError:
            refused.append(number)
            over.set()

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)
    assert read_lease(run) is None


def test_on_a_disk_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "HELD\n"
    with pytest.raises(UserError, match="another process is making"), run_lock(Folder.at(tmp_path)):
        raise AssertionError
    process.kill()
    process.wait()
    with run_lock(Folder.at(tmp_path)):
        pass


def test_a_lease_that_cannot_be_written_for_a_while_is_renewed_again(
    run: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the keys of a store are exchanged."""
    real, lines, refused = lease._write, list[str](), iter(range(3))

    def write(folder: Folder, own: lease.Lease) -> None:
        if own.num_renewals and next(refused, None) is not None:
            raise OSError("AWS Error ACCESS_DENIED during PutObject operation")
        real(folder, own)

    monkeypatch.setattr(lease, "_write", write)
    with run_lock(run, say=lines.append):
        deadline = time.monotonic() + 20
        while not read_lease(run).num_renewals:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert len(lines) == 3
    assert "ACCESS_DENIED" in lines[0]
    assert read_lease(run) is None


def test_the_error_of_a_run_is_raised_though_its_lease_cannot_be_released(
    run: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OSError("AWS Error ACCESS_DENIED during GetObject operation")

    def make() -> None:
        with run_lock(run):
            monkeypatch.setattr(lease, "read_lease", away)
            raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        make()


def test_a_process_that_lives_has_not_ended(run: Folder) -> None:
    with run_lock(run):
        held = read_lease(run)
        assert held is not None
        assert not held.has_ended
        assert replace(held, started=0).has_ended  # another process had the number
        assert not replace(held, started=0, machine="a container's of this host").has_ended
