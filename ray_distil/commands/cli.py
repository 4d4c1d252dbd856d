"""What the commands share: arguments, and errors as exit codes.

0    done
1    failed while running; the last line has the path of the log
2    wrong configuration or input; only the message is printed
130  interrupted by Ctrl-C; the job ends within 10 seconds and leaves no process
143  the same by SIGTERM, which `ray job stop` sends
"""

import argparse
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
from rich.console import Console

from ray_distil.errors import NoRowsLeft, StoppedError
from ray_distil.runtime.session import at_work, family, kill, last_line, user_error_in

GRACE_SECONDS = 5.0  # after Ctrl-C; a job that still runs then is killed
ERROR_LOG = "error.log"
INTERRUPTED = "interrupted; finished shards and saved training states are kept: run the same command again to go on"


OPTIONS = {  # option -> the override that it stands for, and its help
    "--remake": ("run.remake=true", "make texts, states or a student again that were made with other settings before"),
    "--retry-failed": (
        "run.retry_failed=true",
        "try rows again that failed with a transient error, and remake what is made of them",
    ),
}


class Terminated(KeyboardInterrupt):
    """SIGTERM came: it ends a job as Ctrl-C does."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose help shows the command as it was started: `ray-distil eval`, or `python jobs/eval.py`."""

    def __init__(self, command: str, description: str | None) -> None:
        """`description`: the help, in which `ray-distil COMMAND` stands for the command."""
        started = program(command)
        super().__init__(
            prog=started,
            description=(description or "").replace(f"ray-distil {command}", started),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options may stand before, between and behind the other arguments."""
        return self.parse_intermixed_args(args, namespace)


class ConfigParser(CommandParser):
    """With the arguments that name a configuration. `overrides` include those that the options of OPTIONS stand for."""

    def __init__(
        self, command: str, description: str | None, required: bool = False, default: str = "the tiny recipe"
    ) -> None:
        super().__init__(command, description)
        self.add_argument(
            "--config",
            metavar="FILE",
            required=required,
            help=f"configuration, or a shipped recipe's name{'' if required else f'; without it, {default}'}",
        )
        for option, (override, text) in OPTIONS.items():
            self.add_argument(option, dest="options", action="append_const", const=override, default=[], help=text)
        self.add_argument("overrides", nargs="*", metavar="key.path=value", help="e.g. training.num_train_epochs=2")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = super().parse_args(args, namespace)
        arguments.overrides = [*arguments.overrides, *arguments.options]
        return arguments


def program(command: str) -> str:
    """How a user starts the command: as this process was started."""
    script = Path(sys.argv[0]).absolute()
    is_job = script.suffix == ".py" and script.parent.name == "jobs"
    return f"python jobs/{command}.py" if is_job else f"ray-distil {command}"


def stdout_console(width: int = 120) -> Console:
    """The console of a command, which prints texts as they are; `width`: of lines that go to no terminal."""
    width_there = None if sys.stdout.isatty() else width
    return Console(file=sys.stdout, width=width_there, highlight=False, markup=False, emoji=False)


def guarded(job: Callable[[], object], log_folder: Callable[[], Path | None] = lambda: None) -> int:
    """Run a job and return its exit code, or end the process at a signal; the last line on stderr says what to do."""
    _end_by_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a dash or a bar that the locale lacks is shown as "?"
    code = 0
    try:
        job()
        if (folder := log_folder()) is not None:
            (folder / ERROR_LOG).unlink(missing_ok=True)  # of an earlier command
    except KeyboardInterrupt as error:
        _leave(exit_code(error))
    except Exception as error:  # noqa: BLE001  the boundary of the process: everything else is a failure
        code = _print_error(error, log_folder())
        if isinstance(error, StoppedError) or at_work():  # tasks in Ray, or a stage in a thread, still run
            _leave(code, message="")
    return code


def exit_code(error: BaseException) -> int:
    """The exit code of a command that an error ends."""
    if isinstance(error, KeyboardInterrupt):
        return 143 if isinstance(error, Terminated) else 130
    return 1 if user_error_in(error) is None else 2


def message_of(error: BaseException) -> str:
    """What a command says of the error that ends it."""
    if (mistake := user_error_in(error)) is not None:
        return mistake
    is_of_ray = "Traceback" in str(error) or "ray::" in str(error)  # which wraps a worker's
    return last_line(error) if is_of_ray else str(error)


def _print_error(error: Exception, folder: Path | None) -> int:
    """Say what went wrong; returns the exit code."""
    if exit_code(error) == 2:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 2
    if folder is None and not isinstance(error, OSError):
        traceback.print_exception(error)
        return 1
    print(f"failed: {message_of(error)}", file=sys.stderr)
    if folder is None:  # a command without logs, on a disk that is full or gone
        return 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR_LOG).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        place = f"the whole error is in {folder / ERROR_LOG}"
    except OSError as refused:  # e.g. a full disk, which may be the error itself
        place = f"{folder / ERROR_LOG} could not be written ({refused.strerror})"
    advice = "" if isinstance(error, NoRowsLeft) else "; run the same command again to go on"
    print(f"{place}{advice}", file=sys.stderr)
    return 1


def _end_by_signals() -> None:
    """Ctrl-C and SIGTERM raise in the main thread; a process that still runs after GRACE_SECONDS is killed.

    Raising alone is not enough, for two reasons. Python raises only when the main thread comes back from a library's C
    code, which may hang. And it ignores an exception that a signal raises within a callback of its import system, whose
    lock can then stay taken for ever. So a thread of its own kills the process. It hears of a signal through a pipe,
    into which Python writes the signal's number at once.
    """
    console = os.dup(2)  # the console's own stderr: during a run, stderr goes to a file
    heard, signalled = os.pipe()
    os.set_blocking(signalled, False)
    ending = threading.Event()

    def kill_late() -> None:
        while (number := os.read(heard, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
            pass
        processes = family()  # listed now: when a parent has ended, its children can no longer be found
        time.sleep(GRACE_SECONDS)
        _leave(128 + number, console, processes)

    def interrupt(number: int, _: object) -> None:
        if ending.is_set():
            return
        ending.set()
        os.write(signalled, bytes([number]))  # once more, in case a library has a pipe of its own now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    threading.Thread(target=kill_late, daemon=True).start()
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are not this process's
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored in a background job of a shell
        signal.signal(signal.SIGINT, interrupt)


def _leave(
    code: int, console: int = 2, processes: Sequence[psutil.Process] = (), message: str = f"{INTERRUPTED}\n"
) -> NoReturn:
    """Kill this process and all processes that it started, at once.

    ray.shutdown() is not called: it crashes while threads still work in Ray. No shard can be half written, and a
    cluster removes the actors of a driver that has ended.
    """
    sys.stdout.flush()
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")  # shows the cursor, which a live view hides
    os.write(console, message.encode())
    kill([*processes, *family()])
    os._exit(code)
