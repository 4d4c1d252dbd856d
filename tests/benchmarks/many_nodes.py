"""A teacher's stage on a cluster of many nodes, of which some are killed and others join: rows lost, doubled, saved late.

    python -m tests.benchmarks.many_nodes --nodes 16 --rows 24000

The nodes are Ray's own, on this machine; each offers one place for an engine. The engines need no model, are as slow and
uneven as those of a long reasoning, and cut or reject some rows. A quarter of the nodes is there at first, the others
join; later a quarter is killed by SIGKILL, and half as many join. 16 nodes take some 6 GiB.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests import null_engine
from tests.benchmarks.million_rows import problem, settings

BATCH_SIZE, BATCHES_AT_ONCE, SECONDS = 16, 8, 8.0
PHASE_S = 25.0


def start_cluster() -> Any:
    """A head without a place for engines. Its nodes have no agents for a dashboard, which take 115 MiB a node."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_num_prestart_python_workers": "0",
    }
    import ray._private.utils
    from ray.cluster_utils import Cluster

    ray._private.utils.write_ray_address = lambda *arguments, **options: None
    ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("not needed")
    head = {"num_cpus": 4, "object_store_memory": 300 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    return cluster


def add_nodes(cluster: Any, number: int) -> list[Any]:
    offer = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "resources": {"teacher": 1}}
    return [cluster.add_node(wait=False, **offer) for _ in range(number)]


class Shards:
    """Watches the files of a stage: how many there are, and the longest time in which none was new."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times, self.names = folder, list[float](), set[str]()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            new = {file.name for file in self.folder.rglob("part-*.parquet")} - self.names
            if new:
                self.names |= new
                self.times.append(time.monotonic())
            time.sleep(0.2)

    def longest_pause(self) -> float:
        return max((later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)), default=0.0)


def play(cluster: Any, nodes: list[Any], number: int, shards: Shards, say: Any) -> None:
    """Nodes that join, are killed, and join again, while the stage works."""
    while not shards.times:
        time.sleep(0.5)
    say("the first shard is there")
    nodes += add_nodes(cluster, number - len(nodes))
    say(f"nodes join: {len(nodes)}")
    time.sleep(PHASE_S)
    for node in nodes[: number // 4]:
        cluster.remove_node(node, allow_graceful=False)
    say(f"{number // 4} nodes were killed")
    time.sleep(PHASE_S)
    add_nodes(cluster, number // 8)
    say(f"{number // 8} nodes join")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--rows", type=int, default=24_000)
    chosen = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    cluster = start_cluster()
    nodes = add_nodes(cluster, max(1, chosen.nodes // 4))
    cluster.wait_for_nodes(timeout=200)
    say(f"{len(nodes)} nodes are there")

    from ray_distil import stages
    from ray_distil.config import load
    from ray_distil.config.models import resolve_models
    from ray_distil.runner.runs import Run
    from ray_distil.runtime.session import in_background

    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "answered"
        with open(folder / "problems.jsonl", "w") as file:
            file.writelines(json.dumps(problem(k)) + "\n" for k in range(chosen.rows))
        null_engine.install(SECONDS, 0.0, str(log))
        engine = {
            "concurrency": [1, chosen.nodes],
            "max_concurrent_batches": BATCHES_AT_ONCE,
            "num_cpus": 1,
            "resources": {"teacher": 1},
        }
        overrides = [f"teachers.direct.engine.{key}={json.dumps(value)}" for key, value in engine.items()]
        config = load(
            None, [*settings(folder, BATCH_SIZE), "teachers.slow=null", "long2short.enabled=false", *overrides]
        )
        run = Run(config, resolve_models(config))
        problems = stages.make_instructions(run, stages.read_problems(config))
        shards = Shards(folder / "rows" / "responses")
        # Ray starts nodes in the main thread alone.
        making = in_background(lambda: stages.make_responses(run, problems))
        play(cluster, nodes, chosen.nodes, shards, say)
        manifest = making.result().manifest()
        assert manifest is not None
        say(
            f"{manifest.rows_in:,} in = {manifest.rows_out:,} out + {manifest.rows_rejected:,} rejected; {manifest.summary}"
        )

        # Rows that were answered twice, since their engine was killed before they were saved.
        batches = null_engine.answered(log)
        num_answered = sum(rows for _, rows, _ in batches)
        say(
            f"{num_answered:,} rows answered by {len({engine for *_, engine in batches})} engines, "
            f"{num_answered - manifest.rows_in:,} of them once more; "
            f"longest time without a new shard {shards.longest_pause():.1f} s"
        )


if __name__ == "__main__":
    main()
