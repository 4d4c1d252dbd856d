"""The recipe without the machinery: a fast student learns a slow teacher's reasoning, verified and made short."""

import logging
import os
from itertools import islice
from statistics import mean

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TQDM_DISABLE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
logging.disable(logging.WARNING)  # and the line above: vLLM in this process, a quiet console

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup
from vllm import LLM, SamplingParams

from ray_distil.chat.prompts import instruction_messages, long2short_messages
from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.config.models import resolve_model
from ray_distil.judge.agreement import answers_agree
from ray_distil.judge.answers import extract_answer
from ray_distil.tiny.world import SEED_TEST, SUFFIX, held_out, training_problems

# For other models and problems, change these constants. A problem has a question and an answer.
TEACHER, BASE, STUDENT = resolve_model("tiny:teacher-r1", ""), resolve_model("tiny:student-base", ""), "runs/student"
PROBLEMS = list(islice(training_problems(seed=0), int(os.environ.get("NUM_PROBLEMS", 1000))))
HELD_OUT = held_out(SEED_TEST, len(PROBLEMS) * 3 // 10)
ENGINE = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**28, "use_tqdm_on_load": False}
EPOCHS, BATCH_SIZE, LEARNING_RATE, GREEDY = 4, 8, 2e-3, SamplingParams(temperature=0, max_tokens=600)


def respond(model, conversations):
    return [output.outputs[0] for output in LLM(model, **ENGINE).chat(conversations, GREEDY, use_tqdm=False)]


def is_right(problem, response):
    stated = extract_answer(split_reasoning(response.text)[1])
    return response.finish_reason == "stop" and answers_agree(stated, str(problem.answer))


# 1. The slow teacher responds at length. A response counts if it ends by itself, with the reference answer.
responses = respond(TEACHER, [instruction_messages(problem.question, SUFFIX) for problem in PROBLEMS])
verified = [pair for pair in zip(PROBLEMS, responses, strict=True) if is_right(*pair)]

# 2. long2short: the teacher rewrites its reasoning. A rewrite counts if it reaches the answer too, in fewer tokens.
requests = [long2short_messages(p.question, str(p.answer), split_reasoning(r.text)[0]) for p, r in verified]
pairs = zip(verified, respond(TEACHER, requests), strict=True)
short = [(p, w) for (p, r), w in pairs if is_right(p, w) and len(w.token_ids) < len(r.token_ids)]
print(f"{len(PROBLEMS)} problems, {len(verified)} right responses, {len(short)} short rewrites")

# 3. Examples: prompt by the chat template, then the rewrite. Only the rewrite's tokens are learnt: -100 has no loss.
tokenizer, examples = AutoTokenizer.from_pretrained(BASE), []
for problem, rewrite in short:
    messages = instruction_messages(problem.question, SUFFIX)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    text = [*tokenizer(rewrite.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    examples.append((torch.tensor(prompt + text), torch.tensor([-100] * len(prompt) + text)))

# 4. Training: the mean loss of the learnt tokens. Padding comes last, where causal attention needs no mask for it.
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).train()
optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
schedule = get_cosine_schedule_with_warmup(optimizer, 10, EPOCHS * -(-len(examples) // BATCH_SIZE))
for epoch in range(EPOCHS):
    for batch in torch.randperm(len(examples)).split(BATCH_SIZE):
        input_ids, labels = zip(*(examples[i] for i in batch), strict=True)
        loss = model(input_ids=pad_sequence(input_ids, True), labels=pad_sequence(labels, True, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
model.save_pretrained(STUDENT)
tokenizer.save_pretrained(STUDENT)

# 5. Evaluation on held-out problems: the share of right responses, and the mean of their tokens.
print(f"{'model':<8}{'accuracy':>9}{'tokens':>9}")
for name, folder in {"base": BASE, "teacher": TEACHER, "student": STUDENT}.items():
    responses = respond(folder, [instruction_messages(problem.question, SUFFIX) for problem in HELD_OUT])
    print(f"{name:<8}{mean(map(is_right, HELD_OUT, responses)):>9.1%}{mean(len(r.token_ids) for r in responses):>9.1f}")
