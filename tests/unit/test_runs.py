"""Work beside the stages, and where the libraries' messages go."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ray_distil.runs import beside, run_lock
from ray_distil.session import in_background, stderr_to
from ray_distil.storage import Folder


def test_work_is_done_while_the_body_runs() -> None:
    body_began, seen = threading.Event(), []
    with beside(lambda: seen.append(body_began.wait(20)), parallel=True):
        body_began.set()
    assert seen == [True]


def test_work_is_done_first_if_not_parallel() -> None:
    order: list[str] = []
    with beside(lambda: order.append("work"), parallel=False):
        order.append("body")
    assert order == ["work", "body"]


@pytest.mark.parametrize("parallel", [True, False])
def test_its_error_is_raised(parallel: bool) -> None:
    def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), beside(work, parallel):
        pass


def test_a_body_that_fails_does_not_wait_for_it() -> None:
    never = threading.Event()
    with pytest.raises(KeyError), beside(never.wait, parallel=True):
        raise KeyError("body")
    never.set()


def test_a_run_folder_has_one_maker(tmp_path: Path) -> None:
    held = f"from ray_distil.runs import run_lock; from ray_distil.storage import Folder\nwith run_lock(Folder({str(tmp_path)!r})): pass"
    with run_lock(Folder.at(tmp_path)):
        second = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True)
    assert "another process is making" in second.stderr
    with run_lock(Folder.at(tmp_path)):
        pass


def test_stderr_goes_to_the_file_and_comes_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "logs" / "driver.log"
    for text in (b"first\n", b"second\n"):
        with stderr_to(file):
            os.write(2, text)  # as C++ does, past sys.stderr
    os.write(2, b"shown\n")
    assert file.read_bytes() == b"first\nsecond\n"
    assert capfd.readouterr().err == "shown\n"


def test_work_in_background_gives_its_result_or_its_error() -> None:
    assert in_background(lambda: threading.current_thread() is threading.main_thread()).result() is False
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 / 0).result()


def test_an_error_beside_the_body_is_told_at_once() -> None:
    told: list[str] = []
    heard = threading.Event()

    def say(line: str) -> None:
        told.append(line)
        heard.set()

    with pytest.raises(ZeroDivisionError), beside(lambda: 1 / 0, True, say):  # type: ignore[arg-type, return-value]
        assert heard.wait(10)
    assert told == ["failed beside the other stages, which go on: division by zero"]
