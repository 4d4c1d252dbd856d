"""Tells which resources a stage waits for: its tasks, actors or workers ask for them, and no node has them free.

Ray waits for resources without a message, and Ray Train waits for ever. On a cluster, new nodes may be starting.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_distil.runtime.session import ray_is_there

EACH_SECONDS = 60.0
OF_NODES = ("node:", "memory", "object_store_memory")  # prefixes of resource names that no stage asks for


@contextmanager
def announced(name: str, idle_seconds: Callable[[], float], say: Callable[[str], None]) -> Iterator[None]:
    """While the body runs: a line for each minute in which no row is finished and requested resources are missing."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EACH_SECONDS):
            if idle_seconds() >= EACH_SECONDS and ray_is_there() and (demand := unmet()):
                say(f"{name}: waits for {demand}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def unmet() -> str:
    """Requested resources that are missing, and all that there are; "" if none is missing.

    E.g. "2 x {CPU: 1, GPU: 1}; this Ray has CPU 16, GPU 0".
    """
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        resources = ray.cluster_resources()
    except Exception:  # noqa: BLE001  Ray may be about to end: a remark must not stop the run
        return ""
    demands = status.resource_demands
    counts: Counter[str] = Counter()
    for demand in [*demands.ray_task_actor_demand, *demands.placement_group_demand]:
        for bundle in demand.bundles_by_count:
            shape = ", ".join(f"{k}: {v:g}" for k, v in sorted(bundle.bundle.items()) if v and not _is_of_a_group(k))
            counts[f"{{{shape}}}"] += bundle.count
    if not counts:
        return ""
    has = {"GPU": 0.0} | {name: n for name, n in resources.items() if not name.startswith(OF_NODES)}
    nodes = len(status.pending_launches) + len(status.pending_nodes)
    coming = f"; {nodes} nodes are on their way" if nodes else ""
    shapes = ", ".join(f"{number} x {shape}" for shape, number in counts.most_common(3))
    return f"{shapes}; this Ray has {', '.join(f'{name} {number:g}' for name, number in sorted(has.items()))}{coming}"


def _is_of_a_group(resource: str) -> bool:
    """Whether a resource is one that Ray itself adds for a bundle of a placement group."""
    return "_group_" in resource or resource.startswith("bundle_")
