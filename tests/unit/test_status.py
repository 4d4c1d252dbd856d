"""What --status shows of a run in the middle: rows, ages, and whether somebody works on it; whatever comes and goes meanwhile."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from ray_distil.commands import status
from ray_distil.runner import unfinished
from ray_distil.runner.lease import run_lock
from ray_distil.runner.unfinished import Unfinished, unfinished_stages
from ray_distil.store.artifact import Artifact
from ray_distil.store.listing import StoredFile, stored_files
from ray_distil.store.manifest import Manifest, write_manifest
from ray_distil.store.schemas import INSTRUCTIONS, stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder
from tests.object_store import store_with_credentials
from tests.unit.test_distill_job import distill

HOUR = 3600.0


def begun(run: Folder, name: str = "responses", mark: str = "settings") -> Artifact:
    """An artifact of a stopped stage: 7 rows and 2 rejects in two blocks."""
    artifact = Artifact(run, name, INSTRUCTIONS, mark)
    artifact.start()
    row = {"instruction": "2 + 3?", "source": "tiny", "split": "train"}
    rows = [{"instruction_id": stable_id(k), **row} for k in range(9)]
    artifact.write_table(table_of(rows[:4], INSTRUCTIONS), "responses")
    rejects = [reject(rejected, "no_answer") for rejected in rows[7:]]
    artifact.write_table(table_of([*rows[4:7], *rejects], INSTRUCTIONS), "responses")
    return artifact


def make_older(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for file in folder.rglob("*"):
        os.utime(file, (then, then))


def printed(run: Folder, now: float | None = None) -> str:
    text = io.StringIO()
    Console(file=text, width=120).print(*status.tables(run, now), sep="\n")
    return text.getvalue()


def cells(text: str, stage: str) -> list[str]:
    """The line of a stage in the middle."""
    middle = text.partition("In the middle")[2].partition("Cost so far")[0]
    (line,) = [line for line in middle.splitlines() if line.startswith(stage)]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    folder = tmp_path / "mine"
    folder.mkdir()
    compared = {"models": [{"name": "slow", "model_source": "m"}], "baseline": "slow", "benchmark": "sums"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"name": "x"}, "evaluation": compared}))
    return Folder.at(folder)


def test_a_stopped_stage_is_shown_with_its_rows_and_age(run: Folder) -> None:
    begun(run)
    begun(run, "eval/slow/sums")
    with run_lock(run):
        pass  # a run was here
    assert run.local is not None
    make_older(run.local / "responses", 3.4 * HOUR)
    text = printed(run)
    assert cells(text, "responses") == ["responses", "7", "2", "0", "3 h ago", "stopped for 3 h"]
    assert cells(text, "eval/slow/sums")[1:4] == ["7", "2", "9"]


def test_a_stage_is_at_work_while_its_run_is_locked_however_long_it_takes(run: Folder) -> None:
    begun(run)
    assert run.local is not None
    make_older(run.local / "responses", 3.4 * HOUR)
    with run_lock(run):
        assert cells(printed(run), "responses")[-1] == "at work"
    assert "stopped for 3 h" in printed(run)


def test_without_a_lock_a_fresh_file_means_work(run: Folder) -> None:
    begun(run)
    assert "at work" in printed(run)
    assert "stopped for 2 h" in printed(run, time.time() + 2.5 * HOUR)


def test_nothing_is_written_and_no_lock_is_kept(run: Folder) -> None:
    begun(run)
    with run_lock(run):
        pass
    before = stored_files(run)
    printed(run)
    assert stored_files(run) == before
    with run_lock(run):
        pass


def test_the_command_shows_it(run: Folder) -> None:
    begun(run)
    assert run.local is not None
    result = distill(run.local.parent, "--status", "mine")
    assert result.returncode == 0, result.stderr
    assert cells(result.stdout, "responses")[1:4] == ["7", "2", "9"]


def test_a_manifest_of_other_settings_finishes_no_stage(run: Folder) -> None:
    artifact = begun(run)
    manifest = Manifest("responses", "teacher", "earlier settings", "responses", 500, 500, 0, {}, 1.5, [])
    write_manifest(artifact.folder, manifest)
    assert cells(printed(run), "responses")[1:4] == ["7", "2", "9"]
    assert "500" not in printed(run)
    artifact.finish("responses", "responses", 9, 1.0)
    assert unfinished_stages(run, time.time()) == []


def test_a_file_that_is_no_shard_is_counted_apart(run: Folder) -> None:
    artifact = begun(run)
    artifact.folder.write_bytes("part-empty.parquet", b"")
    artifact.folder.write_bytes("part-torn.parquet", b"PAR1 and then nothing")
    artifact.folder.write_bytes("_rejects/part-torn.parquet", b"x" * 100 + b"\x09\x00\x00\x00PAR1")
    (stage,) = unfinished_stages(run, time.time())
    assert (stage.num_rows, stage.num_rejected, stage.num_unreadable) == (7, 2, 3)
    assert "3 shards are no whole files" in printed(run)


def test_shards_that_are_merged_while_they_are_counted_end_nothing(
    run: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(run)

    def listed_before_the_merge(folder: Folder) -> list[StoredFile]:
        removed = [StoredFile(f"{inside}part-{'0' * 16}.parquet", 99, time.time()) for inside in ("", "_rejects/")]
        return stored_files(folder) + (removed if folder.name == "responses" else [])

    monkeypatch.setattr(unfinished, "stored_files", listed_before_the_merge)
    (stage,) = unfinished_stages(run, time.time())
    assert (stage.num_rows, stage.num_rejected, stage.num_recent, stage.num_unreadable) == (7, 2, 9, 0)


def test_a_training_in_the_middle_shows_its_steps(run: Folder) -> None:
    Artifact(run, "checkpoint", None, "settings").start()
    assert cells(printed(run), "checkpoint")[1] == "step 0"
    lines = [json.dumps({"step": step, "num_steps": 480, "loss": 1.0}) for step in (1, 120)]
    (run / "checkpoint").write_text("metrics.jsonl", "\n".join([*lines, '{"step": 1']))
    assert cells(printed(run), "checkpoint")[1] == "step 120 of 480"


def test_a_stage_that_has_not_begun_is_not_shown(run: Folder) -> None:
    assert unfinished_stages(run, time.time()) == []
    assert "In the middle" not in printed(run)


def test_in_an_object_store(tmp_path: Path) -> None:
    with store_with_credentials(tmp_path / "store.log") as store:
        run = Folder.at(store.uri("runs/mine"))
        run.write_text("config.yaml", "run: {name: mine}\n")
        begun(run)
        (stage,) = unfinished_stages(run, time.time())
        assert stage == Unfinished("responses", stage.changed, 7, 2, 9)
        assert "stopped for " in printed(run)
        with run_lock(run):
            assert "at work" in printed(run)
            assert "stopped for 1 d" in printed(run, time.time() + 30 * HOUR), "the lease was not renewed"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-9, "0 s"), (59.9, "60 s"), (60, "1 min"), (7199, "1 h"), (200_000, "2 d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text


def test_how_the_last_command_failed_is_shown_until_something_is_finished(tmp_path: Path) -> None:
    run = Folder.at(tmp_path / "run")
    with run_lock(run):
        begun(run)
    program = f"""
