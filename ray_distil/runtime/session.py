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

from ray_distil.errors import UserError

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entry point of a submitted job
# The environment variables of every worker process, on this machine and on a cluster.
WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# The hook is given by name. The core process of an engine with several workers joins Ray with the runtime environment
# of its actor, and Ray would refuse a function there as a second hook.
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
USER_ERRORS = "|".join([UserError.__name__, *(error.__name__ for error in UserError.__subclasses__())])
USER_ERROR = re.compile(rf"^(?:\w+\.)*(?:{USER_ERRORS}): (.+(?:\n(?!\s|The above|ray::|\n).+)*)", re.MULTILINE)
ResultT = TypeVar("ResultT")


def start_ray(num_cpus: int | None, imports: tuple[str, ...] = ()) -> Path | None:
    """Connect to the cluster that the job runs on, else start a Ray of `num_cpus` logical CPUs on this machine.

    Meanwhile it imports the modules `imports`, and returns when both are done. It may be called again, from any thread.
    The first call returns the folder on this machine into which workers and engines write their messages.
    """
    collect_less()
    logs = None
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is this program's own
    # By default Ray Data holds back an operator that is ahead of the next one only when half of the object store is
    # full. Prompts are small: all prompts of a job would wait before its engines, and the driver track each block.
    # Not 0: of blocks of a few hundred bytes, as those of counts are, the sizes say nothing.
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0.0001")
    with _starting:
        import ray
        import ray.data

        loading = in_background(lambda: [importlib.import_module(name) for name in imports])
        if not ray.is_initialized():
            local = is_local()
            if local:  # few people watch the metrics of this Ray; its reports would take CPU time from the engines
                os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
                os.environ.setdefault("RAY_metrics_report_interval_ms", "60000")
                # Ray would start one worker for each CPU before it knows the run's environment: nobody could use them.
                os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            options = {
                "address": "local"
                if local
                else None,  # "local" ignores a cluster that `ray start` left on this machine
                "num_cpus": num_cpus if local else None,
                "include_dashboard": False if local else None,
                "runtime_env": {"env_vars": worker_env(), "worker_process_setup_hook": SETUP_HOOK},
                "log_to_driver": False,
            }
            context = in_lasting_thread(lambda: ray.init(**options))
            logs = Path(context.address_info["session_dir"]) / "logs"
            data_context = ray.data.DataContext.get_current()
            data_context.enable_progress_bars = False
            data_context.issue_detectors_config.detectors = []
            # A pool of engines grows while they are full. Ray's own 1.75 would need queues of batches in front of each.
            data_context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.9
            data_context.memory_usage_poll_interval_s = None  # else each task measures its memory each second, unread
        loading.result()
    return logs


def family() -> list[psutil.Process]:
    """The processes that this process started, directly or not. They include all processes of a Ray that it started."""
    return psutil.Process().children(recursive=True)


def kill(processes: list[psutil.Process]) -> None:
    """Kill the processes that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # raised too where another process has this number by now
            process.kill()


def worker_env() -> dict[str, str]:
    """WORKER_ENV without variables that a submitted job's runtime environment sets: Ray refuses duplicates."""
    env_vars = json.loads(os.environ.get(SUBMITTED, "{}")).get("runtime_env", {}).get("env_vars", {})
    return {name: value for name, value in WORKER_ENV.items() if name not in env_vars}


def nodes_without(folder: Path, seen_nodes: set[tuple[str, str]]) -> list[str]:
    """Addresses of the living nodes on which `folder` does not exist.

    `seen_nodes`: pairs (folder, id of a node that has it), which are not asked again; this function adds to it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:  # the driver's own
        return []
    nodes = [node for node in nodes if (str(folder), node["NodeID"]) not in seen_nodes]
    sees = ray.remote(num_cpus=0)(os.path.isdir)
    answers = [
        sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(folder))
        for node in nodes
    ]
    blind = []
    for node, answer in zip(nodes, answers, strict=True):
        with suppress(ray.exceptions.RayError):  # the node was lost meanwhile
            if ray.get(answer):
                seen_nodes.add((str(folder), node["NodeID"]))
            else:
                blind.append(node["NodeManagerAddress"])
    return blind


def engine_is_ready() -> bool:
    """Whether an actor of this job's datasets has loaded its model, or whatever else its start takes."""
    import ray
    from ray._private.state import actors

    job = ray.get_runtime_context().get_job_id()
    return any(
        actor["State"] == "ALIVE" and actor["JobID"] == job and actor["ActorClassName"].startswith("MapWorker")
        for actor in actors().values()
    )


