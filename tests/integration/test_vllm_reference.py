"""What our engines give is what vLLM itself gives: token ids, finish_reason, and n samples of a prompt.

One vLLM answers for all tests. A silent difference in ids once cost 94 points of accuracy.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ray_distil.chat.prompts import instruction_messages, long2short_messages
from ray_distil.chat.tokenization import encode_example, encode_prompt, load_tokenizer, stop_token_ids
from ray_distil.config import load
from ray_distil.config.models import resolve_model
from ray_distil.generate.engine import known_arguments, whole_responses
from ray_distil.tiny import world
from tests.integration.cluster import PATIENCE
from tests.integration.respond import ROOT as REPOSITORY

ROOT = str(REPOSITORY)
MODEL = resolve_model("tiny:teacher-v3", "k")
NUM_PROMPTS, NUM_SAMPLES = 120, 2
BATCH_SIZE, SHARD_MB = 16, 0.02
SAMPLING = {
    "temperature": 1.5,
    "top_p": 0.95,
    "top_k": 40,
    "bad_words": ["Therefore"],
    "max_tokens": 42,
}  # about the length of a response: many are cut
GREEDY = {"temperature": 0, "max_tokens": 120}
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
model, engine_kwargs, asked = json.loads(sys.stdin.read())
llm = LLM(model, **engine_kwargs)
sizes = llm.llm_engine.vllm_config.scheduler_config
params = [SamplingParams(**params) for _, params in asked]
outputs = llm.chat([messages for messages, _ in asked], params, use_tqdm=False)
made = [[o.prompt_token_ids, [[c.text, c.finish_reason, list(c.token_ids)] for c in o.outputs]] for o in outputs]
print("MADE", json.dumps([[sizes.max_num_seqs, sizes.max_num_batched_tokens], made]))
"""
# `respond.py`, whose engine notes its sizes when it runs.
NOTING = """
import json, sys
from pathlib import Path
from ray_distil.generate import engine
from tests.integration import respond

whole_responses, file = engine.whole_responses, sys.argv.pop(1)

def noting(actor, *how):
    class Noting(whole_responses(actor, *how)):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            sizes = self.llm.engine.vllm_config.scheduler_config
            Path(file).write_text(json.dumps([sizes.max_num_seqs, sizes.max_num_batched_tokens]))

    Noting.__name__ = actor.__name__
    return Noting

engine.whole_responses = noting
respond.main()
"""


@dataclass
class Reference:
    """Rows of our run, and vLLM's own answers as `(prompt ids, [(text, finish_reason, ids)])`."""

    rows: pd.DataFrame
    shard_sizes: list[int]
    sampled: list[Any]  # for each instruction of `rows`
    conversations: list[Any]
    greedy: list[Any]  # for each of the conversations
    sizes: list[list[int]]  # our engine's and vLLM's: rows and tokens in a step


def questions() -> list[str]:
    return [problem.question + world.SUFFIX for problem in world.held_out(5, 40)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("samples")
    arguments = [
        f"instructions.num_train={NUM_PROMPTS}",
        "teachers.slow=null",
        f"teachers.direct.num_samples={NUM_SAMPLES}",
        f"teachers.direct.sampling_params={json.dumps(SAMPLING)}",
        "long2short.enabled=false",
        "run.max_reject_fraction=1",
        f"run.storage_path={folder}",
        "run.name=samples",
        f"run.max_shard_mb={SHARD_MB}",
        f"teachers.direct.engine.batch_size={BATCH_SIZE}",
    ]
    config = load(None, arguments)
    engine = config.teachers.direct.engine
    kwargs = {name: value for name, value in engine.engine_kwargs.items() if name != "max_num_seqs"}  # vLLM's choice
    arguments.append(f"teachers.direct.engine.engine_kwargs={json.dumps(kwargs)}")
    command = [sys.executable, "-c", NOTING, str(folder / "sizes"), *arguments]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert made.returncode == 0, made.stdout + made.stderr
    rows = pd.read_parquet(folder / "samples" / "responses").sort_values(["instruction_id", "sample_index"])
    sizes = [file.stat().st_size for file in (folder / "samples" / "responses").glob("part-*.parquet")]
    first = rows[rows.sample_index == 0]
    seeds = [int(json.loads(text)["seed"]) for text in first.sampling_params]
    sampled = [
        [instruction_messages(text, config.instructions.suffix), {**SAMPLING, "n": NUM_SAMPLES, "seed": seed}]
        for text, seed in zip(first.instruction, seeds, strict=True)
    ]
    conversations: list[Any] = [instruction_messages(question) for question in questions()]
    thought = "<think>\n3 + 4 = 7\n\nWait, let me check. 7 is right.\n</think>"
    conversations.append(long2short_messages(questions()[0], "7", thought))
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([MODEL, kwargs, [*sampled, *([c, GREEDY] for c in conversations)]]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | engine.env_vars | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},  # one process to start, not two
    )
    assert told.returncode == 0, told.stderr[-2000:]
    theirs, outputs = json.loads(next(line for line in told.stdout.splitlines() if line.startswith("MADE"))[4:])
    of_engines = [json.loads((folder / "sizes").read_text()), theirs]
    return Reference(rows, sizes, outputs[: len(sampled)], conversations, outputs[len(sampled) :], of_engines)


