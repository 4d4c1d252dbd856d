"""Engines over several workers, and pools of several engines."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import processes_with
from tests.integration.respond import __file__ as RESPOND

pytestmark = pytest.mark.long
NUM_TRAIN = 160
MARK = "RAY_DISTIL_POOL=slow"
# What the core of an engine over several workers does, whose executor is Ray: a process of its own joins the Ray of
# the actor that it belongs to, under the actor's runtime environment, and starts the workers as actors there.
CORE = """
import os, pickle, ray, sys
address, runtime_env = pickle.load(sys.stdin.buffer)
ray.init(address=address, runtime_env=runtime_env, logging_level="ERROR")
worker = ray.remote(num_cpus=0, runtime_env=dict(runtime_env))(lambda: os.environ["OF_THE_ENGINE"])
print("NODE", ray.get_runtime_context().get_node_id(), ray.get(worker.remote()))
"""
ACTOR = f"""
import pickle, ray, subprocess, sys
from ray_distil.runtime.session import start_ray
start_ray(2)

@ray.remote(runtime_env={{"env_vars": {{"OF_THE_ENGINE": "inherited"}}}})
class Engine:
    def start(self):
        context = ray.get_runtime_context()
        told = subprocess.run(
            [sys.executable, "-c", {CORE!r}], capture_output=True, timeout=120,
            input=pickle.dumps((context.gcs_address, context.runtime_env)))
        return context.get_node_id(), told.stdout.decode(), told.stderr.decode()

node, out, err = ray.get(Engine.remote().start.remote())
assert f"NODE {{node}} inherited" in out, out + err
"""


def test_the_core_of_an_engine_joins_the_ray_of_its_actor(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, "-c", ACTOR], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert made.returncode == 0, made.stdout + made.stderr


def test_a_pool_grows_and_an_engine_has_several_workers(tmp_path: Path) -> None:
    direct, slow = "teachers.direct.engine", "teachers.slow.engine"
    name, _, value = MARK.partition("=")
    arguments = [
        f"run.storage_path={tmp_path}",
        "run.name=sizes",
        "run.parallel_engines=false",
        "ray.num_cpus=6",
        f"instructions.num_train={NUM_TRAIN}",
        "teachers.direct.fraction=0.25",
        f"{direct}.engine_kwargs.tensor_parallel_size=2",
        f"{direct}.engine_kwargs.distributed_executor_backend=mp",  # vLLM has no Ray executor for CPUs
        f'{direct}.env_vars.VLLM_CPU_OMP_THREADS_BIND="0|1"',
        "teachers.slow.fraction=1.0",
        f"{slow}.concurrency=[1, 2]",
        f"{slow}.batch_size=8",
        f"{slow}.max_concurrent_batches=2",
        f"{slow}.engine_kwargs.max_num_seqs=16",
        f'{slow}.env_vars.{name}="{value}"',
        "long2short.enabled=false",
    ]
    most, over = {"engines": 0}, threading.Event()

    def watch() -> None:
        while not over.is_set():
            engines = [command for command in processes_with(MARK).values() if "vLLMEngineStageUDF" in command]
            most["engines"] = max(most["engines"], len(engines))
            time.sleep(0.5)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        made = subprocess.run([sys.executable, RESPOND, *arguments], cwd=tmp_path, capture_output=True, text=True)
    finally:
        over.set()
        watching.join()
    assert made.returncode == 0, made.stdout + made.stderr
    manifest = read_manifest(Folder.at(tmp_path / "sizes" / "responses"))
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out
    rows = pd.read_parquet(tmp_path / "sizes" / "responses")
    assert rows.response_id.is_unique
    assert set(rows.finish_reason) == {"stop"}
    assert (rows.teacher == "slow").sum() == NUM_TRAIN
    right = rows.answer == rows.reference_answer
    print(json.dumps({"right": right.groupby(rows.teacher).mean().round(3).to_dict(), **most}))
    assert right.groupby(rows.teacher).mean().min() > 0.9  # weights that were split wrongly would know no answer
    assert most["engines"] == 2
