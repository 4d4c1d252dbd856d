"""The Ray that a run works on, and where the libraries' messages go."""

import gc
import importlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

import psutil

from ray_distil import UserError

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entry point of a submitted job
# One definition of what every worker process sees, on this machine and on a cluster.
WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# A name, not the function: the core of an engine over several workers joins Ray with its actor's runtime environment, and
# Ray would refuse a function there as a second hook.
SETUP_HOOK = "ray_distil.runtime.session.collect_less"
_starting = threading.Lock()
_background: WeakSet[threading.Thread] = WeakSet()
ANSI = re.compile(r"\x1b\[[0-9;]*m")
ADVICE = (  # lines at the end of errors of pydantic and of Ray Data
    "For further information",
    "To change retry attempts",
    "Failed to apply UDF transform",
    "UDF failed to process",
)
USER_ERROR = re.compile(r"^(?:\w+\.)*(?:UserError|ConfigError): (.+(?:\n(?!\s|The above|ray::|\n).+)*)", re.MULTILINE)
ResultT = TypeVar("ResultT")


def start_ray(num_cpus: int | None, imports: tuple[str, ...] = ()) -> Path | None:
    """Connect to the cluster that the job runs on, else start a Ray of `num_cpus` logical CPUs on this machine.

    Returns when the modules `imports` are imported as well, beside the start. May be called again, from any thread;
    the first call returns the folder of this machine in which workers and engines write their messages.
    """
    collect_less()
    logs = None
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is this program's own
    # Ray Data holds an operator back that is ahead of the next one, but only when half of the object store is full.
    # Prompts are small: all of a job's would wait in front of its engines, each block of them in the driver's books.
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
    with _starting:
        import ray
        import ray.data

        loading = in_background(lambda: [importlib.import_module(name) for name in imports])
        if not ray.is_initialized():
            local = is_local()
            if local:  # few watch this Ray, and an engine may need the cores that its reports would take
                os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
                os.environ.setdefault("RAY_metrics_report_interval_ms", "60000")
                # Workers that Ray begins before it knows the run's environment, one a CPU, would do nothing.
                os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            context = ray.init(
                address="local" if local else None,  # and not a cluster that `ray start` left on this machine
                num_cpus=num_cpus if local else None,
                include_dashboard=False if local else None,
                runtime_env={"env_vars": worker_env(), "worker_process_setup_hook": SETUP_HOOK},
                log_to_driver=False,
            )
            logs = Path(context.address_info["session_dir"]) / "logs"
            data_context = ray.data.DataContext.get_current()
            data_context.enable_progress_bars = False
            data_context.issue_detectors_config.detectors = []
            data_context.memory_usage_poll_interval_s = None  # each second of each task in flight, and read by nobody
        loading.result()
    return logs


def family() -> list[psutil.Process]:
    """The processes that came of this one: of a Ray that it started, all of it."""
    return psutil.Process().children(recursive=True)


def kill(processes: list[psutil.Process]) -> None:
    """End processes at once, those that are there still."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # also where another process has its number now
            process.kill()


def worker_env() -> dict[str, str]:
    """WORKER_ENV, but for what a submitted job's own runtime environment sets: Ray refuses to be told twice."""
    given = json.loads(os.environ.get(SUBMITTED, "{}")).get("runtime_env", {}).get("env_vars", {})
    return {name: value for name, value in WORKER_ENV.items() if name not in given}


def nodes_without(folder: Path, seen: set[tuple[str, str]]) -> list[str]:
    """Addresses of the nodes, of those that are there now, on which there is no such folder.

    `seen`: folders, and ids of nodes that have them, which are not asked again; it is added to.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:  # the driver's own
        return []
    nodes = [node for node in nodes if (str(folder), node["NodeID"]) not in seen]
    sees = ray.remote(num_cpus=0)(os.path.isdir)
    asked = [
        sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(folder))
        for node in nodes
    ]
    blind = []
    for node, answer in zip(nodes, asked, strict=True):
        with suppress(ray.exceptions.RayError):  # the node has gone since
            if ray.get(answer):
                seen.add((str(folder), node["NodeID"]))
            else:
                blind.append(node["NodeManagerAddress"])
    return blind


def at_work() -> bool:
    """Whether work in the background goes on."""
    return any(thread.is_alive() for thread in _background)


def in_background(work: Callable[[], ResultT]) -> "Future[ResultT]":
    """Do `work` in a thread that an interrupted process does not wait for; its result or error is the future's.

    In no thread but the main one can a library put its own handler for Ctrl-C.
    """
    future: Future[ResultT] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised where the result is asked for
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    _background.add(thread)
    thread.start()
    return future


def last_line(error: BaseException) -> str:
    """The line that names the cause: the last of the first traceback in an error's text; or the error's name.

    Ray puts its own errors and advice behind the worker's.
    """
    text = str(error).partition("\nThe above exception was the direct cause")[0]
    lines = [ANSI.sub("", line).strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(ADVICE)]
    return (told or [type(error).__name__])[-1][:300]


def user_error_in(error: BaseException) -> str | None:
    """The message of the UserError that a task raised or that caused this error; None where there is none."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, UserError):
            return str(at)
        at = at.__cause__ or getattr(at, "cause", None)
    found = USER_ERROR.search(ANSI.sub("", str(error)))
    return found[1].strip() if found else None


def collect_less() -> None:
    """Let Python's garbage collector look less often: nearly a fifth of the time to import vLLM is its own."""
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def messages_to(file: Path) -> Iterator[None]:
    """What libraries print, and what they and their C++ write to stderr, goes to the end of `file` for the while.

    Ray prints the errors of its workers. What is to be seen needs a `sys.stdout` that was kept from before.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    with open(file, "a", buffering=1, encoding="utf-8", errors="replace") as target:
        os.dup2(target.fileno(), 2)
        try:
            with redirect_stdout(target):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def is_local() -> bool:
    """Whether the run starts a Ray of its own, on this machine alone, without a dashboard."""
    return "RAY_ADDRESS" not in os.environ


def ray_is_there() -> bool:
    """Whether this process works on a Ray."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())
