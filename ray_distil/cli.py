"""What the entry points in jobs/ share: arguments, and errors as exit codes.

0 done; 1 failed while running, with the path of the log; 2 wrong configuration or input, with the message alone;
130 interrupted by Ctrl-C, 143 by SIGTERM, as `ray job stop` sends it.
"""

import argparse
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ray_distil import UserError
from ray_distil.config import DistillConfig, load


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
    """Run a job and return its exit code; the last line on stderr says what to do."""

    def terminate(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("interrupted; finished shards are kept: run the same command again to go on", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    except Exception as error:  # noqa: BLE001  the boundary of the process: everything else is a failure
        folder = log_folder()
        if folder is None:
            traceback.print_exc()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.log").write_text(traceback.format_exc(), encoding="utf-8")
            print(f"failed: {error}", file=sys.stderr)
            print(f"the whole error is in {folder / 'error.log'}; run the same command again to go on", file=sys.stderr)
        return 1
    return 0


def load_config(arguments: argparse.Namespace) -> DistillConfig:
    """The configuration that the arguments name."""
    return load(arguments.config, arguments.overrides)
