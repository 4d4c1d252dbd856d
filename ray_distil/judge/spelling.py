r"""Writes an answer in one spelling, so that different spellings of the same answer become the same text.

$\dfrac12$, \tfrac{1}{2}       \frac{1}{2}
1,200 and 1\,300              1200 and 1300
−3², 90°                     -3^{2}, 90 degrees
"""

import re
import unicodedata
from typing import Any

from ray_distil.judge.quantities import SUPERSCRIPTS
from ray_distil.store.schemas import without_unseen

_SIGNS = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "⁄": "/", "∞": r"\infty ", "π": r"\pi ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "°": r"^\circ ", "√": r"\sqrt", "，": ",",
    "（": "(", "）": ")", "。": ".", "’": "'", "‑": "-", "‐": "-", "、": ",", "≈": r"\approx ",
}  # fmt: skip
_SQUARES = {"㎟": "mm^2", "㎠": "cm^2", "㎡": "m^2", "㎢": "km^2", "㎣": "mm^3", "㎤": "cm^3", "㎥": "m^3"}
_TRIGONOMETRIC = "sin|cos|tan|cot|sec|csc"
_REWRITES: list[tuple[re.Pattern[str], Any]] = [  # the replacement: a text, or a function of the match
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),  # 2**10; other pairs of stars are bold
        (r"\*\*|__|`", ""),
        # 1.234,50 € and € 47,50: a comma before two digits of euros
        (r"(?<![\d.,])(\d{1,3}(?:\.\d{3})*|\d+),(\d{2})(?= ?(?:€|EUR(?![A-Za-z])|euros?(?![A-Za-z])))", lambda m: m[1].replace(".", "") + "." + m[2]),
        (r"(?:€|EUR) ?(\d{1,3}(?:\.\d{3})*|\d+),(\d{2})(?![\d.,])", lambda m: m[1].replace(".", "") + "." + m[2] + " €"),
        (r"\\ce ?\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
        (r"^([(\[]?)(-?\d+(?:\.\d+)?(?: -?\d+(?:\.\d+)?)* -\d+(?:\.\d+)?(?: -?\d+(?:\.\d+)?)*)([)\]]?)$", lambda m: m[1] + m[2].replace(" ", "; ") + m[3]),
        (r"(?<=\d),\s+(?=\d)", "; "),  # a blank behind the comma: two numbers, whatever their digits
        (r"\\(?:displaystyle|left|right|bigl?|bigr?|limits|,(?!\d{3})|;|:|quad|qquad)(?![A-Za-z])", " "),
        (r"\\!", ""),
        (r"(?<=\d)(?:\{,\}|\\,|[\u2009\u202f\u00a0],?|,\\ )(?=\d{3}(?!\d))", ","),
        (r"(?<!\\)\\[, ]|~|\u00a0|\u2009|\u202f", " "),
        (r"(?<![\d.,(\[])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d|\.\d*,)|(?<=[(\[])[1-9]\d{0,2}(?:,\d{3})+(?=,\s|;)", lambda m: m[0].replace(",", "")),
        (r"(?<![\d.,])(\d{1,3})([ .])(\d{3})\2(\d{3})(?![\d.])", r"\1\3\4"),  # 1.000.000
        (r"\s*(\\\\|&)\s*", r"\1"),
        (r"\\(?:[dtcs]|nice)frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac ?(\d)(\d)", r"\\frac{\1}{\2}"),
        (r"\\(?:text|textbf|textit|textrm|texttt|mbox|mathbf|mathrm|mathit|operatorname|rm|bf)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(?:mathrm|mathbf|mathit|rm|bf)(?![A-Za-z]) ?", " "),
        (r"\\([%$#&_])", r"\1"),
        (rf"\\?({_TRIGONOMETRIC})\s*\(?\s*(\d+(?:\.\d+)?)\s*\^\{{? ?\\circ ?\}}?\)?", r"\\\1(\\frac{\2\\pi}{180})"),
        (r"(?:\^\{? ?\\circ(?![A-Za-z]) ?\}?|degrees?) ?C(?:elsius)?(?![A-Za-z])", " celsius"),
        (r"(?:\^\{? ?\\circ(?![A-Za-z]) ?\}?|degrees?) ?F(?:ahrenheit)?(?![A-Za-z])", " fahrenheit"),
        (r"\^\{? ?\\(?:circ|degree)(?![A-Za-z]) ?\}?|\\degree(?![A-Za-z])", " degrees "),
        (r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln)(?![A-Za-z])", r"\\\1"),
        (r"\^ ?(-\d+|-[A-Za-z]|\d{2,})(?![\d}])", r"^{\1}"),
        (r"\\(?:bar|dot)(?=\{\d)", r"\\overline"),
        (r"\\?sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt ?(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])exp ?\(([^()]*)\)", r"e^{\1}"),
        (r"(?<![A-Za-z\\])(pi|infinity)(?![A-Za-z])", lambda m: {"pi": r"\pi ", "infinity": r"\infty "}[m[1]]),
        (r"\\(?:varnothing|O)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
        (r"[(\[]\s*\\begin\{array\}\s*\{[lcr| ]*\}(.*?)\\end\{array\}\s*[)\]]", r"\\begin{pmatrix}\1\\end{pmatrix}"),
        (r"(\\(?:begin|end))\{(?:[bB]|small)?matrix\}", r"\1{pmatrix}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"^\\\{ ?([a-z]) ?(?:\\in ?\\mathbb ?\{?R\}? ?)?(?:\\(?:mid|colon|vert)(?![A-Za-z])|[|:]) ?(.*[<>\\].*?) ?\\\}$", r"\2"),
        (r"^(?:(?:all )?real numbers?|\\mathbb ?\{?R\}?|\\R|ℝ)$", r"(-\\infty ,\\infty )"),
        (r"^(\d+) to (\d+)$", r"\1:\2"),
        (r"^(\d+) (?:out of|in) (\d+)$", r"\1/\2"),
        (r"\\approx(?:eq)?(?![A-Za-z])", "="),
        (r"^\s*=", ""),
        (r"\bper ?cent(?:age points?)?\b|\bpercentage points?\b", "percent"),
        (r"^—(?=\d)", "-"),
        (r"(?<=\d)'(?=\d{3}(?!\d))", ""),
        (r"\\(leq|leqslant)(?![A-Za-z])", r"\\le"),
        (r"\\(geq|geqslant)(?![A-Za-z])", r"\\ge"),
        (r"(?<![A-Za-z\\])(?:>=)", r"\\ge "),
        (r"(?<![A-Za-z\\])(?:<=)", r"\\le "),
        (r"\\[()\[\]]", " "),
        (r"(?<=\d) \((?:an? )?[a-z]{3,}(?:[ -][a-z]{2,})*\)\s*$", ""),  # 12 (twelve); a bracket without a blank is a factor
    ]
]  # fmt: skip
_PARTING = re.compile(r"\d \d|[A-Za-z]{2} ")  # blanks that must stay: 1 1/2, sin x, 1 \\frac{1}{2}
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln", "exp", "max", "min", "gcd",
    "lcm", "mod", "det", "sqrt", "deg", "lim", "sinh", "cosh", "tanh",
}  # fmt: skip


