"""A Ray cluster of several raylets on this machine, with token authentication, and what to do with it."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

RAY = str(Path(sys.executable).parent / "ray")
LOOPBACK = "127.0.0.1"
NODE = "RAY_DISTIL_NODE"  # in the environment of a further node's processes
# Detached actors of Ray Data and ray.data.llm: the first job starts them, and the cluster keeps them for the next.
SERVICES = {
    "ray::_TelemetryAgent",
    "ray::ActorLocationTracker",
    "ray::_AutoscalingCoordinatorActor",
    "ray::_StatsActor",
}

# Seconds after which what has not happened never will. No test may fail because its neighbours are busy.
PATIENCE = 1800.0


def wait_until(happened: Callable[[], Any], what: str, pause: float = 0.05) -> Any:
    """The first true answer of `happened`, which is asked each `pause` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := happened()):
        assert time.monotonic() < deadline, f"{what}: not in {PATIENCE:.0f} s"
        time.sleep(pause)
    return answer


def processes_with(mark: str) -> dict[int, str]:
    """Process id -> command of the living processes that carry `mark` (NAME=value) in their environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it ended
            continue
    return {pid: command for pid, command in found.items() if command}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A head and further nodes, as `with Cluster() as cluster: cluster.add_node(...)`.

    All their processes carry `mark` in their environment; none of them outlives the block, nor does their `folder`.
    """

    def __init__(self, *head_options: str, environment: dict[str, str] | None = None) -> None:
        """`environment`: more of it, for the nodes alone."""
        # Not one of pytest's: Ray puts sockets there, whose paths may have 107 characters.
        self.temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.folder, self.head_options = Path(self.temporary.name), head_options
        self.mark = f"RAY_DISTIL_CLUSTER={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        kept = {key: v for key, v in os.environ.items() if not key.startswith("RAY_")}
        self.token = secrets.token_hex(16)
        authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        path = f"{Path(RAY).parent}:{kept['PATH']}"  # `python` of a job is the one with the packages
        self.environment = kept | authentication | {"RAY_USAGE_STATS_ENABLED": "0", "PATH": path}
        self.node_environment = self.environment | {name: value} | (environment or {})
        self.port, self.dashboard_port, self.metrics_port = free_port(), free_port(), free_port()
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """Of the dashboard and of the job API."""
        return f"http://{LOOPBACK}:{self.dashboard_port}"

    def __enter__(self) -> "Cluster":
        self._start(
            "head.log",
            "--head",
            f"--port={self.port}",
            "--include-dashboard=true",
            f"--dashboard-port={self.dashboard_port}",
            f"--metrics-export-port={self.metrics_port}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.folder / 'ray'}",
            *self.head_options,
        )

        def answers() -> bool:
            log = (self.folder / "head.log").read_text()
            assert self.started[0].poll() is None, f"the head ended: {log[-2000:]}"
            try:
                return bool(self.nodes())
            except OSError:  # not yet
                return False

        try:
            wait_until(answers, "the head answers", pause=0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 4  # Ray's agents take their time, and nothing is left that they could save
        while (left := processes_with(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.started:
            process.wait(20)
        self.temporary.cleanup()

    def add_node(self, *options: str) -> str:
        """A further raylet; returns its mark, which all its processes carry, when the cluster has it."""
        before = {node["node_id"] for node in self.nodes()}
        name = f"node-{len(self.started)}"
        # Nodes of one machine that share a folder unpack a job's working directory over each other.
        options = (*options, f"--temp-dir={self.folder / name}")
        self._start(f"{name}.log", f"--address={LOOPBACK}:{self.port}", *options, environment={NODE: name})
        wait_until(lambda: {node["node_id"] for node in self.nodes()} - before, "the node joins", pause=0.2)
        return f"{NODE}={name}"

    def kill(self, mark: str, named: str = "") -> int:
        """SIGKILL to this cluster's processes that carry `mark` and have `named` in their command; how many there were."""
        ours = processes_with(self.mark).items() & processes_with(mark).items()
        victims = [pid for pid, command in ours if named in command]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def nodes(self) -> list[dict[str, Any]]:
        """The living nodes, as the dashboard tells them."""
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes?limit=100", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            listed = json.load(reply)["data"]["result"]["result"]
        return [node for node in listed if node["state"] == "ALIVE"]

    def ray(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of Ray's own, as a user types it."""
        environment = self.environment | {"RAY_API_SERVER_ADDRESS": self.address, "RAY_ADDRESS": self.address}
        return subprocess.run([RAY, *arguments], capture_output=True, text=True, timeout=timeout, env=environment)

    def _start(self, log: str, *options: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        common = [f"--node-ip-address={LOOPBACK}", "--min-worker-port=0", "--max-worker-port=0"]
        agent = f"--dashboard-agent-listen-port={free_port()}"
        with open(self.folder / log, "wb") as file:
            process = subprocess.Popen(
                [RAY, "start", *options, *common, agent, "--block"],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.node_environment | environment,
                start_new_session=True,
            )
        self.started.append(process)


class SubmittedJob:
    """`ray job submit -- python jobs/distill.py ...` on a cluster; all the job's processes carry `mark`."""

    def __init__(self, cluster: Cluster, name: str, root: Path, *arguments: str, send: bool = True) -> None:
        """`root`: the checkout. Not to `send` it as the job's working directory is for nodes that share a folder."""
        self.cluster, self.name = cluster, name
        self.mark = f"RAY_DISTIL_JOB={uuid.uuid4().hex}"
        key, _, value = self.mark.partition("=")
        runtime_env = f'{{"env_vars": {{"{key}": "{value}"}}}}'
        options = ["--address", cluster.address, "--submission-id", name, *(["--working-dir", "."] if send else [])]
        script = "jobs/distill.py" if send else str(root / "jobs" / "distill.py")
        # The command waits for the job and shows what it prints.
        self.process = subprocess.Popen(
            [RAY, "job", "submit", *options, "--runtime-env-json", runtime_env, "--", "python", script, *arguments],
            cwd=root,
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until(self, happened: Callable[[], Any], what: str, pause: float = 0.05) -> None:
        def check() -> Any:
            assert self.process.poll() is None, self.process.communicate()[0]
            return happened()

        wait_until(check, what, pause=pause)

    def finish(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Exit code and output of the command."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def stop(self) -> tuple[int, str]:
        stopped = self.cluster.ray("job", "stop", self.name)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        return self.finish()

    def left(self, seconds: float = 30) -> set[str]:
        """The job's processes that are still there after so many seconds, but for the actors that serve all jobs."""
        deadline = time.monotonic() + seconds
        while (found := set(processes_with(self.mark).values()) - SERVICES) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found
