"""--status says how the last command of a run ended: refused, failed, interrupted or killed; secrets are not in it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_distil.commands import last_command, pipeline
from ray_distil.config import load
from ray_distil.errors import StageError, UserError
from ray_distil.runner.lease import run_lock
from ray_distil.store.listing import stored_files
from ray_distil.store.storage import Folder
from tests.object_store import store_with_credentials
from tests.unit.test_distill_job import ROOT, distill
from tests.unit.test_status import HOUR, printed


def words(run: Folder, now: float | None = None) -> str:
    """What --status says, in one line; of an age of seconds, not how many."""
    return re.sub(r", \d+ s ago", "", " ".join(printed(run, now).split()))


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    """A run that some command has begun."""
    with run_lock(folder := Folder.at(tmp_path / "runs" / "tiny")):
        return folder


def test_a_command_that_is_refused_in_its_first_seconds_is_in_status(run: Folder, tmp_path: Path) -> None:
    result = distill(tmp_path, "instructions.path=absent.jsonl", "teachers.slow.engine.engine_kwargs={hf_token: hf_a1}")
    assert result.returncode == 2
    said = words(run, time.time() + 300)
    assert "The last command ended with exit code 2, 5 min ago: instructions.path: there is no file" in said
    assert f"command: python {ROOT}/jobs/distill.py instructions.path=absent.jsonl" in said
    assert "hf_a1" not in said
    assert '"hf_token": "***"' in said


def test_a_stage_that_is_refused_is_in_status_until_a_command_succeeds(tmp_path: Path) -> None:
    config = load(None, [f"run.storage_path={tmp_path}"])
    with pytest.raises(UserError), pipeline.opened(config, pipeline.Display()):
        raise UserError("responses: 415 texts would be asked for again\nthe second line of s3://id:key@bucket/x")
    said = words(config.run_folder)
    assert "ended with exit code 2: responses: 415 texts would be asked for again command: " in said
    assert "the second line" not in said
    assert f"all of it: {config.run_folder}/logs/{last_command.FILE}" in said
    assert "key@" not in (config.run_folder / "logs").read_text(last_command.FILE)

    with pipeline.opened(config, pipeline.Display()):
        assert "The last command" not in printed(config.run_folder), "it is at work"
    assert "The last command" not in printed(config.run_folder)


def test_a_failure_has_its_exit_code_and_the_place_of_the_whole_error(tmp_path: Path) -> None:
    config = load(None, [f"run.storage_path={tmp_path}"])
    with pytest.raises(StageError), pipeline.opened(config, pipeline.Display()):
        raise StageError("responses: failed twice")
    (config.run_folder / "logs").write_text("error.log", "Traceback\nray_distil.errors.StageError: responses: failed\n")
    said = words(config.run_folder)
    assert "The last command ended with exit code 1: responses: failed twice command: " in said
    assert f"all of it: {config.run_folder}/logs/error.log" in said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "The last command, which began 2 h ago, was killed or lost its machine: it left no exit code"),
        (signal.SIGTERM, "The last command was interrupted (exit code 143) 2 h ago"),
        (signal.SIGINT, "The last command was interrupted (exit code 130) 2 h ago"),
    ],
)
def test_a_command_that_was_ended_from_outside(tmp_path: Path, number: signal.Signals, said: str) -> None:
    program = f"""
import signal, time
from ray_distil.commands import cli, pipeline
from ray_distil.config import load

signal.signal(signal.SIGINT, signal.default_int_handler)
config = load(None, ["run.storage_path={tmp_path}"])

def job():
    with pipeline.opened(config, pipeline.Display()):
        (config.run_folder / "logs").write_text("at_work", "")
        time.sleep(60)

raise SystemExit(cli.guarded(job))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 50
    while not (tmp_path / "tiny" / "logs" / "at_work").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.wait(timeout=30)
    assert said in words(Folder.at(tmp_path / "tiny"), time.time() + 2.5 * HOUR)


def test_who_does_not_make_the_run_says_nothing_of_it(run: Folder, tmp_path: Path) -> None:
    config = load(None, [f"run.storage_path={tmp_path / 'runs'}"])
    with run_lock(run):
        with pytest.raises(UserError, match="another process"), pipeline.opened(config, pipeline.Display()):
            pass
        assert distill(tmp_path, "instructions.path=absent.jsonl").returncode == 2
        assert [file.name for file in stored_files(run)] == [".lock"]
    assert distill(tmp_path, "instructions.path=absent.jsonl", "run.name=new").returncode == 2
    assert not (tmp_path / "runs" / "new").exists(), "no run comes of a refused command"


def test_in_an_object_store(tmp_path: Path) -> None:
    with store_with_credentials(tmp_path / "store.log") as store:
        config = load(None, [f"run.storage_path={store.uri('runs')}"])
        with pytest.raises(UserError), pipeline.opened(config, pipeline.Display()):
            raise UserError("responses: 415 texts would be asked for again")
        run = config.run_folder
        assert "ended with exit code 2: responses: 415 texts would be asked for again" in words(run)
        with pytest.raises(UserError), last_command.refusal(run):
            raise UserError("there is no file")
        assert "ended with exit code 2: there is no file" in words(run)
        with pipeline.opened(config, pipeline.Display()):
            pass
        assert "The last command" not in words(run)
