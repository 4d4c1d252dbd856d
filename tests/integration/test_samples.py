"""finish_reason and n samples are those of vLLM itself, on 500 prompts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from ray_distil.config import load
from ray_distil.engine import whole_responses
from ray_distil.models import resolve_model
from ray_distil.prompts import instruction_messages
from tests.integration.respond import __file__ as RESPOND

NUM_PROMPTS, NUM_SAMPLES = 500, 2
SAMPLING = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 54}  # about the length of a response: many are cut
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
model, engine_kwargs, conversations, params = json.loads(sys.stdin.read())
llm = LLM(model, **engine_kwargs)
outputs = llm.chat(conversations, [SamplingParams(**p) for p in params], use_tqdm=False)
print("MADE", json.dumps([[[c.text, c.finish_reason, len(c.token_ids)] for c in o.outputs] for o in outputs]))
"""


def test_samples_are_those_of_vllms_own_n(tmp_path: Path) -> None:
    config = load()
    engine = config.teachers.direct.engine
    arguments = [
        f"instructions.num_train={NUM_PROMPTS}",
        "teachers.slow=null",
        f"teachers.direct.num_samples={NUM_SAMPLES}",
        f"teachers.direct.sampling_params={json.dumps(SAMPLING)}",
        "long2short.enabled=false",
        "run.max_reject_fraction=1",
        f"run.storage_path={tmp_path}",
        "run.name=samples",
        "run.max_shard_mb=0.01",
    ]
    made = subprocess.run([sys.executable, RESPOND, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    rows = pd.read_parquet(tmp_path / "samples" / "responses").sort_values(["instruction_id", "sample_index"])
    assert len(rows) == NUM_PROMPTS * NUM_SAMPLES
    sizes = [file.stat().st_size for file in (tmp_path / "samples" / "responses").glob("part-*.parquet")]
    assert len(sizes) > 2
    assert sorted(sizes)[1] > 5_000  # all but the last are about as large as asked for
    seeds = rows.sampling_params.map(lambda text: json.loads(text)["seed"])
    first = rows.sample_index == 0
    assert seeds.is_unique

    suffix = config.instructions.suffix
    asked = [
        resolve_model("tiny:teacher-v3", "k"),
        engine.engine_kwargs,
        [instruction_messages(text, suffix) for text in rows[first].instruction],
        [{**SAMPLING, "n": NUM_SAMPLES, "seed": seed} for seed in seeds[first]],
    ]
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(asked, default=int),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | engine.env_vars,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    outputs = json.loads(next(line for line in told.stdout.splitlines() if line.startswith("MADE"))[4:])
    expected = [[text, reason, length] for samples in outputs for text, reason, length in samples]
    found = rows[["response", "finish_reason", "num_generated_tokens"]].values.tolist()
    different = [(own, theirs) for own, theirs in zip(found, expected, strict=True) if own != theirs]
    print(f"{len(different)} of {len(found)} differ; finish_reason: {rows.finish_reason.value_counts().to_dict()}")
    assert not different
    assert rows.finish_reason.value_counts().min() > 100  # both kinds are there
    assert rows.groupby("instruction_id").response.nunique().max() == NUM_SAMPLES


def test_an_engine_is_asked_for_whole_responses() -> None:
    """Else vLLM makes an output of all text so far for each token, and ray.data.llm takes the last alone."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    class Engine:
        def __init__(self, *, model: str) -> None:
            self.llm = SimpleNamespace(engine=SimpleNamespace(generate=lambda **asked: (model, asked)))

    engine: Any = whole_responses(Engine, "org/name")(model="org/name")
    params = SamplingParams(max_tokens=3)
    model, asked = engine.llm.engine.generate(request_id="1", prompt="Q", sampling_params=params)
    assert model == "org/name"
    assert asked == {"request_id": "1", "prompt": "Q", "sampling_params": params}
    assert params.output_kind is RequestOutputKind.FINAL_ONLY
