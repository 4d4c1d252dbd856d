"""Folders on a disk and on an S3 server behave alike: whole files, names relative to the folder, nothing left."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.errors import DamagedFile, UserError
from ray_distil.store import patience, storage
from ray_distil.store.storage import Folder
from tests.object_store import CREDENTIALS, ObjectStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "log") as made:
        yield made


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    if request.param == "disk":
        return Folder.at(tmp_path / "run")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return Folder.at(request.getfixturevalue("store").uri(f"{tmp_path.name}/run"))


def test_what_is_written_is_read(folder: Folder) -> None:
    assert not folder.exists()
    below = folder / "eval" / "base"
    below.write_text("a.txt", "ä\n")
    below.write_text("a.txt", "b\n")
    assert below.read_text("a.txt") == "b\n"
    assert folder.exists()
    assert below.exists("a.txt")
    assert not below.exists("b.txt")
    assert below.name == "base"
    with pytest.raises(FileNotFoundError):
        below.read_text("b.txt")


def test_a_table_is_read_with_the_columns_asked_for(folder: Folder) -> None:
    table = pa.table({"id": ["a", "b"], "n": [1, 2]})
    (folder / "artifact").write_table("part-1.parquet", table)
    assert (folder / "artifact").read_table("part-1.parquet").equals(table)
    assert (folder / "artifact").read_table("part-1.parquet", ["n"]).equals(table.select(["n"]))


def test_a_folder_is_copied_with_what_is_below_it(folder: Folder) -> None:
    for name in ("part-1", "_rejects/part-2"):
        (folder / "responses").write_text(name, name)
    (folder / "copy" / "responses").copy_from(folder / "responses")
    copy = folder / "copy" / "responses"
    assert copy.files(recursive=True) == ["_rejects/part-2", "part-1"]
    assert copy.read_text("_rejects/part-2") == "_rejects/part-2"
    assert (folder / "responses").files(recursive=True) == ["_rejects/part-2", "part-1"]


def test_files_are_listed_by_name(folder: Folder) -> None:
    for name in ("part-2", "part-1", "other", "_rejects/part-3"):
        folder.write_text(name, "")
    assert folder.files("part-") == ["part-1", "part-2"]
    assert folder.files(suffix="er") == ["other"]
    assert folder.files(recursive=True) == ["_rejects/part-3", "other", "part-1", "part-2"]
    assert (folder / "absent").files() == []


def test_a_write_that_is_stopped_leaves_nothing(folder: Folder) -> None:
    def stop() -> None:
        raise RuntimeError("not now")

    folder.write_text("a", "first")
    for file in ("a", "b"):
        with pytest.raises(RuntimeError, match="not now"):
            folder.write_table(file, pa.table({"n": [1]}), stop)
    assert folder.read_text("a") == "first"
    assert folder.files(recursive=True) == ["a"]


def test_folders_move_and_go(folder: Folder) -> None:
    (folder / "old").write_text("below/a", "1")
    (folder / "old").move_to(folder / "superseded" / "old-1")
    assert folder.files(recursive=True) == ["superseded/old-1/below/a"]
    (folder / "superseded").remove_all()
    (folder / "superseded").remove_all()
    assert folder.files(recursive=True) == []
    folder.remove("absent")


def test_programs_write_into_it_as_into_a_folder_of_the_disk(folder: Folder, tmp_path: Path) -> None:
    with (folder / "student").writable() as place:
        (place / "below").mkdir()
        (place / "below" / "weights").write_bytes(b"\x00\x01")
        (place / "config.json").write_text("{}")
    assert (folder / "student").files(recursive=True) == ["below/weights", "config.json"]
    (folder / "student").download(tmp_path / "copy", lambda name: name.endswith(".json"))
    assert [p.name for p in (tmp_path / "copy").iterdir()] == ["config.json"]


def test_a_relative_path_is_taken_from_the_base(tmp_path: Path) -> None:
    assert Folder.at("runs", tmp_path) == Folder(f"{tmp_path}/runs")
    assert Folder.at("/runs", tmp_path) == Folder("/runs")
    assert Folder.at("runs") == Folder(str(Path.cwd() / "runs"))


def test_options_of_a_uri_stay_behind_its_path() -> None:
    store = Folder.at("s3://bucket/runs?region=eu-west-1&endpoint_override=localhost:1")
    assert (store / "tiny").uri == "s3://bucket/runs/tiny?region=eu-west-1&endpoint_override=localhost:1"
    assert (store / "tiny").name == "tiny"
    assert (store / "tiny").local is None


def test_a_place_that_nothing_opens_is_told() -> None:
    with pytest.raises(UserError, match=r"'ftp://host/runs' is no place .* s3://BUCKET/PATH"):
        Folder.at("ftp://host/runs")


def test_a_folder_is_shown_without_its_keys() -> None:
    folder = Folder("s3://AKIA:sEcReT@bucket/runs?scheme=http") / "tiny"
    assert str(folder) == f"{folder}" == "s3://***@bucket/runs/tiny?scheme=http"
    assert folder.uri == "s3://AKIA:sEcReT@bucket/runs/tiny?scheme=http"
    assert str(Folder("/a/b@c")) == "/a/b@c"


def test_no_half_file_is_left_on_a_full_disk_and_the_error_is_told(tmp_path: Path) -> None:
    """A limit to the size of files stands for the disk."""
    code = f"""
