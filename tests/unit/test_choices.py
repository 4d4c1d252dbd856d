"""Multiple choice: a letter of the range or nothing, and an order that each row has for itself."""

from collections import Counter

import pytest

from ray_distil.judge.choices import listed, ordered, stated_letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"so \boxed{C}.", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{\textbf{(B)}\ 42}", "B"),
        (r"\boxed{C. 12 m/s}", "C"),
        (r"\boxed{\text{Option B}}", "B"),
        (r"\boxed{b}", "B"),
        ("**Answer:** D", "D"),  # simple-evals finds none
        ("Answer: (D)", "D"),
        ("Answer: C) 12 m/s", "C"),
        ("ANSWER: [B]", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is **C**.", "C"),
        ("So the answer is: **B. Nitrogen**", "B"),
        ("the correct option is (D).", "D"),
        ("Option C is correct.", "C"),
        ("<answer>B</answer>", "B"),
        ("答案是 $C$。", "C"),
        ("Answer：Ｃ", "C"),
        ("Answer: B. Let me check.\n\nIt is D after all.\n\nAnswer: D", "D"),  # the last, not the first
        ("\\boxed{B}. No, wait.\n\nAnswer: C", "C"),
        ("Answer: B\n\nHence \\boxed{12 m/s}", "B"),
    ],
)
def test_a_letter_is_found_in_each_form(text: str, letter: str) -> None:
    assert stated_letter(text, 4) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I think A cat is there.",  # MMLU-Pro's last resort reads A
        "A cat",
        "Answer: Because it is hot",  # simple-evals reads B
        "Answer: A large number",
        "Answer: DNA",
        "The answer is a number",
        r"\boxed{A, C}",
        r"\boxed{A \text{ and } D}",
        r"\boxed{A} and \boxed{C}",
        "The answer is A or B.",
        r"\boxed{12}",
        r"\boxed{C=3}",
        r"\boxed{E}",  # of four
    ],
)
def test_a_letter_is_never_guessed(text: str) -> None:
    assert stated_letter(text, 4) is None


def test_the_range_is_the_rows_own() -> None:
    assert stated_letter(r"\boxed{J}", 10) == "J"
    assert stated_letter(r"\boxed{J}", 9) is None
    assert stated_letter(r"\boxed{A}", 0) is None


def test_the_order_is_the_rows_own_and_the_right_one_stands_anywhere() -> None:
    options = ["right", "wrong", "false", "no"]
    order = ordered("row 7", options)
    assert order == ordered("row 7", options[::-1]) == ordered("row 7", [*options, "right"])
    places = Counter(ordered(f"row {k}", options).index("right") for k in range(400))
    assert all(70 < places[k] < 130 for k in range(4)), "evalchemy has it at D in all"
    before = {k: ordered(f"row {k}", options) for k in range(9)}
    del before[3]  # a row that is dropped leaves the others as they are
    assert all(order == ordered(f"row {k}", options) for k, order in before.items())


def test_options_are_lettered() -> None:
    assert listed(["5", "6 m"]) == "A. 5\nB. 6 m"
