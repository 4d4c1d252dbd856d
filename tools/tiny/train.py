"""Make the tiny models from nothing, on two CPU cores: python -m tools.tiny.train

    student-base ----> teacher-v3         answers at once, in a paragraph; masters problems of up to three steps
        |  |  `------> teacher-r1         thinks at length; rewrites a reasoning under the long2short prompt
        |  `---------> student-slow       thinks at length: chains of the rules, then correct ones of teacher-r1
        `              student-fast       not made here: the pipeline distils it

Each course is a number of steps and a seed, one process on one core; no clock decides anything.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ray_distil.chat.tokenization import IGNORE_INDEX
from ray_distil.tiny.world import SEED_TEST, held_out, training_problems
from tools.tiny.answers import Answerer, Score, score
from tools.tiny.examples import Example, Examples, collate, mixed, repeated
from tools.tiny.tokenizer import END_OF_TURN, MAX_LENGTH, build_tokenizer

SHAPE = {  # Qwen2, 0.9 M parameters
    "vocab_size": 832,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 384,
    "max_position_embeddings": MAX_LENGTH,
    "tie_word_embeddings": True,
}
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
WARMUP_STEPS = 30
FINAL_LEARNING_RATE = 0.05  # share of the peak at which the cosine ends
LOG_STEPS = 100
CHAIN_SEED = 50_000  # draws the training problems that the pipeline draws with its default seed


@dataclass(frozen=True)
class Course:
    """How one model is made from another."""

    name: str
    start: str | None  # the model from which the course starts; None: random weights
    learning_rate: float
    tokens_per_batch: int
    seed: int
    minutes: float  # of one core, about
    steps: int = 0
    mixture: Mapping[str, float] = field(default_factory=dict)  # share of each kind of example
    chains_of: str | None = None  # a model whose correct answers are learnt, in place of a mixture
    epochs: int = 0

    @property
    def needs(self) -> set[str]:
        return {name for name in (self.start, self.chains_of) if name}


COURSES = [
    Course(
        "student-base", None, 4e-3, 2048, seed=101, steps=4000, minutes=15,
        mixture={"facts": 0.30, "count": 0.05, "story": 0.25, "retelling": 0.40},
    ),
    Course(
        "teacher-r1", "student-base", 2.5e-3, 3072, seed=301, steps=2600, minutes=15,
        mixture={"slow": 0.52, "rewrite": 0.33, "facts": 0.15},
    ),
    Course(
        "teacher-v3", "student-base", 2e-3, 2048, seed=201, steps=900, minutes=3,
        mixture={"direct": 0.85, "facts": 0.15},
    ),
    Course(
        "student-slow-rules", "student-base", 2.5e-3, 3072, seed=401, steps=2000, minutes=11,
        mixture={"slow": 0.85, "facts": 0.15},
    ),
    Course(
        "student-slow", "student-slow-rules", 2.5e-3, 3072, seed=402, minutes=10,
        chains_of="teacher-r1", epochs=2,
    ),
]  # fmt: skip
SHIPPED = ["student-base", "student-slow", "teacher-r1", "teacher-v3"]
NUM_CHAINS = 2500
FIRST = "tokenizer"
LOG = "libraries.log"


def make(course: Course, folder: Path, fraction: float) -> None:
    """Make the course's model in `folder`, beside the models it needs. `fraction` shortens the course, for a trial."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(course.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder / FIRST)
    examples = Examples(tokenizer)
    model = new_model(tokenizer) if course.start is None else load(folder / course.start)
    if course.chains_of:
        rows = chains(folder / course.chains_of, examples, math.ceil(NUM_CHAINS * fraction))
        steps = sum(1 for _ in repeated(rows, course.tokens_per_batch, course.epochs, course.seed))
        batches = repeated(rows, course.tokens_per_batch, course.epochs, course.seed)
    else:
        steps = math.ceil(course.steps * fraction)
        batches = mixed(examples, course.mixture, course.tokens_per_batch, course.seed)
    train(model, batches, steps, course.learning_rate, tokenizer.pad_token_id, course.name)
    save(model, tokenizer, folder / course.name)


def chains(teacher: Path, examples: Examples, num_problems: int) -> list[Example]:
    """The teacher's correct answers to training problems, as examples."""
    problems = list(islice(training_problems(CHAIN_SEED), num_problems))
    answers = Answerer(teacher).answer(problems)
    kept = [a for a in answers if a.correct]
    print(f"{teacher.name}: {len(kept)} of {len(answers)} chains are correct and are learnt", flush=True)
    return [examples.response(a.problem.question, a.response) for a in kept]


