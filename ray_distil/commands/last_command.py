"""How the last command of a run ended: who makes the run writes it, --status reads it.

RUN/logs/last_command.json    the command, when it began and ended, its exit code, and the message of its error

A record without an end, of a run on which nobody works, is of a command that was killed. A command whose configuration
cannot be read names no run, and a refused command of a new run leaves no folder: neither has a record.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from ray_distil.commands import cli
from ray_distil.config.section import without_secrets
from ray_distil.errors import UserError
from ray_distil.runner.lease import is_at_work
from ray_distil.runner.shipped_logs import LOGS
from ray_distil.runtime.redaction import redacted
from ray_distil.store.patience import hurried
from ray_distil.store.storage import Folder

FILE = "last_command.json"
MAX_CHARACTERS = 10_000  # of a message


@dataclass(frozen=True)
class LastCommand:
    """`began`, `ended`: seconds since 1970. `ended` and `code` are None while it works, and where it was killed."""

    command: str
    began: float
    ended: float | None = None
    code: int | None = None
    message: str = ""


@contextmanager
def recorded(run: Folder) -> Iterator[None]:
    """Within the block, this process makes the run: its record has no end. Behind it, the record says how it ended."""
    record = LastCommand(command_line(), time.time())
    _write(run, record)
    try:
        yield
    except BaseException as error:
        _write(run, _ended(record, error))
        raise
    _write(run, replace(record, ended=time.time(), code=0))


@contextmanager
def refusal(run: Folder) -> Iterator[None]:
    """Record an error of what a command does before it makes the run, where the run is there and nobody else makes it."""
    record = LastCommand(command_line(), time.time())
    try:
        yield
    except Exception as error:
        with hurried(), suppress(OSError, UserError):  # a store that is away
            if run.is_folder() and not is_at_work(run, 0.0, time.time()):
                _write(run, _ended(record, error))
        raise


def read(run: Folder) -> LastCommand | None:
    """The record of the run's last command; None where there is none."""
    try:
        return LastCommand(**json.loads((run / LOGS).read_text(FILE)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def command_line() -> str:
    """The command of this process as it was typed, without secrets; of a program of a user's own, its name alone."""
    script, *arguments = sys.argv or [""]
    is_job = Path(script).suffix == ".py" and Path(script).absolute().parent.name == "jobs"
    if not is_job and Path(script).name != "ray-distil":
        return Path(script).name
    return shlex.join([*(["python", script] if is_job else ["ray-distil"]), *map(_without_secrets, arguments)])


def _without_secrets(argument: str) -> str:
    """An argument with *** for secrets: in its URI, under its key, and in a mapping that is its value."""
    key, mark, text = argument.partition("=")
    if not mark:
        return redacted(argument)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, dict | list):
        hidden = without_secrets(value)
        return argument if hidden == value else f"{key}={json.dumps(hidden, default=str)}"
    return redacted(f"{key}={without_secrets(text, key.rpartition('.')[2])}")


def _ended(record: LastCommand, error: BaseException) -> LastCommand:
    return replace(
        record, ended=time.time(), code=cli.exit_code(error), message=redacted(cli.message_of(error))[:MAX_CHARACTERS]
    )


def _write(run: Folder, record: LastCommand) -> None:
    with hurried(), suppress(OSError):  # a full disk, or a store that is away: the run's own error is the one to raise
        (run / LOGS).write_text(FILE, json.dumps(asdict(record), indent=1) + "\n")