_GENOTYPE = re.compile(r"(?:([A-Za-z])\1){1,4}", re.IGNORECASE)
# Words of two and three letters, which + and - do not make products of letters.
_SHORT_WORDS = {
    "a", "all", "am", "an", "and", "any", "are", "as", "at", "be", "big", "but", "by", "can", "co", "day", "did",
    "do", "far", "few", "for", "get", "had", "has", "her", "he", "him", "his", "how", "if", "in", "is", "it", "its",
    "last", "low", "man", "may", "me", "men", "mid", "my", "new", "no", "non", "nor", "not", "now", "odd", "of",
    "off", "old", "on", "one", "or", "our", "out", "own", "per", "pre", "re", "red", "saw", "say", "see", "set",
    "she", "six", "so", "ten", "the", "too", "top", "to", "two", "up", "us", "use", "was", "way", "we", "who", "why",
    "yes", "you", "ray", "bar", "tip", "age", "end", "mom", "dad", "son",
}  # fmt: skip


# Words of up to four letters that are written in capitals too.
_FREE_WORDS = {
    "yes", "no", "true", "none", "both", "odd", "even", "zero", "one", "two", "four", "five", "six", "nine", "ten",
    "up", "down", "left", "east", "west", "red", "blue", "pink", "gold", "more", "less", "ph", "usa", "uk", "ok",
    "mon", "tue", "wed", "thu", "fri", "sat", "sun", "june", "july", "may", "all", "any", "cat", "dog",
}  # fmt: skip