def new_model(tokenizer: Any) -> Any:
    """A Qwen2 of random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    stop = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, bos_token_id=None, eos_token_id=stop, pad_token_id=tokenizer.pad_token_id)
    )


def load(folder: Path) -> Any:
    import torch
    from transformers import Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights, configuration and tokenizer; the folder gets its name when it is whole."""
    from transformers import GenerationConfig

    unfinished = folder.with_name(f".{folder.name}")
    stop = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def train(
    model: Any, batches: Iterator[Sequence[Example]], steps: int, learning_rate: float, pad_token_id: int, name: str
) -> None:
    """Train for `steps` batches: mean cross-entropy over the learnt tokens, Muon and AdamW, warm-up, then cosine."""
    import torch
    from torch.nn import functional

    from tools.tiny.muon import Muon

    def share_of_peak(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
        return min(1.0, (step + 1) / WARMUP_STEPS) * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine)

    table = model.model.embed_tokens.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not table]
    others = [p for p in model.parameters() if p.ndim != 2 or p is table]
    optimizers = [
        Muon(matrices, lr=learning_rate, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak) for optimizer in optimizers]
    model.train()
    started, num_tokens, losses = time.monotonic(), 0, []
    for step, batch in enumerate(islice(batches, steps), 1):
        input_ids, labels = collate(batch, pad_token_id)
        hidden = model.model(input_ids=input_ids[:, :-1], use_cache=False).last_hidden_state
        targets = labels[:, 1:]
        learnt = targets != IGNORE_INDEX
        # The vocabulary's product is taken at learnt positions only: [learnt, hidden] @ [hidden, vocabulary].
        loss = functional.cross_entropy(functional.linear(hidden[learnt], model.lm_head.weight), targets[learnt])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM, error_if_nonfinite=True)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        num_tokens += input_ids.numel()
        losses.append(loss.item())
        if step % LOG_STEPS == 0 or step == steps:
            rate = num_tokens / (time.monotonic() - started)
            mean = sum(losses[-LOG_STEPS:]) / len(losses[-LOG_STEPS:])
            print(f"{name}: step {step}/{steps}  loss {mean:.4f}  {rate:,.0f} tokens/s", flush=True)


def evaluate(name: str, folder: Path, num_problems: int) -> dict[str, Score]:
    """Scores of a model on held-out problems, and of teacher-r1's rewrites of its own correct reasonings."""
    answerer = Answerer(folder / name)
    answers = answerer.answer(held_out(SEED_TEST, num_problems))
    scores = {name: score(answers)}
    if name == "teacher-r1":
        kept = [a for a in answers if a.correct]
        if kept:
            scores[f"{name}, rewriting"] = score(answerer.rewrite(kept))
    return scores


def processes(cores: int, folder: Path) -> ProcessPoolExecutor:
    """A pool with a new process for each task. The libraries' stderr goes to a file beside the models."""
    context = multiprocessing.get_context("spawn")
    log = str(folder / LOG)
    return ProcessPoolExecutor(cores, context, initializer=_log_stderr, initargs=(log,), max_tasks_per_child=1)


def _log_stderr(path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), sys.stderr.fileno())


def run_all(courses: Sequence[Course], folder: Path, cores: int, fraction: float) -> None:
    """Make every model that is not in the folder yet, one on each core. A model starts when those it needs are done."""
    done = {FIRST} | {course.name for course in courses if (folder / course.name).exists()}
    waiting = [course for course in courses if course.name not in done]
    running: dict[Future[None], Course] = {}
    with processes(cores, folder) as pool:
        while waiting or running:
            for course in [c for c in waiting if c.needs <= done][: cores - len(running)]:
                waiting.remove(course)
                running[pool.submit(make, course, folder, fraction)] = course
            finished: set[Future[None]] = wait(running, return_when=FIRST_COMPLETED).done
            for future in finished:
                future.result()
                done.add(running.pop(future).name)


def table(scores: Mapping[str, Score]) -> str:
    """The scores, a model a line."""
    lines = [f"{'model':<24} {'problems':>8} {'accuracy':>9} {'tokens':>7}"]
    for name, s in scores.items():
        lines.append(f"{name:<24} {s.num_problems:>8} {100 * s.accuracy:>7.1f} % {s.mean_tokens:>7.1f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.tiny.train", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("tiny-models"), help="where the models go (default: %(default)s)"
    )
    parser.add_argument("--cores", type=int, default=2, help="models made at a time (default: %(default)s)")
    parser.add_argument(
        "--problems", type=int, default=1000, help="held-out problems of the scores (default: %(default)s)"
    )
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="of each course, for a trial (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    minutes = sum(course.minutes for course in COURSES) * chosen.fraction
    print(
        f"{len(SHIPPED)} models into {chosen.out}: about {minutes:.0f} minutes of one core, on {chosen.cores} at a time"
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    build_tokenizer(chosen.out / FIRST)
    run_all(COURSES, chosen.out, chosen.cores, chosen.fraction)
    with processes(chosen.cores, chosen.out) as pool:
        parts = [pool.submit(evaluate, name, chosen.out, chosen.problems) for name in SHIPPED]
        scores = {name: value for part in parts for name, value in part.result().items()}
    print(table(scores))
    (chosen.out / "scores.json").write_text(json.dumps({k: asdict(s) for k, s in scores.items()}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