def test_an_engine_has_the_sizes_of_vllms_class_for_offline_work(reference: Reference) -> None:
    ours, theirs = reference.sizes
    assert ours == theirs
    assert ours[0] == 256  # 128 is what vLLM takes for a user that it does not know


def test_samples_are_those_of_vllms_own_n(reference: Reference) -> None:
    rows = reference.rows
    assert len(rows) == NUM_PROMPTS * NUM_SAMPLES
    assert rows.sampling_params.map(lambda text: json.loads(text)["seed"]).is_unique
    expected = [[text, why, len(ids)] for _, samples in reference.sampled for text, why, ids in samples]
    found = rows[["response", "finish_reason", "num_generated_tokens"]].values.tolist()
    different = [(own, theirs) for own, theirs in zip(found, expected, strict=True) if own != theirs]
    print(f"{len(different)} of {len(found)} differ; finish_reason: {rows.finish_reason.value_counts().to_dict()}")
    assert not different
    assert rows.finish_reason.value_counts().min() > 50  # both kinds are there
    assert rows.groupby("instruction_id").response.nunique().max() == NUM_SAMPLES


def test_shards_are_about_as_large_as_asked_for(reference: Reference) -> None:
    """Of each batch there was one; they are merged as long as they are together no larger."""
    num_batches = NUM_PROMPTS * NUM_SAMPLES / BATCH_SIZE
    assert 1 < len(reference.shard_sizes) < num_batches / 2
    assert max(reference.shard_sizes) < SHARD_MB * 2**20


def test_prompts_and_completions_have_the_same_ids_everywhere(reference: Reference) -> None:
    for messages, (prompt_ids, _) in zip(reference.conversations, reference.greedy, strict=True):
        assert encode_prompt(messages, MODEL) == prompt_ids
        raw = load_tokenizer(MODEL).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert raw == prompt_ids
    for question, (prompt_ids, [(text, _, generated_ids)]) in zip(questions(), reference.greedy, strict=False):
        assert generated_ids[-1] in stop_token_ids(MODEL)
        ids, labels = encode_example(question, text, MODEL)
        assert ids == prompt_ids + generated_ids
        assert [label for label in labels if label != -100] == generated_ids


def test_the_arguments_that_are_known_are_those_of_its_engine() -> None:
    from vllm import AsyncEngineArgs

    assert known_arguments() == {field.name for field in fields(AsyncEngineArgs)}


def test_an_engine_is_asked_for_whole_responses() -> None:
    """Else vLLM makes an output of all text so far for each token, and ray.data.llm takes the last alone."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    class Engine:
        def __init__(self, *, model: str) -> None:
            self.llm = SimpleNamespace(engine=SimpleNamespace(generate=lambda **asked: (model, asked)))

    engine: Any = whole_responses(Engine, "org/name", {})(model="org/name")
    params = SamplingParams(max_tokens=3)
    model, asked = engine.llm.engine.generate(request_id="1", prompt="Q", sampling_params=params)
    assert model == "org/name"
    assert asked == {"request_id": "1", "prompt": "Q", "sampling_params": params}
    assert params.output_kind is RequestOutputKind.FINAL_ONLY
