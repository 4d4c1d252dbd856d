"""Both commands of the recipe, as published, on tiny models: a real `vllm serve` as ENDPOINT, real training."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ray_distil.config import RECIPES
from ray_distil.config.models import resolve_model
from ray_distil.judge.results import final_result
from tests.integration.cluster import PATIENCE, free_port, wait_until
from tests.integration.conftest import ROOT, SmallRun

SECRET = "sk-never-to-be-written"
TEMPLATE = (
    "{{'<|im_start|>user\\n' + message['content'] + '<|im_end|>'}}\n"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant'}}{% endif %}"
    "{% if add_output %}{{'<|im_start|>assistant\\n' + message['output'] + '<|im_end|>-'}}{% endif %}"
)


@pytest.fixture(scope="module")
def endpoint():
    port = free_port()
    served = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]  # what `vllm serve` runs
    options = [
        f"--model={resolve_model('tiny:teacher-r1', 'k')}",
        "--dtype=float32",
        "--enforce-eager",
        "--max-model-len=2048",  # the file asks for 1,024 new tokens; the model's own length leaves no room for them
        '--hf-overrides={"max_position_embeddings": 2048}',
        '--override-generation-config={"temperature": 0}',  # on CPU vLLM ends with seeds above temperature 0
        "--kv-cache-memory-bytes=134217728",
    ]
    options += [f"--port={port}", "--host=127.0.0.1", f"--api-key={SECRET}", "--max-num-seqs=32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no third process beside the server and its core
    with subprocess.Popen(
        [*served, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:

        def answers() -> bool:
            assert server.poll() is None, "the server ended"
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
            except (urllib.error.URLError, OSError):
                return False

        wait_until(answers, "the server answers")
        yield f"http://127.0.0.1:{port}/v1"
        server.terminate()


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_two_commands_of_the_recipe(endpoint: str, small_run: SmallRun, tmp_path: Path) -> None:
    # Stage 1: long reasoning of the slow teacher, as any system may have written it down.
    responses = pd.read_parquet(small_run.folder / "responses")
    slow = responses[(responses.teacher == "slow") & (responses.finish_reason == "stop")]
    raw = [{"instruction": i, "output": r} for i, r in zip(slow.instruction, slow.response, strict=True)]
    (tmp_path / "raw.json").write_text(json.dumps(raw))
    for name in ("distilqwen2.5-0324_stage1.json", "distilqwen2.5-0324_stage2.json"):
        (tmp_path / name).write_bytes((RECIPES / name).read_bytes())
    infer = str(ROOT / "jobs" / "infer.py")
    made = command(tmp_path, infer, "--config=distilqwen2.5-0324_stage1.json", ENDPOINT=endpoint, TOKEN=SECRET)
    assert made.returncode == 0, made.stdout + made.stderr
    assert f"{len(raw)} of {len(raw)} rows" in made.stdout
    assert "differs from the original" in made.stdout

    simplified = json.loads((tmp_path / "raw_simplified.json").read_text())
    assert [row["instruction"] for row in simplified] == [row["instruction"] for row in raw]
    assert all(set(row) == {"instruction", "output"} and row["output"] for row in simplified)
    lengths = [(len(short["output"]), len(long["output"])) for short, long in zip(simplified, raw, strict=True)]
    assert sum(short for short, _ in lengths) < 0.5 * sum(long for _, long in lengths)
    agree = [final_result(s["output"]) == final_result(r["output"]) for s, r in zip(simplified, raw, strict=True)]
    assert sum(agree) > 0.7 * len(agree)  # it is the rewriter's answer to this very row
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file

    again = command(tmp_path, infer, "--config=distilqwen2.5-0324_stage1.json", ENDPOINT=endpoint, TOKEN=SECRET)
    assert again.stdout.count("complete:") == 2

    # Stage 2: the file's own paths; the student and the template lie where it says.
    (tmp_path / "distil_qwen_0324.json").write_bytes((tmp_path / "raw_simplified.json").read_bytes())
    (tmp_path / "chat_template_kd.jinja").write_text(TEMPLATE)
    student = tmp_path / "model" / "Qwen" / "Qwen2.5-1.5B-Instruct"
    student.parent.mkdir(parents=True)
    student.symlink_to(resolve_model("tiny:student-base", "k"))
    trained = command(tmp_path, str(ROOT / "jobs" / "train.py"), "--config=distilqwen2.5-0324_stage2.json")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    metrics = (tmp_path / "result_stage2_run" / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    an_epoch = -(-len(raw) // 8)  # sequences are examples, eight a step
    lines = [json.loads(line) for line in metrics]
    assert [line["step"] for line in lines] == list(range(1, 3 * an_epoch + 1))
    # The rate of the file is low: single steps differ by their examples, whole epochs by what was learnt.
    losses = [line["loss"] * line["num_learnt_tokens"] for line in lines]
    assert sum(losses[-an_epoch:]) < sum(losses[:an_epoch])

    trained_student, base = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (tmp_path / "result_stage2", student)
    )
    weights, before = trained_student.state_dict(), base.state_dict()
    assert weights.keys() == before.keys()
    assert not all(torch.equal(weights[name], before[name]) for name in before)
    assert AutoTokenizer.from_pretrained(tmp_path / "result_stage2").chat_template
