"""A cluster whose nodes come and go: Ray's autoscaler v2, with its fake provider, in the roles of cluster/."""

import json
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from ray._private import parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from tests.integration.cluster import LOOPBACK, Cluster

ROOT = Path(__file__).resolve().parents[2]
HEAD_ID = "f" * 51 + "00000"  # the name that the fake provider gives its head
ROLES = ("cpu", "teacher", "student")
# What `cluster/` asks of a recipe, so that a stage works on the nodes of its role; the teachers' own are a caller's.
RESOURCES = [
    "evaluation.engine.resources={teacher: 1}",
    "training.resources_per_worker={student: 1}",
]
Roles = tuple[str, ...]


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Nodes with a folder each: those that share one unpack a job's working directory over each other."""

    def _create_node_with_resources_and_labels(self, *what: Any) -> None:
        own = tempfile.mkdtemp(dir=self.provider_config["folder"])
        with mock.patch.object(parameter, "RayParams", partial(parameter.RayParams, temp_dir=own)):
            super()._create_node_with_resources_and_labels(*what)


def autoscaling_config(port: int, folder: Path) -> dict[str, object]:
    """The node groups of cluster/, scaled down to processes on this machine."""

    def group(resources: dict[str, int], most: int) -> dict[str, object]:
        return {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}

    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fake",
        "max_workers": 3,
        "idle_timeout_minutes": 0.15,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": f"{__name__}.{Provider.__name__}",
            "gcs_address": f"{LOOPBACK}:{port}",
            "folder": str(folder),
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "use_internal_ips": True,
        },
        "available_node_types": {
            "ray.head.default": group({"CPU": 0}, 0),
            "cpu": group({"CPU": 2, "cpu": 1}, 1),
            "teacher": group({"CPU": 3, "teacher": 2}, 1),
            "student": group({"CPU": 2, "student": 2}, 1),
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{name}_commands": [] for name in commands},
    }


def autoscaled_cluster(environment: dict[str, str]) -> Cluster:
    """A head without CPUs; `environment`: more of it for the nodes."""
    settings = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_metrics_report_interval_ms": "2000",  # its 10 seconds are longer than some of these nodes live
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "PYTHONPATH": str(ROOT),  # the autoscaler finds Provider
    }
    cluster = Cluster("--num-cpus=0", environment=settings | environment)
    file = cluster.folder / "autoscaling.json"
    file.write_text(json.dumps(autoscaling_config(cluster.port, cluster.folder)))
    cluster.head_options = (*cluster.head_options, f"--autoscaling-config={file}")
    return cluster


class Watch:
    """The roles of the nodes over time, each change once."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.done = cluster, threading.Event()
        self.seen: list[Roles] = []
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(1):
            alive = self.cluster.nodes()
            roles = tuple(sorted(role for node in alive for role in ROLES if role in node["resources_total"]))
            if not self.seen or self.seen[-1] != roles:
                self.seen.append(roles)