def cleaned(text: str) -> str:
    r"""An answer in one spelling: no mathematics marks, no bold, \frac for \dfrac, ^ for **, ASCII for other digits."""
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)  # 1½ is not 11/2
    text = without_unseen(text)
    for sign, spelling in _SQUARES.items():
        text = text.replace(sign, f" {spelling}")
    text = re.sub(r"[⁰¹²³⁴-⁹⁺⁻]*[⁰¹²³⁴-⁹]", lambda match: "^{" + match[0].translate(SUPERSCRIPTS) + "}", text)
    text = unicodedata.normalize("NFKC", text)
    for sign, spelling in _SIGNS.items():
        text = text.replace(sign, spelling)
    text = re.sub(r"\\begin\{(?:equation|align|gather)\*?\}|\\end\{(?:equation|align|gather)\*?\}", " ", text)
    text = _without_dollars(text.strip())
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    text = re.sub(r" ?([-+*/=^_(){}\[\],;:<>|%!]) ?", _keep_blank, text)
    return text.strip().rstrip(".,;: ").strip()


def _without_dollars(text: str) -> str:
    """The text without LaTeX's $ signs. A single $ before a number is a currency, and stays."""
    text = text.removeprefix("$$").removesuffix("$$")
    if text.count("$") < 2 and re.match(r"\s*-?\s*\$\s*[\d.]", text):
        return text
    return re.sub(r"(?<!\\)\$", " ", text)


def _keep_blank(match: "re.Match[str]") -> str:
    """A sign without the blanks around it. A blank stays before an opening and behind a closing bracket (| counts as
    both), where it may separate two words or numbers.
    """
    is_before, sign, is_behind = match[0].startswith(" "), match[1], match[0].endswith(" ")
    if sign in "([{|" and is_before:
        return f" {sign}"
    if sign in ")]}%!|" and is_behind:
        return f"{sign} "
    return sign


def same_text(first: str, second: str) -> bool:
    """Whether two texts are equal. The case of letters matters only in formulas, where M and m are two variables."""
    if _tight(first) == _tight(second):
        return True
    if (is_formula(first) and is_formula(second)) or first.casefold() != second.casefold():
        return False
    return not (_is_symbol(first) or _is_symbol(second))


def _is_symbol(text: str) -> bool:
    """Whether the case of each letter counts: genotypes as AaBb, words of up to four letters with a capital behind the
    first letter (CO and Co), and words with digits (CoCl2).
    """
    if text.lower() in _FREE_WORDS or not re.fullmatch(r"[A-Za-z\d]+", text):
        return False
    has_capitals = len(text) <= 4 and text[1:] != text[1:].lower()
    return has_capitals or bool(_GENOTYPE.fullmatch(text) or (text[0].isalpha() and re.search(r"\d", text)))


def _tight(text: str) -> str:
    """A formula without its blanks, unless a blank separates two numbers or two words. Any other text unchanged."""
    bare = re.sub(r"\\[A-Za-z]+ ?", r"\\", text)  # the blank behind a command separates nothing
    parts = _PARTING.search(bare) or re.search(r"\d (?=\\frac)", text)
    return text if not is_formula(text) or parts else text.replace(" ", "")


def is_formula(text: str) -> bool:
    """Whether a text is a formula. No run of letters, functions and commands apart, may be longer than 3; a run of 2 or
    3 letters needs a digit, operator or command beside it, and is no word.
    """
    bare = re.sub(r"\\[A-Za-z]+", " ", text)
    runs = [run for run in re.findall(r"[A-Za-z]+", bare) if run not in _FUNCTIONS]
    longest = max(map(len, runs), default=0)
    if longest > 3:
        return False
    if longest > 1:
        if re.search(r"[\d^_=/*]|\\[A-Za-z]", text):
            return True
        is_sum = re.search(r"[A-Za-z)] ?[+-] ?[-A-Za-z(]|[a-z]\(|\)[a-z]", text)
        return is_sum is not None and _SHORT_WORDS.isdisjoint(run.lower() for run in runs) and " " not in text
    return bool(re.search(r"[\d^_=/*+<>|!-]|\\[A-Za-z]", text)) or longest == 1