from pathlib import Path
from ray_distil.commands import cli
from ray_distil.errors import StageError

def job(fails):
    try:
        raise OSError("the cause")
    except OSError as error:
        if fails:
            raise StageError("responses: failed twice; see the log") from error

for fails in {{numbers}}:
    cli.guarded(lambda: job(fails), lambda: Path({str(tmp_path / "run" / "logs")!r}))
"""
    subprocess.run([sys.executable, "-c", program.format(numbers="[1]")], timeout=60, check=True, capture_output=True)
    text = " ".join(printed(run, time.time() + 300).split())
    assert "The last command failed 5 min ago: responses: failed twice; see the log all of it: " in text
    with run_lock(run):
        assert "failed" not in printed(run)
    subprocess.run(
        [sys.executable, "-c", program.format(numbers="[1, 0]")], timeout=60, check=True, capture_output=True
    )
    assert "failed" not in printed(run)

    (run / "logs").write_text("error-20261130T070000Z.log", "Traceback\n  File\nValueError: another cause\n")
    assert "ago: ValueError: another cause" in printed(run)
    (run / "logs").write_text("error-20261130T080000Z.log", "")
    assert "ago: its log is empty, as a full disk leaves it" in printed(run)
    make_older(tmp_path / "run" / "logs", HOUR)
    manifest = Manifest("instructions", "instructions", "f", "rows", 1, 1, 0, {}, 1.0, [])
    write_manifest(run / "instructions", manifest)
    assert "failed" not in printed(run)
