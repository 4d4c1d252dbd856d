"""Greedy answers of a tiny model through vLLM, and their scores."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_distil.chat.prompts import Messages, instruction_messages, long2short_messages
from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.config import load
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.gates import GATES, first_reason
from ray_distil.tiny.world import SUFFIX, Problem


@dataclass(frozen=True)
class Answer:
    """A response to one problem."""

    problem: Problem
    response: str
    num_tokens: int
    finish_reason: str

    @property
    def correct(self) -> bool:
        """Whether the response is complete and states the problem's answer."""
        conclusion = split_reasoning(self.response)[1]
        row = {
            "finish_reason": self.finish_reason,
            "answer": extract_answer(conclusion),
            "reference_answer": str(self.problem.answer),
        }
        return first_reason(row, GATES) is None


@dataclass(frozen=True)
class Score:
    """Figures of answers to held-out problems: share of correct answers, mean number of generated tokens."""

    num_problems: int
    accuracy: float
    mean_tokens: float


def score(answers: Sequence[Answer]) -> Score:
    """The score of at least one answer."""
    n = len(answers)
    return Score(n, sum(a.correct for a in answers) / n, sum(a.num_tokens for a in answers) / n)


class Answerer:
    """One vLLM engine in this process, set up as the tiny recipe evaluates its models."""

    def __init__(self, model: Path) -> None:
        evaluation = load(None, []).evaluation
        assert evaluation.engine is not None  # the recipe has one
        os.environ.update(evaluation.engine.env_vars, VLLM_LOGGING_LEVEL="ERROR")
        from vllm import LLM, SamplingParams

        self.engine = LLM(str(model), **evaluation.engine.engine_kwargs)
        self.sampling_params = SamplingParams(**evaluation.sampling_params.model_dump(exclude_none=True))

    def answer(self, problems: Sequence[Problem]) -> list[Answer]:
        """The model's answers. It is asked in the same way as the teachers and students of the pipeline."""
        return self._chat(problems, [instruction_messages(p.question, SUFFIX) for p in problems])

    def rewrite(self, answers: Sequence[Answer]) -> list[Answer]:
        """The model's rewrites of the reasoning of slow answers. It is asked in the same way as by long2short."""
        problems = [a.problem for a in answers]
        reasonings = [split_reasoning(a.response)[0] for a in answers]
        pairs = zip(problems, reasonings, strict=True)
        return self._chat(problems, [long2short_messages(p.question, str(p.answer), r) for p, r in pairs])

    def _chat(self, problems: Sequence[Problem], conversations: list[Messages]) -> list[Answer]:
        outputs = self.engine.chat(conversations, self.sampling_params, use_tqdm=False)
        completions = [output.outputs[0] for output in outputs]
        return [
            Answer(problem, c.text, len(c.token_ids), c.finish_reason)
            for problem, c in zip(problems, completions, strict=True)
        ]
