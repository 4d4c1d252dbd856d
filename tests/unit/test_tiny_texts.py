"""What the tiny models learn: texts that follow from the problem, and examples that learn what they should."""

import hashlib
import itertools
import random
import re
from collections.abc import Callable

import pytest

from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.chat.tokenization import IGNORE_INDEX, encode_example, load_tokenizer
from ray_distil.config.models import TINY_MODELS
from ray_distil.judge.answers import extract_answer
from ray_distil.tiny import world
from tools.tiny import texts
from tools.tiny.examples import Examples, bucketed, collate, mixed, repeated
from tools.tiny.tokenizer import build_tokenizer

STUDENT = str(TINY_MODELS / "student-base")
PROBLEMS = list(itertools.islice(world.training_problems(9), 300))
EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def examples() -> Examples:
    return Examples(load_tokenizer(STUDENT))


def test_texts_are_those_the_models_know() -> None:
    rng, digest = random.Random(2), hashlib.sha256()
    for problem in PROBLEMS:
        reasoning = texts.slow_reasoning(problem, rng)
        told = [texts.short_response(problem), texts.slow_response(problem, reasoning)]
        digest.update("\n".join([*told, texts.story(problem, rng), texts.retelling(problem, rng)]).encode())
    assert digest.hexdigest()[:16] == "aa4b5ac71d733995"


@pytest.mark.parametrize("write", [texts.short_response, texts.direct_response])
def test_short_responses_are_the_steps_and_the_answer(write: Callable[[world.Problem], str]) -> None:
    for problem in PROBLEMS:
        response = write(problem)
        assert [f"{a} {op} {b} = {r}" for a, op, b, r in EQUATION.findall(response)] == [
            step.equation for step in problem.steps
        ]
        assert extract_answer(response) == str(problem.answer)


def test_slow_responses_end_right_and_notice_their_mistakes() -> None:
    rng, mistaken = random.Random(3), 0
    for problem in PROBLEMS:
        response = texts.slow_response(problem, texts.slow_reasoning(problem, rng))
        reasoning, conclusion = split_reasoning(response)
        assert extract_answer(conclusion) == str(problem.answer)
        wrong = [e for e in EQUATION.findall(reasoning) if world.calculate(e[1], int(e[0]), int(e[2])) != int(e[3])]
        mistaken += bool(wrong)
        if wrong:
            assert "I made a mistake" in reasoning
    assert 0.1 < mistaken / len(PROBLEMS) < 0.5


def test_the_base_never_sees_chat_reasoning_or_a_box() -> None:
    rng = random.Random(4)
    for problem in PROBLEMS:
        plain = texts.story(problem, rng) + texts.retelling(problem, rng) + texts.count_line(rng)
        assert not re.search(r"<|boxed|Step \d|Wait|How many \w+ (do|are)", plain)


def test_responses_are_encoded_as_training_encodes_them(examples: Examples) -> None:
    for problem in PROBLEMS[:20]:
        prompt = problem.question + world.SUFFIX
        assert examples.direct(problem, random.Random(0)) == encode_example(
            prompt, texts.direct_response(problem), STUDENT
        )


def test_only_the_results_of_facts_are_learnt(examples: Examples) -> None:
    ids, labels = examples.facts(PROBLEMS[0], random.Random(5))
    learnt = "".join(examples.tokenizer.decode([i for i in labels if i != IGNORE_INDEX]))
    whole = examples.tokenizer.decode(ids)
    assert re.findall(r"= (\d+)\.", whole) == re.findall(r"(\d+)\.", learnt)
    assert "=" not in learnt


def test_rewrites_learn_the_reasoning_and_the_rewrite_but_no_prompt(examples: Examples) -> None:
    ids, labels = examples.rewrite(PROBLEMS[0], random.Random(6))
    learnt = examples.tokenizer.decode([i for i in labels if i != IGNORE_INDEX])
    assert learnt.endswith(texts.short_response(PROBLEMS[0]) + "<|im_end|>")
    assert learnt.startswith((" Okay", " Let me", " Alright"))
    assert "You are a helpful assistant" not in learnt
    assert "assistant\n" not in learnt
    assert len(ids) == len(labels)


def test_batches_hold_every_row_once_an_epoch_within_their_budget(examples: Examples) -> None:
    rows = [examples.direct(problem, random.Random(0)) for problem in PROBLEMS]
    batches = list(repeated(rows, 1024, epochs=2, seed=1))
    assert sorted(row[0] for batch in batches for row in batch) == sorted([row[0] for row in rows] * 2)
    for batch in batches:
        assert len(batch) * max(len(ids) for ids, _ in batch) <= 1024
    first, second = list(repeated(rows, 1024, 1, seed=1)), list(repeated(rows, 1024, 1, seed=1))
    assert first == second != list(repeated(rows, 1024, 1, seed=2))


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    rows = [([1] * 5, [1] * 5), ([2] * 50, [2] * 50)]
    assert sorted(len(batch[0][0]) for batch in bucketed(rows, 10, random.Random(0))) == [5, 50]


def test_padding_is_not_learnt() -> None:
    input_ids, labels = collate([([1, 2, 3], [IGNORE_INDEX, 2, 3]), ([4], [4])], pad_token_id=0)
    assert input_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert labels.tolist() == [[IGNORE_INDEX, 2, 3], [4, IGNORE_INDEX, IGNORE_INDEX]]


def test_a_mixture_is_drawn_by_its_shares(examples: Examples) -> None:
    drawn = list(itertools.islice(mixed(examples, {"facts": 0.25, "direct": 0.75}, 2048, 1), 60))
    rows = [row for batch in drawn for row in batch]
    end = examples.encode("<|endoftext|>")[0]
    assert sum(ids[0] == end for ids, _ in rows) / len(rows) == pytest.approx(0.25, abs=0.05)


def test_direct_responses_are_of_problems_with_few_steps(examples: Examples) -> None:
    drawn = itertools.islice(mixed(examples, {"direct": 1.0}, 2048, 1), 20)
    answers = [examples.tokenizer.decode(ids).rpartition("assistant")[2] for batch in drawn for ids, _ in batch]
    assert {answer.count("=") for answer in answers} == {2, 3}


def test_the_tokenizer_is_the_one_that_ships(tmp_path) -> None:  # type: ignore[no-untyped-def]
    build_tokenizer(tmp_path)
    shipped = TINY_MODELS / "student-base" / "tokenizer.json"
    assert (tmp_path / "tokenizer.json").read_bytes() == shipped.read_bytes()
    text = load_tokenizer(STUDENT).apply_chat_template(
        instruction_messages("hi", ""), add_generation_prompt=True, tokenize=False
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
