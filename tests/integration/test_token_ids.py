"""AutoTokenizer, training and vLLM give the same ids: a silent difference once cost 94 points of accuracy."""

import json
import os
import subprocess
import sys

from ray_distil.models import resolve_model
from ray_distil.prompts import instruction_messages, long2short_messages
from ray_distil.tiny import world
from ray_distil.tokenization import encode_example, encode_prompt, load_tokenizer, stop_token_ids

MODEL = resolve_model("tiny:teacher-v3", "k")
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
model, conversations = json.loads(sys.stdin.read())
llm = LLM(model, dtype="float32", enforce_eager=True, max_model_len=1024, kv_cache_memory_bytes=1 << 26)
outputs = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=120), use_tqdm=False)
print("IDS", json.dumps([[o.prompt_token_ids, list(o.outputs[0].token_ids), o.outputs[0].text] for o in outputs]))
"""


def test_prompts_and_completions_have_the_same_ids_everywhere() -> None:
    problems = world.held_out(5, 40)
    questions = [problem.question + world.SUFFIX for problem in problems]
    conversations = [instruction_messages(question) for question in questions]
    conversations += [
        long2short_messages(questions[0], "7", "<think>\n3 + 4 = 7\n\nWait, let me check. 7 is right.\n</think>")
    ]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([MODEL, conversations]),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    outputs = json.loads(next(line for line in told.stdout.splitlines() if line.startswith("IDS"))[4:])
    for messages, (prompt_ids, _, _) in zip(conversations, outputs, strict=True):
        assert encode_prompt(messages, MODEL) == prompt_ids
        raw = load_tokenizer(MODEL).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert raw == prompt_ids
    for question, (prompt_ids, generated_ids, text) in zip(questions, outputs, strict=False):
        assert generated_ids[-1] in stop_token_ids(MODEL)
        ids, labels = encode_example(question, text, MODEL)
        assert ids == prompt_ids + generated_ids
        assert [label for label in labels if label != -100] == generated_ids
