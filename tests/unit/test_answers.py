"""The answer that a text states, the result in which it ends, and whether it holds a step: tables of forms."""

import time

import pytest

from ray_distil.agreement import answers_agree
from ray_distil.answers import extract_answer
from ray_distil.results import final_result, has_steps

STATED = [
    ("**Answer**: 12", "12"),
    ("**Answer:** 12", "12"),
    ("**Answer: 12**", "12"),
    ("**Final Answer**\n\n\\boxed{12}", "12"),
    ("## Answer\n12", "12"),
    ("Answer: C. 42", "C. 42"),
    ("Answer：12", "12"),
    ("答案是12", "12"),
    ("答案为 12。", "12"),
    ("#### 12", "12"),
    ("a b c\n#### 1,200", "1200"),
    ("#### Step 3: the end", None),
    (r"<answer>\boxed{12}</answer>", "12"),
    (r"\boxed 5", "5"),
    (r"\boxed5", "5"),
    (r"\fbox{5}", "5"),
    ("the answer should be 42.", "42"),
    ("So the answer would be $42$ dollars.", "42 dollars"),
    ("\\boxed{x > 3}\n\nAnswer: D", "D"),
    (r"\boxed{5} and \boxed{6}", "5, 6"),
    (r"$x=\boxed{5}$, $y=\boxed{6}$", "5, 6"),
    (r"first \boxed{1}, then \boxed{2}.", "2"),
    ("The answer is therefore 5, which is right.", "5"),
    ("The answer is **12**.", "12"),
    (r"The final answer is \(12\).", "12"),
    ("The final answer is: $12$", "12"),
    ("Final Answer: The final answer is $12$. I hope it is correct.", "12"),
    (r"Therefore, the final answer is: $\boxed{12}$. I hope it is correct", "12"),
    ("ANSWER: (C)", "(C)"),
    ("The correct answer is (C) 12.", "(C) 12"),
    ("The answer is A. The reason is B.", "A"),
    ("Answer: Because", "Because"),
    ("The answer is 1,200 dollars.", "1200"),
    ("The answer is $1,200.", "1200"),
    (r"The answer is \$5.50.", "5.5"),
    ("The answer is 3 and 4.", "3, 4"),
    ("The answers are $3$ and $4$.", "3, 4"),
    ("The answer: 3/4.", "3/4"),
    ("It is 12.", None),
    ("", None),
    ("Please answer the question: 5 + 7?", None),
    ("故选C", "C"),
    ("Option C is correct.", "C"),
    ("\\boxed{5}\n\nThe answer is 6 times as big as before.", "5"),
    (r"\boxed{\text{(C)}}", "C"),
    ("\\boxed{}\nThe answer is 5", "5"),
    (r"\boxed{left open", None),
    ("The answer is\n\n$$\n12\n$$", "12"),
    ("The answer is 25%.", "25%"),
    ("The answer is -5.", "-5"),
    ("Thus the answer is x = 5.", "5"),
    ("The answer is 2.5 hours.", "2.5"),
    ("\\boxed{12}.\n\n\\boxed{12}", "12"),
    ("<answer> 1 </answer>", "1"),
    ("Ans: 5", "5"),
    ("answer = 7", "7"),
    ("My answer is: seven", "seven"),
    ("The answer is 5 because 2+3=5.", "5"),
    ("The answer is 5:30 pm.", "5:30 pm"),
    ("**The answer is 12.**", "12"),
    ("Answer:\n12", "12"),
    ("Answer:\n\n**12 apples**", "12"),
    ("The final result is 12.", None),
    (r"The answer to this problem is $\frac{3}{4}$.", r"\frac{3}{4}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    ("正确答案：B", "B"),
    (r"The value is \boxed{\frac{1}{2}} meters.", r"\frac{1}{2}"),
    (
        r"\boxed{\left\{ \begin{array}{l} x=1 \\ y=2 \end{array} \right.}",
        r"\left\{ \begin{array}{l} x=1 \\ y=2 \end{array} \right.",
    ),
    (r"\boxed{5}, \boxed{6}", "5, 6"),
    (r"\boxed {5}", "5"),
    (r"\boxed{5}. See also \boxed{}.", "5"),
    ("**Answer**\n\n12", "12"),
    ("The answer is:\n\n\\[\n12\n\\]", "12"),
    ("The answer to the question is 12.", "12"),
    ("The correct option is C.", "C"),
    ("<answer>12</answer>", "12"),
    ("The answer is 12, since 5 + 7 = 12.", "12"),
    ("The answer is .5", "0.5"),
    ("答案：12", "12"),
    ("因此，答案是 $12$。", "12"),
    ("The answer is 12.", "12"),
]
RESULTS = [
    ("Thus $x=3$ or $x=4$.", "3,4", True),
    ("So $x_1 = 4, x_2 = 5$.", "5", False),
    ("So $x_1 = 4, x_2 = 5$.", "4, 5", True),
    ("So 25% of them are red.", "25%", True),
    ("It is 7 pens (from step 3).", "3", False),
    ("It is 7 pens (from step 3).", "7", True),
    ("That is 7 m^2.", "7", True),
    ("Step 2: 5 * 1,000 = 5,000 pens.", "5000", True),
    ("Ann has 12 pens left.", "12", True),
    ("So 12 - 5 = 7.", "7", True),
    (r"Thus the total is \(\frac{25}{4}\).", "4", False),
    (r"Thus the total is \(\frac{25}{4}\).", "25/4", True),
    ("$$x = 5$$", "5", True),
    ("So it takes 10 hours", "10 minutes", False),
    ("So it takes 10 hours", "10", True),
    ("So the answer must be negative: -5", "-5", True),
    (r"The result: -\frac{1}{2}", "-1/2", True),
    ("no number", "", False),
    ("x = 5, so we are done", "5", True),
    ("Hence the probability is 3/8.", "3/8", True),
    ("Hence 3 : 4", "4", False),
    (r"The set is $\{1, 2, 3\}$.", r"\{1,2,3\}", True),
    ("Point (3, 4).", "(3,4)", True),
    ("Point (3, 4).", "4", False),
    ("Since 3 + 4 = 7, 7 pens are left.", "7", True),
    ("So $a = 2b + 1$", "2b+1", True),
    ("The price is $12.50", "12.50", True),
    ("He pays $5 and $7, so $12 in all.", "12", True),
    ("The range is 1 < x < 3.", "1 < x < 3", True),
    ("Therefore $2^{10} = 1024$.", "1024", True),
    ("It costs 3 dollars and 50 cents", "3", False),
    ("Sum = 1,000,000", "1000000", True),
    ("= 42", "42", True),
    ("**42**", "42", True),
    ("So the choice is B.", "B", True),
    ("Therefore, option (C).", "C", True),
    (r"The answer \sqrt{2}", r"\sqrt{2}", True),
    (r"so we get 2\sqrt{3}", r"2\sqrt{3}", True),
    (r"we get 2\sqrt{3}", "3", False),
    ("n = 7 is prime", "7", True),
    ("The remainder is 3 mod 5", "3", False),
    ("f(2) = 2^2 + 1 = 5", "5", True),
    ("x^2 - 1 = (x-1)(x+1)", "(x-1)(x+1)", True),
    ("So 1.5e3 m", "1500", True),
    ("The date is 2024-01-02.", "2024-01-02", True),
    ("That makes 3 1/2 cups.", "3.5", True),
    ("So there are 5!/(2!3!) = 10 ways", "10", True),
    ("The angle is 90°.", "90", True),
    ("Its slope is -2/3", "-2/3", True),
    ("Step 3: therefore it is 12 - 20 = -8 degrees", "-8", True),
    ("So he is 5 years old", "5", True),
    ("log_2 8 = 3", "3", True),
    ("Thus e^{2x}", "e^{2x}", True),
    ("The speed is 60 km/h.", "60", True),
    ("Thus 3 × 4 = 12", "12", True),
    ("a + b = c", "c", True),
    ("So it's a total of 15.", "15", True),
    ("Thus I get 15.", "15", True),
    (r"x = 2 \pm \sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}", True),
    (r"Thus the share is $\frac{3}{4}$.", r"\frac{3}{4}", True),
    (r"So x = \dfrac{7}{12}.", "7/12", True),
    (r"So $x=-\frac{5}{2}$", "2", False),
    (r"Hence the area is $2\sqrt{3}$.", "3", False),
    (r"The angle is $2\pi$.", "2", False),
    ("Thus $x=3$ or $x=4$.", "4", False),
    ("The interval is [1, 2).", "[1,2)", True),
    ("The time is 10^{5} s.", "10^{5}", True),
    ("So the choice is (B).", "B", True),
    ("That is 7 m^2.", "2", False),
    ("The polynomial is x^2 + 2x + 1", "x^2+2x+1", True),
    ("It starts at 5:30", "30", False),
    ("So it is 25%.", "25%", True),
]
STEPS = [
    ("The answer is 13.", False),
    (r"The final answer is \boxed{40}.", False),
    ("The answer is 13.\n\nThe final answer is \\boxed{13}.", False),
    ("13", False),
    ("So Ann has 13 pens.", False),
    ("x = 13", False),
    ("", False),
    ("5 + 8 = 13", True),
    ("Ann buys 8 more pens. So she has 13.", True),
    (r"$\frac{1}{2} \cdot 26 = 13$", True),
    ("Because all cats are mammals and Tom is a cat, Tom is a mammal.", True),
    ("Step 1: 3 * 4 = 12.\n\nStep 2: 12 + 1 = 13.", True),
]


@pytest.mark.parametrize(("text", "answer"), STATED)
def test_stated(text: str, answer: str | None) -> None:
    found = extract_answer(text)
    assert found == answer or answers_agree(found, answer)


@pytest.mark.parametrize(("text", "reference", "same"), RESULTS)
def test_result(text: str, reference: str, same: bool) -> None:
    assert answers_agree(final_result(text), reference) is same


@pytest.mark.parametrize(("text", "steps"), STEPS)
def test_steps(text: str, steps: bool) -> None:
    assert has_steps(text) is steps


@pytest.mark.parametrize(
    "fill", ["\n", " ", "answer is ", "\\boxed{", "$", "(", "\\frac{", "<answer>", "1,", "x = ", "a-"]
)
def test_long_texts_take_linear_time(fill: str) -> None:
    def seconds(times: int) -> float:
        started = time.process_time()
        for text in (f"The answer is{fill * times}", f"The answer is a{fill * times}b", f"So{fill * times}"):
            extract_answer(text)
            final_result(text)
            has_steps(text)
        return time.process_time() - started

    seconds(10)
    assert seconds(100_000) < 40 * max(0.05, seconds(10_000))  # ten times as long; quadratic: a hundred times