def at_work() -> bool:
    """Whether a thread of `in_background` still works."""
    return any(thread.is_alive() for thread in _background)


def in_background(work: Callable[[], ResultT]) -> "Future[ResultT]":
    """Do `work` in a thread; the future gets its result or error. An interrupted process does not wait for the thread.

    Outside the main thread, no library can install its own handler for Ctrl-C.
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


def in_lasting_thread(work: Callable[[], ResultT]) -> ResultT:
    """`work()`, in the main thread or in one that lives as long as this process.

    Linux kills the processes of a Ray that a thread has started when this thread ends, not when the process does.
    """
    if threading.current_thread() is threading.main_thread():
        return work()
    result: Future[ResultT] = Future()

    def do_and_stay() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised where the result is awaited
            result.set_exception(error)
            return
        threading.Event().wait()

    threading.Thread(target=do_and_stay, daemon=True).start()
    return result.result()


def last_line(error: BaseException) -> str:
    """The line of an error's text that names the cause: the last line of its first traceback; else the error's type.

    Ray writes its own errors and advice after the worker's error.
    """
    text = str(error).partition("\nThe above exception was the direct cause")[0]
    lines = [ANSI.sub("", line).strip() for line in text.splitlines()]
    messages = [line for line in lines if line and not line.startswith(ADVICE)]
    return (messages or [type(error).__name__])[-1][:300]


def user_error_in(error: BaseException) -> str | None:
    """The message of the UserError that a task raised or that caused this error; None where there is none."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, UserError):
            return str(at)
        at = at.__cause__ or getattr(at, "cause", None)
    match = USER_ERROR.search(ANSI.sub("", str(error)))
    return match[1].strip() if match else None


def collect_less() -> None:
    """Let Python's garbage collector run less often: it takes nearly a fifth of the time to import vLLM."""
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def messages_to(file: Path) -> Iterator[None]:
    """Within the block, what libraries print, and what they or their C++ write to stderr, is appended to `file`.

    Ray, too, prints the errors of its workers. Text for the user must go to a `sys.stdout` that was saved before.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    saved_stderr = os.dup(2)
    with open(file, "a", buffering=1, encoding="utf-8", errors="replace") as target:
        os.dup2(target.fileno(), 2)
        try:
            with redirect_stdout(target):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(saved_stderr, 2)
            os.close(saved_stderr)


def is_local() -> bool:
    """Whether the run starts a Ray of its own, on this machine alone, without a dashboard."""
    return "RAY_ADDRESS" not in os.environ


def ray_is_there() -> bool:
    """Whether this process works on a Ray."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # None: another thread is importing Ray
    return is_initialized is not None and bool(is_initialized())


def machine() -> str:
    """What the run works on: "2 CPUs", or of a cluster "3 nodes, 64 CPUs, 8 GPUs (H100)"."""
    resources: dict[str, float] = {}
    num_nodes = 1
    if ray_is_there():
        import ray

        with suppress(ray.exceptions.RayError):
            resources = ray.cluster_resources()
            num_nodes = sum(node["Alive"] for node in ray.nodes())
    cpus = (
        (os.cpu_count() or 1) if is_local() else int(resources.get("CPU", 0))
    )  # a Ray of our own counts as it is told
    gpus = int(resources.get("GPU", 0))
    kinds = ", ".join(sorted(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")))
    parts = [counted(num_nodes, "node")] if num_nodes > 1 else []
    parts += [counted(cpus, "CPU")] if cpus else []
    parts += [counted(gpus, "GPU") + (f" ({kinds})" if kinds else "")] if gpus else []
    return ", ".join(parts)


def counted(number: int, noun: str) -> str:
    """1 node, 2 nodes."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
