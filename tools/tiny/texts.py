"""Every text the models of the tiny world learn, made from a problem by rules.

    direct_response  the steps as one paragraph                         teacher-v3, for problems of few steps
    short_response   numbered steps, each on a line                     every rewrite
    slow_response    <think> reads, computes, doubts, checks </think>   teacher-r1, student-slow
    story, retelling, fact_line, count_line    plain text without chat, reasoning or box    student-base

The slow reasoning makes mistakes (a forgotten carry or borrow, one count too few, "fewer" read as "more"), notices them
and computes again. long2short has to leave out these mistakes and checks.
"""

import random
import re

from ray_distil.tiny.world import Problem, Step, calculate

OPENINGS = [
    "Okay, let me think about this problem step by step.",
    "Let me read the problem carefully and go step by step.",
    "Alright, I will work through this slowly.",
]
DIRECT_STEPS = 3  # steps of a problem that a direct response still masters
CHECKED = 0.6  # share of the steps without a mistake that are checked too


def boxed(answer: int) -> str:
    return f"The final answer is \\boxed{{{answer}}}."


def direct_response(problem: Problem) -> str:
    """The steps as one paragraph without numbers, and the answer in a box."""
    return " ".join([*(step.text for step in problem.steps), boxed(problem.answer)])


def short_response(problem: Problem) -> str:
    """Each step as a sentence with its equation, and the answer in a box."""
    steps = [f"Step {number}: {step.text}" for number, step in enumerate(problem.steps, 1)]
    return "\n\n".join([*steps, boxed(problem.answer)])


def slow_response(problem: Problem, reasoning: str) -> str:
    """A slow reasoning between its marks, the answer as a sentence, the answer in a box."""
    return f"<think>\n{reasoning}\n</think>\n\n{problem.closing}\n\n{boxed(problem.answer)}"


def slow_reasoning(problem: Problem, rng: random.Random) -> str:
    """The text inside <think>: reads each sentence, computes it in small steps, checks it, repeats all at the end."""
    lines = [rng.choice(OPENINGS)]
    number = 0
    for position, sentence in enumerate(problem.sentences[:-1]):
        if position == problem.distraction:
            lines.append(f"{sentence} This does not matter.")
            continue
        steps = [step for step in problem.steps if step.sentence == position]
        if not steps:
            lines.append(f"{sentence} This is the start.")
        for step in steps:
            number += 1
            lines += _think(step, f"Step {number}: {step.reason or sentence}", rng)
    again = ", ".join(step.equation for step in problem.steps)
    lines.append(f"Let me go over it again. {again}. So the answer is {problem.answer}.")
    return "\n\n".join(lines)


def _think(step: Step, text: str, rng: random.Random) -> list[str]:
    lines = []
    if step.compares and step.op == "-" and step.b % 3 == 0 and step.a + step.b <= 99:  # misread, then read again
        lines.append(f"{text} So I need {step.a} + {step.b}.")
        text = "Wait, let me read it again. It says fewer, so I made a mistake."
    text += f" So I need {step.a} {step.op} {step.b}. "
    mistake = _slip(step, rng)
    if mistake is None:
        lines.append(text + _moves(step, step.r))
    else:
        lines.append(text + _moves(step, mistake))
        equation, wanted = _inverse(step, mistake)
        unlike = mistake if step.op == "*" else wanted
        lines.append(
            f"Wait, let me check this. {equation} That is not {unlike}, so I made a mistake. Again: {_moves(step, step.r)}"
        )
    if mistake is not None or rng.random() < CHECKED:
        equation, wanted = _inverse(step, step.r)
        doubt = rng.choice(["Wait, let me check this.", "Hmm, let me verify."])
        lines.append(f"{doubt} {equation} That is {wanted}, so it is right.")
    return lines


