"""What the entry points in jobs/ share: arguments, and errors as exit codes.

0 done; 1 failed while running, with the path of the log; 2 wrong configuration or input, with the message alone;
130 interrupted by Ctrl-C, 143 by SIGTERM, as `ray job stop` sends it: within 10 seconds, with every process gone.
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import psutil

from ray_distil.config import DistillConfig, load
from ray_distil.run.watchdog import StoppedError
from ray_distil.runtime.session import at_work, family, kill, last_line, user_error_in

GRACE_SECONDS = 5.0  # from Ctrl-C to an end by force
INTERRUPTED = "interrupted; finished shards are kept: run the same command again to go on"


class Terminated(KeyboardInterrupt):
    """SIGTERM came; it ends a job in the way of Ctrl-C."""


def parser(description: str, required: bool = False) -> argparse.ArgumentParser:
    """The arguments that every job takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--config",
        metavar="FILE",
        required=required,
        help=f"configuration{'' if required else '; without it, the tiny recipe'}",
    )
    made.add_argument("overrides", nargs="*", metavar="key.path=value", help="e.g. training.num_train_epochs=2")
    return made


def guarded(job: Callable[[], None], log_folder: Callable[[], Path | None]) -> int:
    """Run a job and return its exit code, or end the process at a signal; the last line on stderr says what to do."""
    _end_by_signals()
    code = 0
    try:
        job()
    except KeyboardInterrupt as error:
        _leave(143 if isinstance(error, Terminated) else 130)
    except Exception as error:  # noqa: BLE001  the boundary of the process: everything else is a failure
        code = _told(error, log_folder())
        if isinstance(error, StoppedError) or at_work():  # tasks in Ray, or another stage beside it
            _leave(code, said="")
    return code


def _told(error: Exception, folder: Path | None) -> int:
    """Say what went wrong; returns the exit code."""
    if (mistake := user_error_in(error)) is not None:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    if folder is None:
        traceback.print_exception(error)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    told = last_line(error) if "Traceback" in str(error) or "ray::" in str(error) else error  # a worker's is in Ray's
    print(f"failed: {told}", file=sys.stderr)
    print(f"the whole error is in {folder / 'error.log'}; run the same command again to go on", file=sys.stderr)
    return 1


def _end_by_signals() -> None:
    """Ctrl-C and SIGTERM raise in the main thread; a process that is still there after GRACE_SECONDS ends by force.

    Raising alone is not enough: what a signal raises within a callback of Python's import system is ignored, and can
    leave that system locked for good.
    """
    console = os.dup(2)  # during a run, stderr goes to a file
    ending = threading.Event()

    def interrupt(number: int, _: object) -> None:
        if ending.is_set():
            return
        ending.set()
        # Who is there now: once a parent has gone, its children are no longer found.
        timer = threading.Timer(GRACE_SECONDS, _leave, [128 + number, console, family()])
        timer.daemon = True
        timer.start()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background jobs do not hear Ctrl-C
        signal.signal(signal.SIGINT, interrupt)


def _leave(
    code: int, console: int = 2, others: Sequence[psutil.Process] = (), said: str = f"{INTERRUPTED}\n"
) -> NoReturn:
    """End this process and all that came of it at once.

    Not by ray.shutdown(): threads that are still at work in Ray crash it. Shards are written whole or not at all, and
    a cluster cleans up behind a driver that has gone.
    """
    sys.stdout.flush()
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")  # the cursor, which a live view hides
    os.write(console, said.encode())
    kill([*others, *family()])
    os._exit(code)


def load_config(arguments: argparse.Namespace) -> DistillConfig:
    """The configuration that the arguments name."""
    return load(arguments.config, arguments.overrides)
