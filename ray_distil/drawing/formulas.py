"""Formulas in texts as MathML, which browsers draw without a script or a network.

Formulas are $...$ and \\(...\\), $$...$$ and \\[...\\], and a \\boxed{...} outside of these.
"""

import re
from collections.abc import Iterator
from html import escape, unescape
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

MOST_CHARACTERS = 2000  # in a formula; a longer formula stays as text
BOXED = "\\boxed{"
# Dollar signs mark a formula by pandoc's rule: no blank on their inner sides, no digit behind the second sign.
_FORMULA = re.compile(
    r"\$\$(?P<display>.{1,2000}?)\$\$|\\\[(?P<bracket>.{1,2000}?)\\\]|\\\((?P<parenthesis>.{1,2000}?)\\\)"
    r"|(?<![\\$\w])\$(?P<dollar>[^\s$](?:[^$\n]{0,2000}?[^\s$\\])?)\$(?![\d$])|(?P<boxed>\\boxed\{)",
    re.DOTALL,
)
# Attributes of MathML that only draw. All others are removed: they may hold a link or a script.
_ATTRIBUTES = {
    "accent", "columnalign", "columnlines", "columnspacing", "display", "displaystyle", "fence", "form", "frame", "linethickness",
    "lspace", "mathvariant", "maxsize", "minsize", "notation", "rowlines", "rowspacing", "rspace", "scriptlevel", "stretchy",
}  # fmt: skip


def rendered(text: str) -> Markup:
    """The text as HTML: formulas as MathML with their source in `title`, all else escaped.

    Text that cannot be read as a formula stays as it is.
    """
    return Markup("").join(_parts(text))


def _parts(text: str) -> Iterator[Markup]:
    place = 0
    while (match := _FORMULA.search(text, place)) is not None:
        end, source = match.end(), match[0]
        inner = next((match[name] for name in ("display", "bracket", "parenthesis", "dollar") if match[name]), None)
        if match["boxed"]:
            end = _end_of_braces(text, match.end())
            source = inner = text[match.start() : end]
        yield Markup(escape(text[place : match.start()], quote=False))
        is_block = bool(match["display"] or match["bracket"])
        yield _math(inner or "", source, is_block)
        place = end
    yield Markup(escape(text[place:], quote=False))


def _end_of_braces(text: str, start: int) -> int:
    """The place behind the brace that closes the one before `start`; the end of the text if there is none."""
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
        element = convert_to_element(formula, display="block" if is_block else "inline")
    except Exception:  # noqa: BLE001  a model's text may raise errors of many types
        return written
    _clean(element)
    element.set("title", source)
    return Markup(tostring(element, encoding="unicode", short_empty_elements=False))


def _clean(element: Element) -> None:
    """Remove all attributes but _ATTRIBUTES. Replace entities by their signs: `tostring` escapes them once."""
    for each in element.iter():
        for name in set(each.keys()) - _ATTRIBUTES:
            del each.attrib[name]
        each.text = unescape(each.text) if each.text else each.text
        each.tail = unescape(each.tail) if each.tail else each.tail
