"""Nodes come when a stage asks for their role and leave when it is done: Ray's autoscaler v2 with its fake provider."""

import json
import threading

import pytest

from tests.integration.cluster import LOOPBACK, Cluster, SubmittedJob, wait_until
from tests.integration.conftest import ROOT

HEAD_ID = "f" * 51 + "00000"  # the name that the fake provider gives its head
ROLES = ("cpu", "teacher", "student")
ARGUMENTS = [
    "run.name=scaled",
    "run.parallel_engines=false",
    "instructions.num_train=60",
    "instructions.num_eval=8",
    "teachers.slow.fraction=0.5",
    "training.num_train_epochs=20",  # longer than a node stays idle before it is let go
    "teachers.direct.engine.resources={teacher: 1}",
    "teachers.slow.engine.resources={teacher: 1}",
    "evaluation.engine.resources={teacher: 1}",
    "training.resources_per_worker={student: 1}",
]


def autoscaling_config(port: int) -> dict[str, object]:
    """The node groups of cluster/, scaled down to processes on this machine."""

    def group(resources: dict[str, int], most: int) -> dict[str, object]:
        return {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}

    return {
        "cluster_name": "fake",
        "max_workers": 3,
        "idle_timeout_minutes": 0.15,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"{LOOPBACK}:{port}",
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
        **{
            f"{name}_commands": []
            for name in (
                "initialization",
                "setup",
                "head_setup",
                "worker_setup",
                "head_start_ray",
                "worker_start_ray",
            )
        },
    }


class Watch:
    """The roles of the nodes over time, as (stage files seen, sorted roles), each change once."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.seen, self.done = cluster, [], threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            roles = self.roles()
            if not self.seen or self.seen[-1] != roles:
                self.seen.append(roles)

    def roles(self) -> tuple[str, ...]:
        alive = self.cluster.nodes()
        return tuple(sorted(role for node in alive for role in ROLES if role in node["resources_total"]))

    def stop(self) -> list[tuple[str, ...]]:
        self.done.set()
        self.thread.join()
        return self.seen


def test_nodes_come_and_go_with_the_stages(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("a")  # short: Ray puts sockets there
    cluster = Cluster(
        tmp_path,
        "--num-cpus=0",
        f"--autoscaling-config={tmp_path / 'autoscaling.json'}",
        environment={
            "RAY_enable_autoscaler_v2": "1",
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        },
    )
    (tmp_path / "autoscaling.json").write_text(json.dumps(autoscaling_config(cluster.port)))
    with cluster:
        watch = Watch(cluster)
        assert watch.roles() == ()
        job = SubmittedJob(cluster, "scaled", ROOT, *ARGUMENTS, f"run.storage_path={tmp_path}", send=False)
        code, output = job.finish()
        assert code == 0, output
        wait_until(lambda: watch.seen[-1] == (), "the watch has seen all nodes gone", 90)
        seen = watch.stop()
    print("nodes over time:", " -> ".join("+".join(roles) or "none" for roles in seen))
    roles_over_time = [set(roles) for roles in seen]

    def first(wanted: str, after: int = 0) -> int:
        return next(i for i in range(after, len(seen)) if wanted in roles_over_time[i])

    def gone(unwanted: str, after: int) -> int:
        return next(i for i in range(after, len(seen)) if unwanted not in roles_over_time[i])

    teacher_up = first("teacher")
    assert "student" not in set().union(*roles_over_time[: teacher_up + 1])  # generation needs no training node
    teacher_down = gone("teacher", teacher_up)
    student_up = first("student")
    student_down = gone("student", student_up)
    assert teacher_up < teacher_down <= student_down  # teachers are let go while the student is trained
    assert any("student" in now and "teacher" not in now for now in roles_over_time)
    assert first("teacher", teacher_down) > teacher_down  # and come back to evaluate it
    assert roles_over_time[-1] == set()
