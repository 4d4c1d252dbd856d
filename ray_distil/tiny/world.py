"""Seeded generator of the tiny world: grade-school word problems of 2 to 4 operations on whole numbers 1..99.

    Dan buys 3 trays with 3 shells in each tray. Leo gives him 7 more shells. How many shells does Dan have now?
    steps: 3 * 3 = 9, 9 + 7 = 16                                                                    answer: 16

The shipped models know this language and these numbers, so the same state of `rng` must go on giving the same
problem (`tests/unit/test_world.py` holds a digest).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
SEED_TEST, SEED_DEV = 20261124, 777  # no model of the tiny world trains on a problem of these two
NUM_HELD_OUT = 1000

PEOPLE = [
    ("Ann", "She"), ("Ben", "He"), ("Cara", "She"), ("Dan", "He"), ("Emma", "She"), ("Finn", "He"),
    ("Gina", "She"), ("Hugo", "He"), ("Ida", "She"), ("Jack", "He"), ("Kate", "She"), ("Leo", "He"),
    ("Mia", "She"), ("Noah", "He"), ("Olga", "She"), ("Paul", "He"),
]  # fmt: skip
ITEMS = [
    "pens", "apples", "books", "cards", "coins", "eggs", "shells", "stamps",
    "marbles", "cookies", "pears", "stickers", "balls", "nuts", "toys", "roses",
]  # fmt: skip
CONTAINERS = [("boxes", "box"), ("bags", "bag"), ("packs", "pack"), ("baskets", "basket"), ("trays", "tray")]
COLOURS = ["red", "blue", "green", "white", "black"]


class _OutOfRange(Exception):
    """A draw left the numbers 1..99; draw the problem again."""


@dataclass
class Step:
    """One operation `a op b = r`, caused by sentence number `sentence`, and what it says of the story."""

    op: str
    a: int
    b: int
    r: int
    sentence: int
    says: str  # with {} for the equation: "Then he has {} pens."
    reason: str = ""  # where the step does not read its sentence: "Now he adds these 12 pens."
    compares: bool = False  # "more than", "fewer than": a hasty reader takes the one for the other

    @property
    def equation(self) -> str:
        return f"{self.a} {self.op} {self.b} = {self.r}"

    @property
    def text(self) -> str:
        return self.says.format(self.equation)


@dataclass
class Problem:
    """A story told in sentences, the last of which asks, and its solution."""

    sentences: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    distraction: int | None = None  # number of the sentence that does not matter
    closing: str = ""  # the answer as a sentence: "Dan has 16 shells now."

    @property
    def question(self) -> str:
        return " ".join(self.sentences)

    @property
    def answer(self) -> int:
        return self.steps[-1].r

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def step(self, op: str, a: int, b: int, says: str, reason: str = "", compares: bool = False) -> int:
        r = calculate(op, a, b)
        if not 1 <= r <= 99 or (op == "/" and (a % b or r < 2)):
            raise _OutOfRange
        self.steps.append(Step(op, a, b, r, len(self.sentences) - 1, says, reason, compares))
        return r


def calculate(op: str, a: int, b: int) -> int:
    """`a op b` for + - * and exact / on whole numbers."""
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def draw_problem(rng: random.Random) -> Problem:
    """Draw one problem."""
    while True:
        try:
            problem = _draw(rng)
        except _OutOfRange:
            continue
        if 2 <= len(problem.steps) <= 4:
            return problem


def _draw(rng: random.Random) -> Problem:
    problem = Problem()
    (name, subject), (second_name, _) = rng.sample(PEOPLE, 2)
    item = rng.choice(ITEMS)
    containers, container = rng.choice(CONTAINERS)
    count = _open(rng, problem, name, item, containers, container)
    if rng.random() < 0.15:
        problem.distraction = len(problem.sentences)
        problem.say(
            rng.choice(
                [
                    f"{second_name} is {rng.randint(7, 15)} years old.",
                    f"{name} walks {rng.randint(2, 30)} blocks to the shop.",
                ]
            )
        )
    for _ in range(rng.choice([1, 1, 2, 2])):
        count = _event(rng, problem, count, subject, second_name, item, containers)
    _ask(rng, problem, count, name, subject, second_name, item, containers, container)
    return problem


def _open(rng: random.Random, problem: Problem, name: str, item: str, containers: str, container: str) -> int:
    kind = rng.random()
    if kind < 0.45:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        problem.say(
            rng.choice(
                [
                    f"{name} has {a} {containers} of {b} {item}.",
                    f"{name} buys {a} {containers} with {b} {item} in each {container}.",
                    f"{name} collects {b} {item} every day for {a} days.",
                ]
            )
        )
        return problem.step("*", a, b, f"{name} starts with {{}} {item}.")

    if kind < 0.75:
        a, b = rng.randint(5, 50), rng.randint(5, 45)
        first_colour, two = rng.sample(COLOURS, 2)
        problem.say(f"{name} has {a} {first_colour} {item} and {b} {two} {item}.")
        return problem.step("+", a, b, f"{name} starts with {{}} {item}.")

    count = rng.randint(12, 80)
    problem.say(f"{name} has {count} {item}.")
    return count


def _event(
    rng: random.Random, problem: Problem, count: int, subject: str, other: str, item: str, containers: str
) -> int:
    he, him = subject.lower(), "him" if subject == "He" else "her"
    then = f"Then {he} has {{}} {item}."

    kind = rng.random()
    if kind < 0.36:
        x = rng.randint(3, 45)
        problem.say(
            rng.choice(
                [
                    f"{subject} buys {x} more {item}.",
                    f"{other} gives {him} {x} more {item}.",
                    f"Then {he} finds {x} more {item}.",
                ]
            )
        )
        return problem.step("+", count, x, then)

    if kind < 0.80:
        x = rng.randint(3, 60)
        problem.say(
            rng.choice(
                [
                    f"{subject} gives {x} {item} to {other}.",
                    f"{subject} loses {x} {item}.",
                    f"Then {he} sells {x} {item}.",
                ]
            )
        )
        return problem.step("-", count, x, then)

    a, b = rng.randint(2, 6), rng.randint(2, 9)
    problem.say(f"{subject} buys {a} more {containers} of {b} {item}.")
    new = problem.step("*", a, b, f"The new {containers} hold {{}} {item}.")
    return problem.step("+", count, new, then, reason=f"Now {he} adds these {new} {item}.")


def _ask(
    rng: random.Random,
    problem: Problem,
    count: int,
    name: str,
    subject: str,
    other: str,
    item: str,
    containers: str,
    container: str,
) -> None:
    # How many are left, or a harder question.
    kind = rng.random()
    if kind < 0.45:
        problem.say(f"How many {item} does {name} have now?")
        problem.closing = f"{name} has {count} {item} now."
    elif kind < 0.60:
        parts = [x for x in range(2, 10) if count % x == 0 and 2 <= count // x <= 9]
        if not parts:
            raise _OutOfRange
        x = rng.choice(parts)
        problem.say(f"{subject} puts all {item} into {x} equal {containers}.")
        each = problem.step("/", count, x, f"Each {container} holds {{}} {item}.")
        problem.say(f"How many {item} are in each {container}?")
        problem.closing = f"Each {container} holds {each} {item}."
    elif kind < 0.75:
        x = rng.randint(2, 4)
        problem.say(f"{other} has {x} times as many {item} as {name}.")
        theirs = problem.step("*", x, count, f"{other} has {{}} {item}.")
        problem.say(f"How many {item} does {other} have?")
        problem.closing = f"{other} has {theirs} {item}."
    else:
        x = rng.randint(2, 30)
        word, op = rng.choice([("more", "+"), ("fewer", "-")])
        problem.say(f"{other} has {x} {word} {item} than {name}.")
        theirs = problem.step(op, count, x, f"{other} has {{}} {item}.", compares=True)

        if kind < 0.88:
            problem.say(f"How many {item} does {other} have?")
            problem.closing = f"{other} has {theirs} {item}."
        else:
            together = problem.step("+", count, theirs, f"In all they have {{}} {item}.", reason="Now I add these two.")
            problem.say(f"How many {item} do they have in all?")
            problem.closing = f"In all they have {together} {item}."


def held_out(seed: int, num_problems: int = NUM_HELD_OUT) -> list[Problem]:
    """The first problems of a held-out set."""
    rng = random.Random(seed)
    return [draw_problem(rng) for _ in range(num_problems)]


@cache
def _reserved() -> frozenset[str]:
    return frozenset(p.question for seed in (SEED_TEST, SEED_DEV) for p in held_out(seed))


def training_problems(seed: int) -> Iterator[Problem]:
    """Endless problems that are in no held-out set; a question may come again."""
    rng = random.Random(seed)
    while True:
        problem = draw_problem(rng)
        if problem.question not in _reserved():
            yield problem
