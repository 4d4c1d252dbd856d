"""Whether two answers mean the same: tables of pairs, the wrong acceptances of math-verify among them, and its limit."""

import os
import signal
import threading
import time

import psutil
import pytest

from ray_distil.agreement import answers_agree, compare_answers
from ray_distil.math_process import MathProcess

SAME = [
    ("1 1/2", "3/2"),
    ("1 4/5", "9/5"),
    (r"1\frac{4}{5}", "1.8"),
    ("2**10", "1024"),
    ("x**2", "x^2"),
    ("1e3", "1000"),
    ("1.2e3", "1200"),
    ("pi/2", r"\frac{\pi}{2}"),
    ("exp(16)-1", "e^{16}-1"),
    ("-1 + exp(16)", "e^{16}-1"),
    ("７３", "73"),
    (r"1\,000", "1000"),
    ("15 cm^2", "15"),
    ("18.90 dollars", "18.90"),
    ("USD 5", "5"),
    ("$5", "5"),
    (r"\$5", "5"),
    (r"\$32,\!348", "32348"),
    (r"-2 \le x \le 7", r"x \in [-2,7]"),
    (r"\sqrt{1/n}", r"1/\sqrt n"),
    ("B) 42", "B"),
    (r"\textbf{(B)}\ 42", "B"),
    ("C. 42", "C"),
    ("(C)", "C"),
    (r"\text{C}", "C"),
    (r"\text{(C)}", "C"),
    ("52_8", "52_{8}"),
    ("4210_{5}", "4210_5"),
    (r"4\sqrt(2)", r"4\sqrt{2}"),
    ("10 minutes", "10"),
    ("5 km", "5 kilometers"),
    ("7 m^2", "7"),
    ("864", r"864 \mbox{ inches}^2"),
    ("864 in^2", r"864 \mbox{ inches}^2"),
    ("2024-01-02", "2024-01-02"),
    ("016", "16"),
    ("025", "25"),
    (r"25\%", "0.25"),
    (r"25\%", "25"),
    ("25%", r"25\%"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    ("1,-2", "-2,1"),
    ("x=3 or x=4", "3, 4"),
    ("3 and 4", "3,4"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    (r"\{1,2\}", "1,2"),
    (r"\left(\frac{1}{2},3\right)", "(0.5, 3)"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("x=5", "5"),
    ("y = 2x + 1", "2x+1"),
    ("f(x)=x^2", "x^2"),
    ("10 * 5 = 50 pens", "50"),
    ("3 * 3 = 9", "9"),
    ("1,200 dollars", "1200"),
    (r"\$1,200", "1200"),
    ("12 apples", "12"),
    ("12 red apples", "12 apples"),
    ("72 clips", "Natalia sold 48/2 = 24.\n#### 72"),
    ("72", "Natalia sold 48/2 = 24.\n#### 72"),
    (r"\frac{3}{4}\pi", r"\frac{3\pi}{4}"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"90^\circ", "90"),
    ("90 degrees", r"90^\circ"),
    (r"\dfrac{1}{2}", r"\frac12"),
    (r"-\frac{1}{2}", "-0.5"),
    ("−5", "-5"),
    ("½", "0.5"),
    ("1½", "1.5"),
    ("x²", "x^2"),
    ("√2", r"\sqrt{2}"),
    ("2√3", r"2\sqrt{3}"),
    (r"\log_2 8", "3"),
    (r"\binom{5}{2}", "10"),
    ("5!", "120"),
    ("yes", "Yes"),
    (r"\text{even}", "even"),
    ("2xy", "2yx"),
    ("x+y", "y+x"),
    ("0.1", "0.10"),
    ("1/3", "2/6"),
    ("1000000", "1e6"),
    (r"6.02 \times 10^{23}", "6.02e23"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("12.", "12"),
    ("**12**", "12"),
    ("`12`", "12"),
    ("12,", "12"),
    ("(12)", "12"),
    ("{12}", "12"),
    (r"\boxed{12}", "12"),
    ("The answer is 5", "5"),
    ("x > 3", r"(3,\infty)"),
    ("60 miles per hour", "60 mph"),
    ("5 m/s", r"5 \text{ m/s}"),
    (r"3\pi \text{ cm}", r"3\pi"),
    (r"2\sqrt{3} cm", r"2\sqrt{3}"),
    ("12 o'clock", "12"),
    ("Paris, London", "Paris,London"),
    ("1000 km", "1,000 km"),
    ("100, 200, 300", "100,200,300"),
    ("a", "A"),
    (r"\text{Alice}", "Alice"),
    ("Alice and Bob", "Alice, Bob"),
    (r"\frac{x}{2}", "0.5x"),
    ("2(x+1)", "2x+2"),
    (r"\sin^2 x + \cos^2 x", "1"),
    (r"\frac{1}{1}", "1"),
    ("2^{10}", "1024"),
    (r"0.\overline{3}", "1/3"),
    ("+5", "5"),
    ("5.0", "5"),
    (r"5 \times 10^{-3}", "0.005"),
    ("12 (twelve)", "12"),
    ("y=2,x=1", "x=1,y=2"),
    ("m", "M"),
    ("k(k+1)/2", r"\frac{k^2+k}{2}"),
    (r"$\frac{1}{2}$", "1/2"),
    ("$x = 5$", "5"),
    (r"\(5\)", "5"),
    (r"\[5\]", "5"),
    (r"\$10", "10 dollars"),
    ("3 hours 20 minutes", "3 hours 20 minutes"),
    ("3 1/2", "3.5"),
    ("1,000,000", "1000000"),
    ("1{,}000", "1000"),
    ("Paris", "paris"),
    ("1, 2", "1,2"),
    ("a+b", "b+a"),
    ("Monday", "monday"),
    (r"\textbf{(C) } 12", "C"),
    ("C) 12", "C"),
    ("**73**", "73"),
    ("5 dollars", "5"),
    ("1e-05", "0.00001"),
    ("1.2x10^3", "1200"),
    (r"\varnothing", r"\emptyset"),
    (r"x \geq 2", r"[2,\infty)"),
    (r"e^{i\pi}", "-1"),
    ("<answer>1</answer>", "1"),
    ("答案：5", "5"),
]
DIFFERENT = [
    ("(1,23)", "(12,3)"),
    ("1, 23", "12, 3"),
    ("12", "1,2"),
    ("12 3", "123"),
    ("0.5, 1.5", "0.51.5"),
    ("1, 2, 3", "123"),
    ("(1,2)", "1,2"),
    ("[1,2]", "(1,2)"),
    ("A triangle", "A"),
    ("D", "C"),
    ("3.14159265", r"\pi"),
    ("0.333333", "1/3"),
    ("0.3333", "1/3"),
    ("52", "52_8"),
    ("101", "101_2"),
    ("52_8", "52_9"),
    (r"1+\frac1{\mathrm e}", r"1-\frac1{\mathrm e}"),
    ("1-1/e", "1+1/e"),
    ("10 minutes", "10 hours"),
    ("5 km", "5 m"),
    ("7 m^2", "2"),
    ("864 inches", r"864 \mbox{ inches}^2"),
    ("Alice", "Celia"),
    ("5:30", "30"),
    ("0.25%", "0.25"),
    ("0.25", "25"),
    ("(2,1)", "(1,2)"),
    ("[-2,7]", "[-2,7)"),
    ("x=5", "y=5"),
    ("12 apples", "12 pears"),
    ("73", "Natalia sold 48/2 = 24.\n#### 72"),
    ("(x+1)^2", "x^2+2x+2"),
    (r"\sqrt{x^2}", "x"),
    ("|x|", "x"),
    ("i", "-i"),
    ("a_1", "a_2"),
    ("n!", "(n+1)!"),
    ("True", "False"),
    ("yes", "no"),
    (r"\text{even}", r"\text{odd}"),
    ("Monday", "Tuesday"),
    ("no", "on"),
    ("ab", "ba"),
    ("xy", "yx"),
    (r"\frac{1}{3}", "0.333333333"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    ("", ""),
    ("$$", "$"),
    (r"\infty", r"-\infty"),
    ("x<3", r"(3,\infty)"),
    ("60 miles per hour", "60 miles"),
    ("10:30", "10:30 am"),
    ("3,14", "3.14"),
    ("1/0", "1"),
    ("five", "5"),
    ("2^{10}", "1025"),
    (r"0.\overline{3}", "0.3"),
    ("approximately 5", "5"),
    ("x=1,y=2", "x=2,y=1"),
    ("n", "m"),
    ("€10", "10 dollars"),
    ("10 cents", "10 dollars"),
    ("3 hours 20 minutes", "3 hours"),
    ("3 hours 20 minutes", "3 hours 30 minutes"),
    ("1,2", "12"),
    ("1,2,3", "12,3"),
    ("(1, 2)", "(12)"),
    ("10,20", "1020"),
    ("3,14", "314"),
    ("1 1/2", "11/2"),
    ("listen", "silent"),
    ("stop", "post"),
    ("evil", "live"),
    ("east", "seat"),
    ("cat", "act"),
    ("BDAC", "DCBA"),
    ("GCTA", "ATCG"),
    ("2024-01-02", "2024-02-01"),
    ("2024-01-02", "2021"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("0.0000001", "0.0000002"),
    (r"\frac{1}{3 \cdot 2^{2006}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}"),
    (r"4\sqrt(2)", "4"),
    (r"10 \text{ m}", r"10 \text{ cm}"),
    ("$", "$"),
]
ENDLESS = [r"9^{9^{9^9}}", r"10^{10^{10}}", r"(10^8)!", r"\binom{10^9}{5\cdot10^8}"]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_the_same(answer: str, reference: str) -> None:
    assert compare_answers(answer, reference) == "equal"


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_not_the_same(answer: str, reference: str) -> None:
    assert compare_answers(answer, reference) in ("different", "unreadable")


@pytest.mark.parametrize("answer", [None, "", "$"])
def test_no_answer_agrees_with_nothing(answer: str | None) -> None:
    assert not answers_agree(answer, "3")
    assert not answers_agree("3", answer)
    assert not answers_agree(answer, answer)


def test_a_long_text_is_compared_as_text() -> None:
    long = "x + " * 5000
    started = time.monotonic()
    assert answers_agree(long, f" {long}")
    assert not answers_agree(long, f"{long}y")
    assert time.monotonic() - started < 5


def test_the_limit_holds_in_a_thread_and_the_next_pair_is_read() -> None:
    process, verdicts = MathProcess(seconds=1), []
    thread = threading.Thread(
        target=lambda: verdicts.extend(process.compare(text, "3") for text in [*ENDLESS, "1 + 2"])
    )
    thread.start()
    thread.join(120)
    assert verdicts[0] == "timeout"
    assert set(verdicts[1:-1]) <= {"timeout", "different"}
    assert verdicts[-1] == "equal"


def test_a_child_that_is_killed_is_started_again() -> None:
    process = MathProcess()
    assert process.compare("1 + 2", "3") == "equal"
    (child,) = (p for p in psutil.Process().children() if p.pid == process.pid)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert process.compare("2 + 2", "4") == "equal"
