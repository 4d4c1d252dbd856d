"""Problems among which copies, look-alikes and test problems are planted: what near-duplicates and contamination are measured on.

A copy is the same problem in other words or another format; a look-alike is another problem in nearly the same words. Base
problems come from the tiny world, from templates of competition problems with drawn numbers, and from files of real ones.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from ray_distil.tiny import world

NAMES = [
    "Ann", "Ben", "Cara", "Dan", "Emma", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah", "Olga",
    "Paul", "Rosa", "Sven", "Tina", "Uwe", "Vera", "Will", "Yara", "Zoe", "John", "Mary", "Tom", "Lisa", "Sam", "Sara",
]  # fmt: skip
SYNONYMS = {
    "has": "owns", "have": "own", "buys": "purchases", "gives": "hands", "gave": "handed", "total": "overall",
    "each": "every", "together": "in all", "left": "remaining", "more": "additional", "find": "determine",
    "compute": "calculate", "value": "number", "many": "lots of", "wants": "wishes", "makes": "produces",
    "costs": "is priced at", "children": "kids", "suppose": "assume", "let": "suppose", "such that": "so that",
    "will": "would", "store": "shop", "friends": "pals", "he": "the boy", "she": "the girl", "and": "as well as",
    "of": "out of", "the": "that", "if": "in case", "what": "which", "is": "equals", "how many": "what number of",
}  # fmt: skip
OPPOSITES = [
    ("more", "fewer"), ("less", "more"), ("minimum", "maximum"), ("maximum", "minimum"), ("sum", "product"),
    ("product", "sum"), ("even", "odd"), ("odd", "even"), ("smallest", "largest"), ("largest", "smallest"),
    ("greater", "less"), ("inside", "outside"), ("exactly", "at least"), ("gives", "receives"), ("twice", "half"),
    ("positive", "negative"), ("before", "after"), ("buys", "sells"), ("adds", "removes"), ("first", "last"),
    ("divisible", "indivisible"), ("profit", "loss"), ("faster", "slower"), ("older", "younger"), ("above", "below"),
]  # fmt: skip
SPELLED = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
FRAMES = [
    "Solve the following problem step by step. {}", "{} Give your answer as a single number.", "Question: {}\nAnswer:",
    "Please help me with this problem: {} Thank you!",
]  # fmt: skip
NUMBER = re.compile(r"(?<![\d.,\w])\d+(?![\d.,]*\d|\w)")
COPIES = ["format", "number words", "wrapped", "one word", "two words", "three words", "names"]
LOOK_ALIKES = ["one number", "all numbers", "numbers swapped", "another meaning"]
DISGUISES = ["verbatim", "format", "in a longer text", "names", "two words", "a tenth of the words gone"]


@dataclass
class Planted:
    """kind: "" of a base problem; "copy: format", "no copy: one number", "test: verbatim", "no test: one number"."""

    text: str
    answer: str | None
    kind: str = ""


Change = Callable[[random.Random, str], str | None]


def templates(dice: random.Random) -> str:
    """A competition problem with drawn numbers."""
    n = dice.randint
    poly = f"{n(2, 9)}x^2 {dice.choice('+-')} {n(1, 20)}x {dice.choice('+-')} {n(1, 30)}"
    return dice.choice([
        f"Find the {dice.choice(['sum', 'product'])} of the roots of ${poly} = 0$, where $x$ is a real number.",
        f"What is the remainder when ${n(2, 99)}^{{{n(3, 200)}}}$ is divided by ${n(3, 50)}$?",
        f"Let $f(x) = {poly}$. Find the {dice.choice(['minimum', 'maximum'])} value of $f(x)$ on the interval $[{-n(1, 9)}, {n(1, 9)}]$.",
        f"How many positive integers less than ${n(50, 5000)}$ are divisible by ${n(2, 15)}$ but not by ${n(2, 15)}$?",
        f"In triangle $ABC$, $AB = {n(3, 60)}$, $BC = {n(3, 60)}$ and $\\angle B = {n(10, 170)}^\\circ$. Find the length of the altitude "
        "from $A$ to the line $BC$, rounded to the nearest hundredth.",
        f"The probability of rain on any day in {dice.choice(['April', 'May', 'June'])} is $\\frac{{{n(1, 9)}}}{{{n(10, 20)}}}$. What is "
        f"the probability that it rains on exactly ${n(1, 6)}$ of the first ${n(7, 14)}$ days? Express your answer as a common fraction.",
        f"Simplify $\\sqrt{{{n(10, 999)}}} + \\sqrt{{{n(10, 999)}}} - \\sqrt{{{n(10, 999)}}}$ as far as possible, in the form $a\\sqrt{{b}}$.",
        f"{dice.choice(NAMES)} invests \\${n(10, 99) * 100:,} at an annual interest rate of ${n(2, 12)}\\%$, compounded "
        f"{dice.choice(['annually', 'monthly'])}. How much money, to the nearest cent, is in the account after ${n(2, 30)}$ years?",
        f"A sequence is defined by $a_1 = {n(1, 20)}$ and $a_{{n+1}} = {n(2, 9)}a_n {dice.choice('+-')} {n(1, 30)}$ for $n \\ge 1$. What is "
        f"the units digit of $a_{{{n(20, 999)}}}$?",
        f"A train leaves station $P$ at ${n(30, 120)}$ km/h, and {n(1, 5)} hours later a second train leaves the same station on a "
        f"parallel track at ${n(121, 300)}$ km/h. How many kilometers from $P$ does the second train overtake the first?",
    ])  # fmt: skip


def base_problems(dice: random.Random, real: list[tuple[str, str | None]], number: int) -> Iterator[Planted]:
    """`number` different ones: the real ones first, then a third of the tiny world and the rest from templates."""
    seen: set[str] = set()
    tiny = world.training_problems(99)

    def drawn() -> tuple[str, str | None]:
        if dice.random() < 0.35:
            problem = next(tiny)
            return problem.question, str(problem.answer)
        return templates(dice), str(dice.randint(0, 999))

    def all_of_them() -> Iterator[tuple[str, str | None]]:
        yield from real
        while True:
            yield drawn()

    def different() -> Iterator[Planted]:
        for text, answer in all_of_them():
            if (key := " ".join(text.split())) not in seen:
                seen.add(key)
                yield Planted(text, answer)

    return islice(different(), number)


def reformatted(dice: random.Random, text: str) -> str | None:
    changed = text
    if "$" in changed and dice.random() < 0.7:
        changed = changed.replace("\\$", "").replace("$", dice.choice(["", "$ "]))
    changed = changed.replace("\\frac", dice.choice(["\\dfrac", "\\tfrac"]))
    changed = re.sub(r" ([+-]) ", r"\1", changed) if dice.random() < 0.6 else changed.replace("+", " + ")
    changed = re.sub(r"\b(\d)(\d{3})\b", r"\1,\2", changed) if dice.random() < 0.7 else changed
    changed = changed[0].lower() + changed[1:] if dice.random() < 0.5 else changed
    changed = re.sub(r"\.(?=\s|$)", dice.choice(["", " ."]), changed) if dice.random() < 0.6 else changed
    return None if changed == text else changed


def paraphrased(number: int) -> Change:
    def change(dice: random.Random, text: str) -> str | None:
        left = number
        for word, synonym in dice.sample(sorted(SYNONYMS.items()), len(SYNONYMS)):
            changed = re.sub(rf"\b{word}\b", synonym, text, count=1, flags=re.IGNORECASE)
            left, text = left - (changed != text), changed
            if not left:
                return text
        return None

    return change


def renamed(dice: random.Random, text: str) -> str | None:
    present = [name for name in NAMES if re.search(rf"\b{name}\b", text)]
    for name in present:
        text = re.sub(rf"\b{name}\b", dice.choice([n for n in NAMES if n not in present]), text)
    return text if present else None


def spelled(dice: random.Random, text: str) -> str | None:
    changed = re.sub(
        r"(?<=\s)(\d{1,2})(?=\s+[a-z])", lambda m: SPELLED[int(m[1])] if int(m[1]) < 13 else m[0], text, count=2
    )
    return None if changed == text else changed


def renumbered(every: bool) -> Change:
    def change(dice: random.Random, text: str) -> str | None:
        places = list(NUMBER.finditer(text))
        for match in reversed(places if every else dice.sample(places, min(1, len(places)))):
            text = text[: match.start()] + str(int(match[0]) + dice.choice([1, 2, 3, 5, 7])) + text[match.end() :]
        return text if places else None

    return change


def swapped(dice: random.Random, text: str) -> str | None:
    places = list(NUMBER.finditer(text))
    if len(places) < 2:
        return None
    first, second = sorted(dice.sample(places, 2), key=lambda match: match.start())
    if first[0] == second[0]:
        return None
    return text[: first.start()] + second[0] + text[first.end() : second.start()] + first[0] + text[second.end() :]


def opposite(dice: random.Random, text: str) -> str | None:
    for word, meaning in dice.sample(OPPOSITES, len(OPPOSITES)):
        changed = re.sub(rf"\b{word}\b", meaning, text, count=1)
        if changed != text:
            return changed
    return None


def thinned(dice: random.Random, text: str) -> str | None:
    return " ".join(word for word in text.split() if dice.random() > 0.1)


CHANGES: dict[str, Change] = {
    "format": reformatted, "number words": spelled, "wrapped": lambda dice, text: dice.choice(FRAMES).format(text),
    "one word": paraphrased(1), "two words": paraphrased(2), "three words": paraphrased(3), "names": renamed,
    "one number": renumbered(False), "all numbers": renumbered(True), "numbers swapped": swapped,
    "another meaning": opposite, "verbatim": lambda dice, text: text, "a tenth of the words gone": thinned,
    "in a longer text": lambda dice, text: f"Here are three exercises. 1. {templates(dice)}\n2. {text}\n3. {templates(dice)} Solve all.",
}  # fmt: skip


def planted(
    real: list[tuple[str, str | None]], tests: list[str], number: int, each: int, seed: int = 7
) -> list[Planted]:
    """`number` base problems in their order, with `each` planted rows of each kind behind their originals."""
    dice = random.Random(seed)
    base = list(base_problems(dice, real, number))
    seen = {" ".join(row.text.split()) for row in base}
    at: list[tuple[float, Planted]] = [(float(place), row) for place, row in enumerate(base)]

    def plant(kind: str, change: Change, originals: list[tuple[int, str, str | None]], answer: Callable[[str | None], str | None]) -> None:  # fmt: skip
        left, tries = each, 80 * each
        while left and tries:
            tries -= 1
            place, text, reference = dice.choice(originals)
            copy = change(dice, text)
            key = " ".join(copy.split()) if copy else ""
            if copy and (key not in seen or kind.endswith("verbatim")):
                seen.add(key)
                at.append((place + 0.5 + dice.random() * (len(base) - place), Planted(copy, answer(reference), kind)))
                left -= 1

    # Half of the originals are real ones, if there are any.
    half = [(k, row.text, row.answer) for k, row in enumerate(base)]
    if real:
        half += half[: len(real)] * max(1, (len(base) - len(real)) // len(real))
    answered = [original for original in half if original[2] is not None]
    for kind in COPIES:
        plant(f"copy: {kind}", CHANGES[kind], answered, lambda reference: reference)
    for kind in LOOK_ALIKES:
        plant(f"no copy: {kind}", CHANGES[kind], answered, lambda reference: f"{reference}{dice.randrange(10**6)}")
        plant(f"no copy, no reference: {kind}", CHANGES[kind], half, lambda reference: None)
    of_tests: list[tuple[int, str, str | None]] = [(0, text, None) for text in tests]
    for kind in DISGUISES:
        plant(f"test: {kind}", CHANGES[kind], of_tests, lambda reference: None)
    for kind in ("one number", "all numbers"):
        plant(f"no test: {kind}", CHANGES[kind], of_tests, lambda reference: None)
    return [row for _, row in sorted(at, key=lambda entry: entry[0])]
