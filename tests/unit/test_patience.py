"""An object store that fails for a while fails no operation, and many small files are read at a time."""

import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from ray_distil.store import ahead as ahead_module
from ray_distil.store import patience
from ray_distil.store.ahead import ahead, do_all
from ray_distil.store.storage import Folder
from tests.integration.cluster import LOOPBACK, free_port
from tests.object_store import CREDENTIALS
from tests.slow_store import SlowStore

TABLE = pa.table({"id": ["a", "b", "c"], "number": [1, 2, 3]})


@pytest.fixture(scope="module")
def store() -> Iterator[SlowStore]:
    with pytest.MonkeyPatch.context() as environment, SlowStore() as made:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield made


@pytest.fixture
def folder(store: SlowStore, request: pytest.FixtureRequest) -> Folder:
    return Folder.at(store.uri(request.node.name))


def test_a_store_that_is_busy_for_longer_than_its_client_waits_fails_no_operation(
    store: SlowStore, folder: Folder
) -> None:
    """Arrow's client gives up after six seconds of 503."""
    for name in ("read", "parts", "gone"):
        folder.write_table(name, TABLE)
    store.set(busy_s=9)
    started = time.monotonic()
    operations = [
        lambda: folder.write_table("written", TABLE),
        lambda: folder.read_table("read"),
        lambda: list(folder.read_parts("parts", None, 2)),
        lambda: folder.remove("gone"),
        lambda: folder.exists("read"),
        lambda: folder.files(),
    ]
    written, read, parts, _, exists, files = ahead(lambda operation: operation(), operations)
    assert time.monotonic() - started > 8
    assert written is None
    assert read == TABLE
    assert pa.concat_tables(parts) == TABLE
    assert exists is True
    assert {"read", "parts"} <= set(files)
    assert folder.files() == ["parts", "read", "written"]


def test_connections_that_are_closed_lose_no_row(store: SlowStore, folder: Folder) -> None:
    store.set(reset=0.1)
    do_all(lambda k: folder.write_table(f"part-{k}", TABLE), range(60))
    read = list(ahead(lambda name: folder.read_table(name), folder.files()))
    store.set(reset=0)
    assert read == [TABLE] * 60


def test_it_is_not_waited_for_without_end(store: SlowStore, folder: Folder) -> None:
    store.set(busy_s=20)
    with patience.hurried(0.01), pytest.raises(OSError, match="SLOW_DOWN"):
        folder.write_text("a", "b")
    store.set(busy_s=0)
    folder.write_text("a", "b")


AZURE = "GetProperties failed for 'c/a'. Azure Error: [{}] 503 The server is busy.\nRequestId:a46e"


@pytest.mark.parametrize(
    ("code", "passes"), [("ServerBusy", True), ("OperationTimedOut", True), ("AuthenticationFailed", False)]
)
def test_errors_of_azure_that_pass(code: str, passes: bool, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of Arrow's client of Azure; there is no Azure here."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.0)
    errors = [OSError(AZURE.format(code))]

    @patience.patient
    def read(_: Folder) -> str:
        if errors:
            raise errors.pop()
        return "read"

    if passes:
        assert read(folder) == "read"
    else:
        with pytest.raises(OSError, match=code):
            read(folder)


def test_a_wrong_address_and_a_missing_file_are_errors_at_once(folder: Folder) -> None:
    started = time.monotonic()
    nobody = f"s3://bucket/run?scheme=http&endpoint_override={LOOPBACK}:{free_port()}&region=us-east-1"
    with pytest.raises(OSError):  # noqa: PT011  of many words
        Folder.at(nobody).exists()
    with pytest.raises(FileNotFoundError):
        folder.read_text("a")
    assert time.monotonic() - started < 60


def test_small_objects_are_one_request(store: SlowStore, folder: Folder) -> None:
    folder.exists()
    store.count()
    folder.write_table("part-1", TABLE)
    assert store.count() == {"PUT": 1}


def test_items_are_worked_on_at_once_and_come_in_their_order() -> None:
    together = threading.Barrier(8, timeout=20)

    def work(k: int) -> int:
        together.wait()  # else it would never be passed
        return k

    assert list(ahead(work, range(16))) == list(range(16))


def test_results_that_wait_have_a_limit_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "HELD_BYTES", 10)
    begun: list[int] = []
    results = ahead(begun.append, range(6), lambda item: 4)
    for expected in ([0, 1], [0, 1, 2], [0, 1, 2, 3]):
        next(results)
        deadline = time.monotonic() + 20
        while len(begun) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for one too many to begin
        assert sorted(begun) == expected
    assert list(ahead(lambda item: item, range(3), lambda item: 100)) == [0, 1, 2]


def test_an_error_is_raised_in_its_place() -> None:
    results = ahead(lambda k: 1 // k, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