import pathlib, resource, signal
from ray_distil.commands import cli
from ray_distil.store.storage import Folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    Folder({str(tmp_path)!r}).write_bytes("part-0.parquet", b"x" * 200_000)
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    print(cli._print_error(error, pathlib.Path({str(tmp_path)!r}) / "logs"))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "1\n", ended.stderr
    first, second = ended.stderr.splitlines()
    assert first.startswith("failed: ")
    assert "File too large" in first
    assert second.endswith("error.log could not be written (File too large); run the same command again to go on")
    assert not list(tmp_path.glob("part-*"))


def test_a_file_that_is_away_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Folder.at(tmp_path).read_table("corrupt.parquet")


def test_a_file_that_the_store_does_not_copy_is_moved_too(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 refuses to copy an object of more than 5 GB in one request; here it refuses more than 20 MB."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    folder, large = Folder(store.uri("large")), bytes(range(256)) * 100_000
    (folder / "old").write_bytes("small", b"small")
    (folder / "old").write_bytes("below/large", large)
    copied = []
    monkeypatch.setattr(storage, "COPIED_BYTES", 20_000_000)
    monkeypatch.setattr(Folder, "filesystem_and_path", refusing(Folder.filesystem_and_path, copied, 20_000_000))
    (folder / "old").move_to(folder / "new")
    assert (folder / "new").read_bytes("small") == b"small"
    assert (folder / "new").read_bytes("below/large") == large
    assert folder.files(recursive=True) == ["new/below/large", "new/small"]
    assert [path.rpartition("/")[2] for path in copied] == ["small"]


def refusing(real: Any, copied: list[str], most: int) -> Any:
    """`Folder.filesystem_and_path` whose filesystem copies no file larger than `most`, as S3."""

    class Refusing:
        def __init__(self, filesystem: Any) -> None:
            self.filesystem = filesystem

        def __getattr__(self, name: str) -> Any:
            return getattr(self.filesystem, name)

        def copy_file(self, path: str, new: str) -> None:
            if self.filesystem.get_file_info(path).size > most:
                raise OSError("AWS Error INVALID_REQUEST: the specified copy source is larger than the maximum")
            copied.append(path)
            self.filesystem.copy_file(path, new)

    def filesystem_and_path(folder: Folder, file: str = "") -> tuple[Any, str]:
        filesystem, path = real(folder, file)
        return Refusing(filesystem), path

    return filesystem_and_path


def test_a_file_that_was_read_incompletely_is_not_damaged(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may end in the middle of a file: it is read again. Only bytes that stay wrong are damage."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    folder, table = Folder(store.uri("cut")), pa.table({"id": ["a", "b"]})
    folder.write_table("part.parquet", table)
    real, cut = storage.opened, iter([True])

    def opened(source: Any) -> Any:
        if next(cut, False):
            raise OSError("Unexpected end of stream: Page was smaller (0) than expected (18)")
        return real(source)

    monkeypatch.setattr(storage, "opened", opened)
    assert folder.read_table("part.parquet").equals(table)
    cut = iter([True])
    assert pa.concat_tables(folder.read_parts("part.parquet", None, 1)).equals(table)
    folder.write_bytes("part.parquet", folder.read_bytes("part.parquet")[:-20])
    with pytest.raises(DamagedFile, match="part.parquet.* is damaged"):
        folder.read_table("part.parquet")


@pytest.mark.parametrize(
    ("address", "right"),
    [
        ("s3:/bucket/runs", "s3://bucket/runs"),
        ("hf:/datasets/a/b", "hf://datasets/a/b"),
        ("file:/tmp/a", "file:///tmp/a"),
    ],
)
def test_an_address_with_one_slash_is_no_folder_here(address: str, right: str) -> None:
    with pytest.raises(UserError, match=f"'{address}' has one slash behind its colon; give {right}$"):
        Folder.at(address)
