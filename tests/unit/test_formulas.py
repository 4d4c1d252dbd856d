"""Formulas of texts as MathML; what is none, or cannot be read, stays as it is written, and nothing comes through unescaped."""

import re
import time

import pytest

from ray_distil.drawing.formulas import rendered


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("so $\\frac{3}{4}$ is it", "<mfrac>"),
        ("so \\(x^2\\) is it", "<msup>"),
        ("so\n\\[\n\\sqrt{2}\n\\]\nis it", 'display="block"'),
        ("$$1+1$$", 'display="block"'),
        ("The final answer is \\boxed{\\frac{1}{2}}.", '<menclose notation="box">'),
        ("\\(a < b\\)", "<mo>&lt;</mo>"),
        ("$x$", "<mi>x</mi>"),
    ],
)
def test_a_formula_is_drawn_and_has_its_source(text: str, formula: str) -> None:
    made = rendered(text)
    assert made.count("<math ") == 1
    assert formula in made
    assert "title=" in made


@pytest.mark.parametrize(
    "text",
    [
        "from $5 to $6 and $7",
        "a $ b $ c",
        "\\$5 and \\$6",
        "\\boxed{5",
        "$x^{2$",
        "no formula, <b>not</b> & \"none\"",
        "US$5 or A$6",
    ],
)  # fmt: skip
def test_what_is_no_formula_stays_as_it_is_written(text: str) -> None:
    made = rendered(text)
    assert "<math" not in made
    assert made.unescape() == text


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{\\text{<script>alert(1)</script>}}",
        "$\\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
        "<script>$x$</script>",
        '$x" onmouseover="alert(1)$',
        "\\(\\href{javascript:alert(1)}{x}\\)",
        "$\\class{x}{y}<img src=x onerror=alert(1)>$",
    ],
)
def test_nothing_comes_through_unescaped(text: str) -> None:
    made = str(rendered(text))
    assert not re.search(r"<(script|img|a\b)", made)
    assert 'href="javascript' not in made
    assert not re.search(r'<[^>"]*(?:"[^"]*"[^>"]*)*\sonmouseover=', made)


def test_long_texts_take_linear_time() -> None:
    for piece in ("$", "\\(", "\\[", "\\boxed{", "$x", "$$"):
        started = time.monotonic()
        rendered(piece * 4_000)
        assert time.monotonic() - started < 20, piece
