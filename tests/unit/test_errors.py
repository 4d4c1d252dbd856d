"""What people are told when a worker, a stage or another thread fails: the cause, its exit code, and nothing behind it."""

import ast
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_distil import errors
from ray_distil.errors import DistilError, UserError
from ray_distil.runtime.session import last_line, user_error_in
from tests.unit.test_layout import ROOT

RAY = """ray::MapWorker(MapBatches(Requests)).submit() (pid=1, ip=192.0.2.2)
  File "endpoint.py", line 130, in at_once
    choice = made.choices[0]
{cause}

The above exception was the direct cause of the following exception:

\x1b[36mray::MapWorker(MapBatches(Requests)).submit()\x1b[39m (pid=1, ip=192.0.2.2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext.get_current()` if you \
believe this to be transient.
"""
TWO_LINES = "packing.template: no\nteachers.slow.engine_kwargs.dtyp: vLLM has no such argument"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (RAY.format(cause="TypeError: 'NoneType' object is not subscriptable"), "TypeError: 'NoneType' object is not subscriptable"),
        (RAY.format(cause="KeyError: 'x'").split("\nThe above")[0], "KeyError: 'x'"),
        ("one\ntwo\nFor further information visit https://errors", "two"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_the_cause_is_told_and_not_the_advice_behind_it(text: str, line: str) -> None:
    assert last_line(RuntimeError(text)) == line


def test_a_mistake_stays_one_wherever_it_was_raised() -> None:
    assert user_error_in(UserError("no chat template")) == "no chat template"
    chained = RuntimeError("outer")
    chained.__cause__ = UserError("no chat template")
    assert user_error_in(chained) == "no chat template"
    assert (
        user_error_in(RuntimeError(RAY.format(cause="ray_distil.errors.UserError: no chat template")))
        == "no chat template"
    )
    in_two = RAY.format(cause=f"ray_distil.errors.ConfigError: {TWO_LINES}")
    assert user_error_in(RuntimeError(in_two)) == TWO_LINES
    assert user_error_in(RuntimeError(RAY.format(cause="ValueError: UserError is no word for this"))) is None


@pytest.mark.parametrize(("raised", "code", "said"), [("RuntimeError", 1, "failed: no"), ("UserError", 2, "error: no")])
def test_a_failure_beside_other_work_ends_at_once_and_cleanly(
    raised: str, code: int, said: str, tmp_path: Path
) -> None:
    program = f"""
import time
from pathlib import Path
from ray_distil import UserError; from ray_distil.commands import cli; from ray_distil.runtime import session

def job():
    session.in_background(lambda: time.sleep(60))
    raise {raised}("no")

raise SystemExit(cli.guarded(job, lambda: Path({str(tmp_path)!r})))
"""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == code
    assert ended.stderr.splitlines()[0] == said
    assert len(ended.stderr.splitlines()) == (2 if code == 1 else 1)
    assert time.monotonic() - started < 40


def test_nobody_is_told_to_repeat_a_command_that_would_end_the_same_way(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from ray_distil.commands import cli
from ray_distil.errors import NoRowsLeft, StageError

def job(error):
    raise error

for error in (NoRowsLeft("no example"), StageError("no engine")):
    cli.guarded(lambda: job(error), lambda: Path({str(tmp_path)!r}))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    said = ended.stderr.splitlines()
    assert said[::2] == ["failed: no example", "failed: no engine"]
    assert [line.endswith("; run the same command again to go on") for line in said[1::2]] == [False, True]


def test_all_errors_of_the_package_are_below_one_class() -> None:
    """A class of errors elsewhere in the package is below DistilError too, or is private to its module."""
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "ray_distil").rglob("*.py")}
    elsewhere = {
        f"{path.stem}.{node.name}"
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and path.stem != "errors"
        and not node.name.startswith("_")
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    }
    assert elsewhere == set()
    classes = [item for item in vars(errors).values() if isinstance(item, type)]
    assert len(classes) > 5
    assert all(issubclass(item, DistilError) for item in classes)


@pytest.mark.parametrize("error", [*UserError.__subclasses__(), UserError])
def test_the_cause_is_found_in_the_text_of_every_error_of_users(error: type[UserError]) -> None:
    text = RAY.format(cause=f"{error.__module__}.{error.__qualname__}: the value and the remedy")
    assert user_error_in(RuntimeError(text)) == "the value and the remedy"


@pytest.mark.parametrize(
    "error", [errors.BadRecord("code", "words"), errors.BadReply("words", None, "code"), UserError("words")]
)
def test_an_error_stays_itself_in_another_process(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), "words", vars(error))
