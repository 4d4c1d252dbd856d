"""Training examples of the tiny models, and endless batches of them.

An example is a pair of lists of equal length, `(input_ids, labels)`; labels are -100 where nothing is learnt:

    <|endoftext|> 7 + 8 = 15. 9 - 4 = 5.        a row of facts: the results are learnt
                          ~~~          ~~
    <|im_start|>user ... assistant Step 1 ... <|im_end|>    a response: all of it is learnt, the prompt is not
                                   ~~~~~~~~~~~~~~~~~~~~~
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ray_distil.chat.prompts import Messages, instruction_messages, long2short_messages
from ray_distil.chat.tokenization import IGNORE_INDEX
from ray_distil.tiny.world import SUFFIX, Problem, training_problems
from tools.tiny import texts
from tools.tiny.tokenizer import END_OF_TEXT, END_OF_TURN

NUM_FACTS = 11  # facts in an example
POOL = 400  # examples that are drawn together and sorted by length

Example = tuple[list[int], list[int]]


class Examples:
    """Makes examples with one tokenizer. Each kind of example is a method; a course's mixture names these methods."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.cached = lru_cache(200_000)(self.encode)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text)["input_ids"])

    def prompt(self, messages: Messages) -> str:
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def example(self, *segments: tuple[str, bool]) -> Example:
        """One example of segments `(text, is_learnt)`. They are encoded apart, and so must end where a token ends."""
        ids: list[int] = []
        labels: list[int] = []
        for text, learnt in segments:
            part = self.cached(text) if len(text) < 24 else self.encode(text)
            ids += part
            labels += part if learnt else [IGNORE_INDEX] * len(part)
        return ids, labels

    def facts(self, problem: Problem, rng: random.Random) -> Example:
        segments = [(END_OF_TEXT, False)]
        for _ in range(NUM_FACTS):
            op, a, b, result = texts.draw_fact(rng)
            segments += [(f" {a} {op} {b} =", False), (f" {result}.", True)]
        return self.example(*segments)

    def count(self, problem: Problem, rng: random.Random) -> Example:
        return self.example((END_OF_TEXT, False), (texts.count_line(rng), True), (END_OF_TURN, True))

    def story(self, problem: Problem, rng: random.Random) -> Example:
        return self.example((END_OF_TEXT, False), (texts.story(problem, rng), True), (END_OF_TURN, True))

    def retelling(self, problem: Problem, rng: random.Random) -> Example:
        return self.example((END_OF_TEXT, False), (texts.retelling(problem, rng), True), (END_OF_TURN, True))

    def response(self, question: str, response: str) -> Example:
        prompt = self.prompt(instruction_messages(question, SUFFIX))
        return self.example((prompt, False), (response, True), (END_OF_TURN, True))

    def direct(self, problem: Problem, rng: random.Random) -> Example:
        return self.response(problem.question, texts.direct_response(problem))

    def slow(self, problem: Problem, rng: random.Random) -> Example:
        reasoning = texts.slow_reasoning(problem, rng)
        return self.response(problem.question, texts.slow_response(problem, reasoning))

    def rewrite(self, problem: Problem, rng: random.Random) -> Example:
        """long2short: the rewrite is learnt, and so is the slow reasoning in the prompt, as one more slow example."""
        reasoning = texts.slow_reasoning(problem, rng)
        whole = self.prompt(long2short_messages(problem.question, str(problem.answer), reasoning))
        start = whole.index("\nReasoning:") + len("\nReasoning:")
        end = whole.rindex(END_OF_TURN)
        return self.example(
            (whole[:start], False),
            (whole[start:end], True),
            (whole[end:], False),
            (texts.short_response(problem), True),
            (END_OF_TURN, True),
        )


def mixed(
    examples: Examples, mixture: Mapping[str, float], tokens_per_batch: int, seed: int
) -> Iterator[list[Example]]:
    """Endless batches. The kind of each example is drawn by its share in `mixture`; no problem is a held-out one.

    Direct responses are of problems with up to DIRECT_STEPS steps. So a direct teacher fails at longer ones.
    """
    rng, problems = random.Random(seed), training_problems(seed)
    short_problems = (problem for problem in problems if len(problem.steps) <= texts.DIRECT_STEPS)
    while True:
        pool = []
        for _ in range(POOL):
            (kind,) = rng.choices(list(mixture), list(mixture.values()))
            problem = next(short_problems if kind == "direct" else problems)
            pool.append(getattr(examples, kind)(problem, rng))
        yield from bucketed(pool, tokens_per_batch, rng)


def repeated(rows: Sequence[Example], tokens_per_batch: int, epochs: int, seed: int) -> Iterator[list[Example]]:
    """Batches of all rows: each row once an epoch, in a new order in each epoch."""
    rng = random.Random(seed)
    for _ in range(epochs):
        shuffled = rng.sample(rows, len(rows))
        for start in range(0, len(rows), POOL):
            yield from bucketed(shuffled[start : start + POOL], tokens_per_batch, rng)


def bucketed(rows: Sequence[Example], tokens_per_batch: int, rng: random.Random) -> list[list[Example]]:
    """Batches of rows with similar lengths, in random order; at most `tokens_per_batch` tokens each, with padding."""
    batches: list[list[Example]] = []
    batch: list[Example] = []
    for row in sorted(rows, key=lambda row: len(row[0])):
        if batch and len(row[0]) * (len(batch) + 1) > tokens_per_batch:
            batches.append(batch)
            batch = []
        batch.append(row)
    batches.append(batch)
    rng.shuffle(batches)
    return batches


def collate(batch: Sequence[Example], pad_token_id: int) -> tuple[Any, Any]:
    """`(input_ids, labels)`, each [rows, longest]; padding is at the right and is not learnt."""
    import torch

    longest = max(len(ids) for ids, _ in batch)
    input_ids = torch.full((len(batch), longest), pad_token_id)
    labels = torch.full((len(batch), longest), IGNORE_INDEX)
    for row, (ids, wanted) in enumerate(batch):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(wanted)
    return input_ids, labels
