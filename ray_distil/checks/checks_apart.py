"""The checks of `preflight.py` in a process of their own, which ends with them.

They load torch, Transformers' model code and small copies of models: 400 MiB that a driver would keep for days, and code
that may end its process, as a fault in a model's own C code does.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import ray_distil
from ray_distil.config import StagesConfig
from ray_distil.errors import UserError
from ray_distil.records.problem_facts import Figures, Summary

ROOT = Path(ray_distil.__file__).resolve().parents[1]
# What the process does: read its arguments, check, and write the remarks or the error.
WORK = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ray_distil.checks.checks_apart import work; work(sys.argv[1])"
)


def check(config: StagesConfig, models: dict[str, str], problems: Figures | None = None) -> list[str]:
    """What `preflight.check` returns and raises.

    Raises RuntimeError where the process itself fails: with its traceback, or with its exit code.
    """
    summary = None if problems is None else Summary(problems.facts, problems.samples)
    with tempfile.TemporaryDirectory(prefix="ray_distil-") as folder:
        exchange = Path(folder) / "checks"
        exchange.write_bytes(pickle.dumps((config, models, summary)))
        ended = subprocess.run([sys.executable, "-c", WORK, str(exchange)], stdout=2, env=os.environ)
        if ended.returncode:
            raise RuntimeError(
                f"the process of the checks before the first stage ended with {ended.returncode}, before it could say why; "
                "-9 is what a lack of memory looks like, -11 a fault in a library"
            )
        result = pickle.loads(exchange.read_bytes())
    if isinstance(result, UserError):
        raise result
    if isinstance(result, str):
        raise RuntimeError(f"the checks before the first stage failed:\n{result}")
    return list(result)


def work(exchange: str) -> None:
    """Check what the file `exchange` holds, and write the remarks there, a UserError, or the text of another error."""
    from ray_distil.checks import preflight

    file = Path(exchange)
    arguments = pickle.loads(file.read_bytes())
    result: list[str] | UserError | str
    try:
        result = preflight.check(*arguments)
    except UserError as error:
        result = error
    except Exception:  # noqa: BLE001  raised in the process that asked for the checks
        result = traceback.format_exc()
    file.write_bytes(pickle.dumps(result))
