"""The GPU-hours of a run while it works: the GPUs that its engines and training workers hold, looked up again and again."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray_distil.runtime import metrics
from ray_distil.runtime.session import last_line, ray_is_there

PERIOD_S = 15.0


@contextmanager
def counted(run: str, usd_per_gpu_hour: float | None) -> Iterator[None]:
    """Within the block, count the GPU-hours of this process's Ray job, and their dollars where a GPU-hour has a price."""
    over = threading.Event()

    def work() -> None:
        last = time.monotonic()
        while not over.wait(PERIOD_S):
            now = time.monotonic()
            try:
                hours = gpus_held() * (now - last) / 3600 if ray_is_there() else 0.0
            except Exception as error:  # noqa: BLE001  a head that is silent for a moment: the next look covers its time
                print(f"GPU-hours were not counted: {last_line(error)}", file=sys.stderr)
                continue
            last = now
            metrics.count("distil_gpu_hours", hours, run=run)
            metrics.count("distil_gpu_usd", hours * (usd_per_gpu_hour or 0), run=run)

    threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def gpus_held() -> float:
    """GPUs of the placement groups of this process's Ray job, and of its living actors outside placement groups."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    tables = state._connect_and_get_accessor()
    groups = map(PlacementGroupTableData.FromString, tables.get_placement_group_table())
    actors = map(ActorTableData.FromString, tables.get_actor_table(None, None))
    in_groups = sum(
        bundle.unit_resources.get("GPU", 0.0)
        for group in groups
        if group.creator_job_id == job and group.state == PlacementGroupTableData.CREATED
        for bundle in group.bundles
    )
    alone = sum(
        actor.required_resources.get("GPU", 0.0)
        for actor in actors
        if actor.job_id == job and actor.state == ActorTableData.ALIVE and not actor.placement_group_id
    )
    return float(in_groups + alone)
