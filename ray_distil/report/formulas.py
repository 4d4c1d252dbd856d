"""Formulas in texts as MathML, which browsers draw without a program or a network.

$...$ and \\(...\\), $$...$$ and \\[...\\], and \\boxed{...} outside of these
"""

import re
from collections.abc import Iterator
from html import escape, unescape
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

MOST_CHARACTERS = 2000  # of a formula; a longer one stays as it is written
BOXED = "\\boxed{"
# A dollar sign is one of a formula as in pandoc: no blank on its inside, and no digit behind the second one.
_FORMULA = re.compile(
    r"\$\$(?P<display>.{1,2000}?)\$\$|\\\[(?P<bracket>.{1,2000}?)\\\]|\\\((?P<parenthesis>.{1,2000}?)\\\)"
    r"|(?<![\\$\w])\$(?P<dollar>[^\s$](?:[^$\n]{0,2000}?[^\s$\\])?)\$(?![\d$])|(?P<boxed>\\boxed\{)",
    re.DOTALL,
)
# Of MathML, what draws; an element may have a link or an event's program in its attributes.
_ATTRIBUTES = {
    "accent", "columnalign", "columnlines", "columnspacing", "display", "displaystyle", "fence", "form", "frame", "linethickness",
    "lspace", "mathvariant", "maxsize", "minsize", "notation", "rowlines", "rowspacing", "rspace", "scriptlevel", "stretchy",
}  # fmt: skip


def rendered(text: str) -> Markup:
    """The text as HTML: formulas as MathML with their source in `title`, all else escaped.

    What cannot be read as a formula stays as it is written.
    """
    return Markup("").join(_parts(text))


def _parts(text: str) -> Iterator[Markup]:
    place = 0
    while (found := _FORMULA.search(text, place)) is not None:
        end, source = found.end(), found[0]
        inner = next((found[name] for name in ("display", "bracket", "parenthesis", "dollar") if found[name]), None)
        if found["boxed"]:
            end = _end_of_braces(text, found.end())
            source = inner = text[found.start() : end]
        yield Markup(escape(text[place : found.start()], quote=False))
        is_block = bool(found["display"] or found["bracket"])
        yield _math(inner or "", source, is_block)
        place = end
    yield Markup(escape(text[place:], quote=False))


def _end_of_braces(text: str, start: int) -> int:
    """Behind the brace that closes one before `start`; the end of the text where none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)


def _math(formula: str, source: str, is_block: bool) -> Markup:
    from latex2mathml.converter import convert_to_element

    written = Markup(escape(source, quote=False))
    if len(formula) > MOST_CHARACTERS or formula.count("{") != formula.count("}"):
        return written
    try:
        made = convert_to_element(formula, display="block" if is_block else "inline")
    except Exception:  # noqa: BLE001  of many types: the text is a model's
        return written
    _clean(made)
    made.set("title", source)
    return Markup(tostring(made, encoding="unicode", short_empty_elements=False))


def _clean(element: Element) -> None:
    """No other attributes; signs as themselves, where the converter writes them as entities: they are escaped once."""
    for each in element.iter():
        for name in set(each.keys()) - _ATTRIBUTES:
            del each.attrib[name]
        each.text = unescape(each.text) if each.text else each.text
        each.tail = unescape(each.tail) if each.tail else each.tail