def _moves(step: Step, result: int) -> str:
    """The small steps of `a op b`, which end in `result`, be it right or wrong."""
    op, a, b = step.op, step.a, step.b
    tens, ones = b // 10 * 10, b % 10
    if op in "+-" and tens and ones:
        between = calculate(op, a, tens)
        return f"{a} {op} {tens} = {between}. {between} {op} {ones} = {result}. So {a} {op} {b} = {result}."
    if op == "*" and a < 10 and b < 10:
        return f"Count by {b}: {', '.join(map(str, range(b, result + 1, b)))}. So {a} * {b} = {result}."
    if op == "*" and ones:
        parts = f"{a} * {tens} = {a * tens}. {a} * {ones} = {a * ones}."
        return f"{parts} {a * tens} + {a * ones} = {result}. So {a} * {b} = {result}."
    if op == "/":
        return f"{b} * {result} = {a}. So {a} / {b} = {result}."
    return f"{a} {op} {b} = {result}."


def _inverse(step: Step, result: int) -> tuple[str, int]:
    """`(equation, wanted)`: the inverse computation of a result, and its value if the result is right."""
    op, a, b = step.op, step.a, step.b
    if op == "+":
        return f"{result} - {b} = {result - b}.", a
    if op == "-":
        return f"{result} + {b} = {result + b}.", a
    if op == "*":
        return f"{b} * {a} = {b * a}.", b * a
    return f"{result} * {b} = {result * b}.", a


def _slip(step: Step, rng: random.Random) -> int | None:
    """The wrong result that a hasty thinker writes first; None for no mistake.

    A mistake comes mostly by habit, where b ends in 9, so that greedy decoding shows it too; rarely by chance.
    """
    op, a, b, r = step.op, step.a, step.b, step.r
    if not (b % 10 == 9 or rng.random() < 0.05):
        return None
    if op == "+" and a % 10 + b % 10 >= 10 and a >= 10:
        return r - 10
    if op == "-" and a % 10 < b % 10 and a <= 89:
        return r + 10
    if op == "*" and 2 < a < 10 and b == 9:
        return r - b
    return None


def draw_fact(rng: random.Random) -> tuple[str, int, int, int]:
    """A sum within 0..99 as (op, a, b, result)."""
    kind = rng.random()
    while True:
        if kind < 0.35:
            op, a, b = "+", rng.randint(1, 90), rng.randint(1, 60)
        elif kind < 0.70:
            op, a, b = "-", rng.randint(2, 99), rng.randint(1, 60)
        elif kind < 0.85:
            op, a, b = "*", rng.randint(2, 9), rng.randint(2, 9)
        elif kind < 0.93:
            op, a, b = "*", rng.randint(2, 4), rng.randint(2, 49)
        else:
            op, b = "/", rng.randint(2, 9)
            a = b * rng.randint(2, 9)
        result = calculate(op, a, b)
        if 0 <= result <= 99:
            return op, a, b, result


def count_line(rng: random.Random) -> str:
    """Counting by a number: "Count by 4: 4, 8, 12."."""
    by = rng.randint(2, 9)
    return f"Count by {by}: " + ", ".join(str(by * i) for i in range(1, rng.randint(4, 10))) + "."


def _with_sums(problem: Problem) -> str:
    """The story, with each sum after its sentence."""
    told = []
    for position, sentence in enumerate(problem.sentences[:-1]):
        told += [sentence, *(step.text for step in problem.steps if step.sentence == position)]
    return " ".join(told)


def story(problem: Problem, rng: random.Random) -> str:
    """The story with the sums it causes, or told twice; without the question."""
    if rng.random() < 0.3:
        plain = " ".join(problem.sentences[:-1])
        return f"{plain} Told again: {plain}"
    return _with_sums(problem)


def retelling(problem: Problem, rng: random.Random) -> str:
    """The story, then a second part: the same story, its sentences in another order, its numbers, or with its sums."""
    told = problem.sentences[:-1]
    plain, kind = " ".join(told), rng.random()
    if kind < 0.2:
        return f"{plain} Told again: {plain}"
    if kind < 0.4:
        return f"{plain} Told again: {' '.join(rng.sample(told, len(told)))}"
    if kind < 0.6:
        return f"{plain} How many: {', '.join(re.findall(r'[0-9]+', plain))}."
    return f"{plain} Told again: {_with_sums(problem)}"
