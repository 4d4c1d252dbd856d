"""What a stage waits for: resources that its tasks, actors or workers ask for and that no node has free.

Ray waits for them without a word, and Ray Train for ever; on a cluster nodes may be on their way.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_distil.runtime.session import ray_is_there

EACH_SECONDS = 60.0
OF_NODES = ("node:", "memory", "object_store_memory")  # begin the resources that nobody asks for


@contextmanager
def told(name: str, idle_seconds: Callable[[], float], say: Callable[[str], None]) -> Iterator[None]:
    """While the body runs: a line each minute in which nothing is finished and something is asked for that is not there."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EACH_SECONDS):
            if idle_seconds() >= EACH_SECONDS and ray_is_there() and (asked := unmet()):
                say(f"{name}: waits for {asked}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def unmet() -> str:
    """ "2 x {CPU: 1, GPU: 1}; this Ray has CPU 16, GPU 0": what is asked for in vain, and what there is; "" if nothing."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        there = ray.cluster_resources()
    except Exception:  # noqa: BLE001  a remark is not worth a run: Ray may be about to end
        return ""
    demands = status.resource_demands
    asked: Counter[str] = Counter()
    for demand in [*demands.ray_task_actor_demand, *demands.placement_group_demand]:
        for bundle in demand.bundles_by_count:
            shape = ", ".join(f"{k}: {v:g}" for k, v in sorted(bundle.bundle.items()) if v and not _is_of_a_group(k))
            asked[f"{{{shape}}}"] += bundle.count
    if not asked:
        return ""
    has = {"GPU": 0.0} | {name: n for name, n in there.items() if not name.startswith(OF_NODES)}
    nodes = len(status.pending_launches) + len(status.pending_nodes)
    coming = f"; {nodes} nodes are on their way" if nodes else ""
    wanted = ", ".join(f"{number} x {shape}" for shape, number in asked.most_common(3))
    return f"{wanted}; this Ray has {', '.join(f'{name} {number:g}' for name, number in sorted(has.items()))}{coming}"


def _is_of_a_group(resource: str) -> bool:
    """Whether a resource is Ray's own name for a bundle of a placement group."""
    return "_group_" in resource or resource.startswith("bundle_")
