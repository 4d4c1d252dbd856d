"""Named forms of answers, each in both directions: right pairs agree, and near pairs do not."""

import pytest

from ray_distil.judge.agreement import compare_answers
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.choices import ordered, stated_letter
from ray_distil.judge.results import final_result
from ray_distil.judge.scorers import is_right

SAME = {
    "a bracket behind a number": [
        ("3(m-n)", "3m-3n"), ("4(b)", "4b"), ("15 (fifteen)", "15"), ("21 (twenty-one)", "21"), ("5(x+1)", "5x+5"),
    ],
    "numbers of three digits in lists": [
        ("7, 250", "250, 7"), ("120 and 350", "350, 120"), ("(8,144)", "(8, 144)"), ("123, 456, 789", "123,456,789"), ("1,500 and 2,500", "1500, 2500"),
        ("{12, 345}", "{345, 12}"), ("1,234", "1234"), ("x = 10, y = 200", "(10, 200)"),
    ],
    "products of letters": [
        ("uv+vw", "wv+uv"), ("mn-m", "m(n-1)"), ("pq-rs", "-rs+pq"), ("(x+y)z", "xz+yz"), ("ab-ba", "0*ab"),
    ],
    "words that belong to a number": [
        ("3 quarters", "3/4"), ("7 tenths", "0.7"), ("2 lakh", "200000"), ("3 crore", "30,000,000"), ("4 squared", "16"),
        ("5 apples", "5"), ("2 million people", "2000000"),
    ],
    "ratios and fractions": [
        ("9:10", r"\frac{9}{10}"), ("3:4", "6/8"), ("2:10", "1/5"), ("3:11", r"\frac{3}{11}"),
    ],
    "euros": [("47,50 €", "€47.50"), ("€ 47,50", "47.50"), ("1.234,50 €", "1234.50 €"), ("12,00 EUR", "12")],
    "capitals": [("Monday", "monday"), ("YES", "yes"), ("Paris", "PARIS"), ("True", "TRUE")],
    "powers of ten and shares": [
        ("10^{-3}", "0.001"), ("5×10⁻²", "0.05"), ("4‰", "0.004"), ("30 ㎡", "30 m^2"), ("3 out of 8", "3/8"),
        ("2/3 ≈ 0.667", "2/3"), ("0.5 (or 1/2)", "1/2"), (r"\nicefrac{3}{4}", "0.75"), ("7.5/10", "3/4"),
    ],
    "constants": [
        (r"\sin x + C", r"\sin x + c"), (r"\lim_{x \to 0} x + 2", "2"), (r"\frac{\pi}{6} + 2k\pi", r"\frac{\pi}{6} + 2n\pi"),
        (r"n\pi, n \in \mathbb{Z}", r"k\pi"),
    ],
    "vectors, sets, intervals": [
        (r"\left[\begin{array}{cc}1&0\\0&1\end{array}\right]", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
        (r"\langle 4, 5 \rangle", "(4, 5)"), (r"\{x \mid 1<x<4\}", "(1,4)"), ("all real numbers", r"(-\infty, \infty)"),
        (r"P \cup Q", r"Q \cup P"),
    ],
    "units, times, dates": [
        ("1 hour 15 minutes", "75 minutes"), ("2 km", "2000 m"), ("250 g", "0.25 kg"), ("3 m s^{-1}", "3 m/s"),
        ("12 N·m", "12 N m"), ("47 Ω", "47 ohms"), ("36 km/h", "10 m/s"), ("150 cents", "$1.50"),
        ("2025-12-01", "December 1, 2025"), ("1st of May 2020", "May 1, 2020"), ("4:05 pm", "16:05"),
    ],
    "chemistry": [
        (r"\ce{CO2}", "CO_2"), ("Ca^{2+}", "Ca2+"), (r"\ce{NO3^-}", "NO_3^-"), ("1s^{2}2s^{1}", "1s2 2s1"),
        (r"2Na + Cl_2 \rightarrow 2NaCl", "Cl2 + 2Na -> 2NaCl"), ("pH = 3", "3"),
    ],
    "phrases": [
        ("There is no solution.", r"\emptyset"), ("infinitely many solutions", "Infinitely many"),
        ("No real roots", "no real solution"), ("DNE", "does not exist"),
    ],
    "several letters": [("A, C and D", "ACD"), ("B/D", "B, D"), ("(A), (B)", "AB")],
    "lists of quantities": [("2 cats, 3 dogs", "3 dogs, 2 cats")],
}  # fmt: skip
DIFFERENT = {
    "ratios and fractions": [("9:10", r"\frac{3}{4}"), ("2:10", "5"), ("3:11", "11/3"), ("9:10", "910")],
    "euros": [("47,50 €", "47.51"), ("1,234 €", "1.234"), ("47,50", "4750 €")],
    "a bracket behind a number": [("3(m-n)", "3(n-m)"), ("4(b)", "4"), ("8(pq)", "8(rs)"), ("x^3(a-b)", "x^3(b-a)")],
    "numbers of three digits in lists": [
        ("7, 250", "7250"), ("1, 234, 567", "1,234,567"), ("7, 250", "7,250"), ("0,250", "250"), ("(4 -1)", "3"), ("120, 350", "350, 121"),
        ("(144,8)", "(8,144)"),
    ],
    "products of letters": [("uv+vw", "uw+vw"), ("mn-m", "m-mn"), ("listen", "silent"), ("no-on", "on-no"), ("god", "dog")],
    "words that belong to a number": [
        ("3 quarters", "3"), ("7 tenths", "7"), ("2 lakh", "2"), ("4 squared", "4"), ("5 below zero", "5"),
        ("300 BC", "300"), ("6 over 7", "6"), ("2 thirds", "3/2"), ("5 factorial", "5"), ("5 more than x", "5"),
    ],
    "capitals": [("Bb", "BB"), ("AaBB", "aabb"), ("Co", "CO"), ("NO2", "No2"), ("mL", "ML")],
    "powers of ten and shares": [
        ("10^{-3}", "10^3"), ("4‰", "4"), ("4‰", "4%"), ("30 ㎡", "30 m^3"), ("3 out of 8", "8/3"), ("2.5/10", "2/5.10"),
        ("12/11/2024", "11/12/2024"), ("x ≈ 3", "y ≈ 3"),
    ],
    "constants": [(r"x^2 + C", "x^2"), (r"2k\pi", r"k\pi"), ("x + C", "2x + C"), ("R^2", "r^2"), (r"k\pi", "k")],
    "vectors, sets, intervals": [
        (r"\langle 4, 5 \rangle", "(5, 4)"), (r"\{x \mid 1<x<4\}", "[1,4]"), (r"P \cup Q", r"P \cap Q"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}2&1\end{pmatrix}"),
    ],
    "units, times, dates": [
        ("1 hour 15 minutes", "15 minutes"), ("2 km", "2 m"), ("250 g", "250 kg"), ("3 m/s", "3 km/h"), ("5 m^2", "5 m"),
        ("47 Ω", "47 kΩ"), ("2025-12-01", "January 12, 2025"), ("4:05 pm", "4:05"), ("4:05 pm", "4:05 am"),
        ("10:30", "10:30 am"), ("60 degrees", "60 minutes"), ("2 m s", "2 m/s"),
    ],
    "chemistry": [
        ("Ca^{2+}", "Ca^+"), ("Fe^{2+}", "Fe^{3+}"), (r"\ce{CO2}", "CO"), ("1s^22s^1", "1s^22s^2"),
        ("2Na + Cl_2 -> 2NaCl", "Na + Cl_2 -> 2NaCl"), ("pH = 3", "pOH = 3"), ("A -> B", "B -> A"),
    ],
    "phrases": [
        ("no solution", "0"), ("no solution", "infinitely many solutions"), ("no real solution", "no solution"),
        (r"\infty", "infinitely many"), ("undefined", "0"),
    ],
    "several letters": [("A, C", "A"), ("ACD", "ABD"), ("AB", "BA"), ("A or B", "A, C")],
    "lists of quantities": [("2 cats, 3 dogs", "3 cats, 2 dogs"), ("red, blue", "blue, green")],
}  # fmt: skip


@pytest.mark.parametrize(("answer", "reference"), [pair for pairs in SAME.values() for pair in pairs])
def test_right_pairs_agree(answer: str, reference: str) -> None:
    assert compare_answers(answer, reference) == compare_answers(reference, answer) == "equal"


@pytest.mark.parametrize(("answer", "reference"), [pair for pairs in DIFFERENT.values() for pair in pairs])
def test_near_pairs_do_not(answer: str, reference: str) -> None:
    assert {compare_answers(answer, reference), compare_answers(reference, answer)} <= {"different", "unclear"}


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("m + n = 73", "73", True), ("x \\ge 73", "73", False), ("x = 7, y = 73", "73", False), ("x = 1 or x = 73", "73", False),
        ("073", "73", True), ("73rd", "73", True), (r"73^{\text{rd}}", "73", True), ("25 = 5^2", "25", True),
        ("x \\neq 73", "73", False), ("7\u200b3", "73", True),
    ],
)  # fmt: skip
def test_whole_numbers(answer: str, reference: str, expected: bool) -> None:
    assert is_right(answer, reference, "integer") is expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is about 7.5.", "7.5"),
        ("**Answer**: The area is **24**.", "24"),
        ("Thus the answer is 9<|eot_id|>", "9"),
        ("The answer is <strong>9</strong>.", "9"),
        ("\\boxed{9}\n\nFinal answer: as above", "9"),
        ("(a) \\boxed{2}\n(b) \\boxed{3}", "2, 3"),
        ("So the answer is \\boxed{31", "31"),
        ("Put the final answer within \\boxed{}.", None),
        ("Answer: A/B/C/D", None),
        ("Answer: [your answer]", None),
        ("The answer is iron, zinc, and lead.", "iron, zinc, and lead"),
        ("The answer is the U.K. Parliament.", "the U.K. Parliament"),
        ("The answer is Mr. Brown.", "Mr. Brown"),
        ("The answer is 7 if we count both ends.", "7"),
        ("The answer is no if n is odd.", "no if n is odd"),
        ("The answer is 12, since 3 * 4 = 12.", "12"),
        ("The answer is Tim: 4, Sue: 9.", "Tim: 4, Sue: 9"),
        ("The answer must be negative: -5.", "-5"),
        ("The answer is a<b and c>d.", "a<b and c>d"),
        ('The answer is <span class="x">9</span>.', "9"),
    ],
)
def test_what_a_text_states(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(D)", "D"), ("**A**", "A"), ("C.", "C"), ("Answer: None of these (D)", "D"), ("\\boxed{A}\\boxed{B}", None),
        ("I think", None), ("E", None), ("A B", None), ("a", "A"),
    ],
)  # fmt: skip
def test_a_letter_alone(text: str, letter: str | None) -> None:
    assert stated_letter(text, 4) == letter


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("So the rest is 4 when divided by 9.", "4"),
        ("The chance is 2 in 5.", "2/5"),
        ("Hence the odds are 5 to 2.", "5:2"),
        ("It is −7 °C.", "-7 °C"),
        ("So there is no real solution.", "no real solution"),
        ("Therefore the claim is true.", "true"),
        ("When x = 3, y = 10.", "10"),
        ("So we get 8 and 250.", "250, 8"),
    ],
)
def test_the_result_at_the_end_of_a_text(text: str, result: str) -> None:
    assert compare_answers(final_result(text), result) == "equal"


def test_options_that_name_others_keep_their_order() -> None:
    named = ["p", "q", "Both A and B", "Neither A nor B"]
    assert ordered("1", named) == named
    for row_id in "123456789":
        shown = ordered(row_id, ["p", "None of the above", "q", "r"])
        assert shown[-1] == "None of the above"
        assert sorted(shown[:3]) == ["p", "q", "r"]
    assert len({tuple(ordered(row_id, ["p", "q", "r"])) for row_id in "123456789"}) > 2
