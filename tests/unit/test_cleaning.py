"""jobs/clean.py: superseded folders are listed, and removed only with --yes and while nobody makes the run."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_distil.commands import clean as cleaning
from ray_distil.errors import UserError
from ray_distil.runner.lease import run_lock
from ray_distil.store.listing import stored_files
from ray_distil.store.storage import Folder
from tests.object_store import store_with_credentials
from tests.unit.test_distill_job import ROOT
from tests.unit.test_status import begun


def clean(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "clean.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def with_superseded(run: Folder) -> Folder:
    """A run whose responses were begun under three settings in turn, and whose checkpoint under two."""
    run.write_text("config.yaml", "run: {name: mine}\n")
    for mark in ("first", "second", "third"):
        begun(run, mark=mark)
    (run / "superseded" / "checkpoint-old-1700000000").write_bytes("states/step-5/rank-0.pt", b"0" * 3_000_000)
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with store_with_credentials(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store.uri("runs")


@pytest.fixture(params=["disk", "store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    base = Folder.at(tmp_path) if request.param == "disk" else Folder.at(request.getfixturevalue("store"))
    return with_superseded(base / request.node.name.replace("[", "-").replace("]", ""))


def names(run: Folder) -> list[str]:
    return [file.name for file in stored_files(run) if file.name != ".lock"]


def test_nothing_goes_without_yes(run: Folder) -> None:
    before = stored_files(run)
    result = clean(run.uri)
    assert result.returncode == 0, result.stderr
    assert stored_files(run) == before
    lines = result.stdout.splitlines()
    assert lines[2].split()[:5] == ["checkpoint-old-1700000000", "–", "–", "3", "MB"]
    assert [line.split()[1:3] for line in lines if line.startswith("responses-")] == [["7", "2"], ["7", "2"]]
    assert "note: responses is not finished; when the run goes on, it may use these rows again" in lines
    assert lines[-2].startswith("nothing is removed yet; to remove 3 folders, 18 rows, 3.0")
    assert lines[-1] == f"    python jobs/clean.py {shlex.quote(run.uri)} --yes"


def test_with_yes_the_superseded_folders_go_and_nothing_else(run: Folder) -> None:
    others = [name for name in names(run) if not name.startswith("superseded/")]
    result = clean(run.uri, "--yes")
    assert result.returncode == 0, result.stderr
    assert "removed: 3 folders, 18 rows, 3.0" in result.stdout
    assert names(run) == others
    assert not run.exists("superseded")
    assert "nothing is superseded" in clean(run.uri, "--yes").stdout
    assert begun(run, mark="third").folder.exists()


def test_a_run_that_somebody_makes_is_left_alone(tmp_path: Path) -> None:
    run = with_superseded(Folder.at(tmp_path / "mine"))
    with run_lock(run):
        before = names(run)
        result = clean(run.uri, "--yes")
        assert result.returncode == 2
        assert "another process is making" in result.stderr
        assert names(run) == before
        assert clean(run.uri).returncode == 0, "a list takes nothing away"
    assert clean(run.uri, "--yes").returncode == 0


def test_a_wrong_folder_is_a_mistake_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        cleaning.remove_superseded(Folder.at(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "other").mkdir()
    assert cleaning.remove_superseded(Folder.at(tmp_path / "other")) == []
    assert list((tmp_path / "other").iterdir()) == []


def test_folders_are_counted_whatever_they_hold(tmp_path: Path) -> None:
    """A shard that is no Parquet file, a name without a time, a file that belongs to no artifact."""
    superseded = Folder.at(tmp_path / "mine" / "superseded")
    (superseded / "rewrites-x-1700000000").write_bytes("part-torn.parquet", b"")
    (superseded / "by hand").write_bytes("note.txt", b"1234")
    folders = {folder.name: folder for folder in cleaning.superseded_folders(Folder.at(tmp_path / "mine"))}
    assert folders["rewrites-x-1700000000"][1:] == (0, 1, 0, 0, 1_700_000_000.0)
    assert folders["by hand"][1:5] == (4, 0, 0, 0)
    assert abs(folders["by hand"].since - time.time()) < 3600


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1240, "1.24 kB"), (999_600, "1 MB"), (393e9, "393 GB"), (2.5e15, "2,500 TB")],
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert cleaning.size(num_bytes) == text
