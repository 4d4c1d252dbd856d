r"""The result of a text that states no answer: its last whole mathematical expression, from the last line that has one.

Thus the share is $\frac{3}{4}$.        \frac{3}{4}
Step 2: 5 * 1,000 = 5,000 pens.         5,000
Thus $x = 3$ or $x = 4$.                3, 4
That is 7 m^2 (from step 3).            7 m^2
So the choice is (B).                   B
"""

import re

from ray_distil.judge.answers import extract_answer
from ray_distil.judge.quantities import MULTIPLIERS, SUPERSCRIPTS, UNITS, parts_of

LONGEST_LINE = 2000  # at most so many characters at the end of a line are read
_REMARK = re.compile(r"\s\([^()]*[A-Za-z]{2,}\s[^()]*\)\s*[.!]?$")
_SEGMENT = re.compile(r"(?<!\\)\$\$?(?=[^\s$])([^$]*[^\s$\\])\$\$?(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_TOKEN = re.compile(
    r"""
      (?P<segment>[\ue000-\uf8ff])
    | (?P<number>\d+(?::\d+)+|\d+(?:\s:\s\d+)+|\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)
    | (?P<command>\\[A-Za-z]+(?:\s?\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*|\\[{}])
    | (?P<word>[A-Za-z]+(?:['’-][A-Za-z]+)*)
    | (?P<sign>[-+*/^_=<>≤≥≠×÷·±≈%!°√π∞|()\[\]{}½¼¾])
    | (?P<comma>[,;](?=\s|\\|\d|[-+({\[A-Za-z]))
    | (?P<other>\S)
    """,
    re.VERBOSE,
)
_WORDS_OF_MATH = {"sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi", "mod", "gcd", "lcm", "min", "max"}
_ASSIGNMENT = re.compile(r"\s*(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?\s*=\s*([^=]+)")
_TIMES = "(?:hours?|minutes?|seconds?|days?|weeks?|months?|years?|foot|feet|inch(?:es)?|pounds?|ounces?)"
_TIMES_OF = rf"(?:{'|'.join(MULTIPLIERS)})(?!\w)"  # 5 million
_UNIT = re.compile(
    rf"(?:{_TIMES_OF}\s)?(?:{'|'.join(re.escape(u) for u in sorted(UNITS, key=len, reverse=True))})(?:\^\{{?\d\}}?|/\w+)*(?!\w)|{_TIMES_OF}"
)
# A clause behind the result: 3 when divided by 7.
_BEHIND_RESULT = re.compile(
    r"(?<=[\d)}$%])\s(?:when|if|because|since|where|after|as\s(?:required|needed|desired|we|the)|for\sall|for\sany)\s[^=$]*$"
)
_BEFORE_RESULT = re.compile(r"^(?:When|If|For|Since|Because|As|With|At)\s[^,]*,\s(?=.*\d)")  # when x = 3, y = 10
_CALCULATION = re.compile(
    r"[\w)}]\s?(?:[-+*/×·÷^]|\\(?:times|cdot|div|pm)(?![A-Za-z]))\s?[\w(\\{][^=\n]{0,200}=|\d\s*\}?\s*=\s*-?[\d\\]"
)
_EQUALS = re.compile(r"(?<![<>!\\])=")
_NEARLY = re.compile(r"\\approx(?:eq)?(?![A-Za-z])|≈")
_NAME = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\{?\w+\}?)?(?:\s?\([A-Za-z\d]\))?")
# Results of several words: a choice, a time in two units (2 hours 5 minutes), a ratio, a number in a base.
_WHOLE = re.compile(
    rf"""
      ^(?:(?:so|thus|hence|therefore),?\s)?(?:it(?:'s|\sis)\s|(?:the\s)?(?:choice|option)\s)?\(?([B-HJ])\)?(?:\sis\s(?:correct|right))?\.?$
    | \b(\d+\s{_TIMES}\s(?:and\s)?\d+\s{_TIMES}(?:\s(?:and\s)?\d+\s{_TIMES})?)\.?$
    | \b(?:ratio|odds)\b.*?\s(\d+\sto\s\d+)\.?$
    | \b(?:probability|chance|likelihood)\b.*?\s(\d+\s(?:in|out\sof)\s\d+)\.?$
    | \b(no\s(?:real\s|integer\s|valid\s)?solutions?|infinitely\smany\ssolutions|does\snot\sexist)\.?$
    | \bis\s(true|false|possible|impossible|undefined)\.?$
    | \b([0-9A-F]+\sin\sbase\s\w+)\.?$
    """,
    re.IGNORECASE | re.VERBOSE,
)


def final_result(text: str) -> str | None:
    """The answer that a text states; else the last expression in the last line that has one; None without both."""
    stated = extract_answer(text)
    if stated is not None:
        return stated
    for line in reversed(text.splitlines()):
        if line.strip() and (result := last_expression(line[-LONGEST_LINE:])):
            return result
    return None


def has_steps(text: str) -> bool:
    """Whether a text says more than its result: a calculation, or a sentence that leads to it.

    "The answer is 13." and "So Ann has 13 pens." have none; "5 + 8 = 13" has one.
    """
    text = plain_signs(text).strip()
    sentences = [s for s in re.split(r"\n+|(?<=[.!?])\s+(?=[A-Z$\\])|(?<=[。！？])", text) if re.search(r"\w", s)]
    for position, sentence in enumerate(sentences, 1):
        if _CALCULATION.search(sentence):
            return True
        chinese = len(re.findall(r"[\u3040-\u9fff]", sentence))  # two characters a word, and no blanks between
        words = len(re.findall(r"[^\W\d_\u3040-\u9fff]{2,}", sentence)) + chinese / 2
        if words > (8 if position == len(sentences) else 3) and extract_answer(sentence) is None:
            return True
    return False


def last_expression(line: str) -> str | None:
    """The last whole number or formula of a line, with its unit, if that is known; None for a line without any."""
    line = re.sub(r"(?<=[\w)])\*\*(?=[\w(])", "^", plain_signs(line).strip())
    line = re.sub(r"\*\*|`|^\s*(?:[-*•]|#+)\s+", "", line)
    if not re.search(r"matrix|cases|array", line):
        line = re.sub(r"\\(?:begin|end)\{[a-z]+\*?\}|&", " ", line)
    line = re.sub(r"(?<=[A-Za-z])\$\^\{?(\d)\}?\$", r"^\1", line)  # cm$^2$
    line = re.sub(r"(?<=[\d}])(?:\\[,;])+(?=\\(?:text|math))", " ", line)  # 5\,\mathrm{m/s}
    line = re.sub(r"(?<=\d)\s\(\d[\d.]*\s?\\?%\)(?=\s?\.?$)", "", line)  # 0.5 (50%)
    if match := _WHOLE.search(line):
        return next(group for group in match.groups() if group)
    while shorter := _REMARK.sub("", line) if _REMARK.search(line) else "":
        line = shorter
    line = _BEFORE_RESULT.sub("", _BEHIND_RESULT.sub("", line))
    segments: list[str] = []

    def mask(match: "re.Match[str]") -> str:
        segments.append(next(group for group in match.groups() if group is not None).strip())
        return chr(0xE000 + len(segments) - 1) if len(segments) < 6000 else match[0]

    for run in reversed(_runs(_SEGMENT.sub(mask, line))):
        if result := _result(_unmask(run, segments), is_prose=run[:1] < "\ue000"):
            return result
    return None


def plain_signs(text: str) -> str:
    """The text with - in place of other minus signs, and ^2 in place of ²."""
    text = re.sub(r"[⁰¹²³⁴-⁹]+", lambda match: "^" + match[0].translate(SUPERSCRIPTS), text)
    return re.sub(r"[−‑]|(?<!\d)–(?=[\d\\$(.])", "-", text)


def _unmask(text: str, segments: list[str]) -> str:
    return re.sub("[\ue000-\uf8ff]", lambda match: segments[ord(match[0]) - 0xE000], text)


def _runs(line: str) -> list[str]:
    """The parts of a line that are mathematics. Two parts with "or" or "and" between them are one."""
    tokens = list(_TOKEN.finditer(line))
    runs: list[list[int]] = []  # [first character, behind the last]
    inside = False

    for position, token in enumerate(tokens):
        if runs and token.start() < runs[-1][1]:  # it belongs to a unit that is in the run already
            continue

        if _is_mathematics(tokens, position):
            if inside:
                runs[-1][1] = token.end()
            elif token.lastgroup != "comma":
                runs.append([token.start(), token.end()])
                inside = True
        else:
            joins = token[0] in ("or", "and") and inside and position + 1 < len(tokens)
            joins = joins and _is_mathematics(tokens, position + 1) and tokens[position + 1].lastgroup != "comma"

            # A run that ends takes its unit along.
            if inside and not joins and line[runs[-1][1] : token.start()] == " ":
                unit = _UNIT.match(line, token.start())
                runs[-1][1] = unit.end() if unit else runs[-1][1]
            inside = bool(joins)

    return [line[start:end] for start, end in runs]


def _is_mathematics(tokens: "list[re.Match[str]]", position: int) -> bool:
    token = tokens[position]
    if token.lastgroup in ("segment", "number", "command", "sign"):
        return True
    if token.lastgroup == "comma":  # the comma of a list, with mathematics behind it, and not of a sentence
        start = position + 1
        start += start < len(tokens) and tokens[start][0] in ("and", "or")
        return start < len(tokens) and tokens[start].lastgroup != "comma" and _is_mathematics(tokens, start)

    # Some words always count, long words never.
    if token.lastgroup != "word":
        return False
    if token[0] in _WORDS_OF_MATH:
        return True
    if len(token[0]) > 3:
        return False

    # Neighbours decide about a short word.
    previous = tokens[position - 1] if position else None
    following = tokens[position + 1] if position + 1 < len(tokens) else None
    if len(token[0]) == 1:
        is_last = following is None or (following[0] in ".!" and position + 2 >= len(tokens))
        if previous is not None and previous[0] == "°" and token[0] in "CF":
            return True  # 5 °C
        if previous is not None and previous[0] in ("is", "choice", "option") and token[0].isupper() and is_last:
            return True  # the choice is B.

    glued = previous is not None and previous.lastgroup == "number" and previous.end() == token.start()
    if len(token[0]) > 1 and not (glued and token[0] not in ("st", "nd", "rd", "th")):
        return False
    operators = set("+*/^_=<>≤≥≠×÷·±≈()|") | ({"-"} if len(token[0]) == 1 else set())
    return bool(
        glued
        or (previous is not None and previous[0] in operators)
        or (
            following is not None
            and following[0] in operators
            and not (following[0] == "(" and following.start() > token.end())
        )
    )


def _result(run: str, is_prose: bool) -> str | None:
    """The result of a part of a line that is mathematics: the right side of its last equation, or its list of values.

    `is_prose`: the part does not begin with a formula in $ signs, so that a dash before it may belong to the sentence.
    """
    # Choices, names and relations.
    run = _trimmed(run, is_prose)
    if re.fullmatch(r"\(?[A-J]\)?", run):
        return run.strip("()")
    if not re.search(r"\d|\\[A-Za-z]|[π∞½¼¾√]", run) and not re.search(r"[A-Za-z]\s*[-+*/^=]|[-+*/^=]\s*[A-Za-z]", run):
        return run if re.fullmatch(r"[A-Za-z]", run) and len(run) == 1 and run not in "aAI" else None
    if re.search(r"[<>≤≥]|\\(?:le|ge|leq|geq|in|ne)(?![A-Za-z])", run):
        return run

    # Of values that are about equal, one counts.
    exact, *nearly = _NEARLY.split(run)
    if nearly:  # the value before the sign is exact; it counts, unless it is a name or empty
        side = _EQUALS.split(exact)[-1].strip()
        run = nearly[-1] if _NAME.fullmatch(side) or not side else exact

    # Several values: all, or the last one.
    parts = re.split(r",?\s+(?:or|and)\s+|\\text\{\s*(?:or|and)\s*\}", run)
    listed = [element for part in parts for element in parts_of(part)]
    if len(listed) == 2 and listed[1].endswith("%") and re.search(r",\s+or\s", run):  # 1/2, or 50%
        listed = listed[:1]
        run = listed[0]
    if len(listed) > 1:
        assigned = [_ASSIGNMENT.fullmatch(element) for element in listed]
        if all(assigned) or not any("=" in element for element in listed[1:]):  # x = 3, y = 4; n = 5 or -5
            values = [match[1] if match else element for match, element in zip(assigned, listed, strict=True)]
            if "=" not in "".join(values):
                return ", ".join(_trimmed(value, False) for value in values)
        run = listed[-1]

    return _trimmed(_EQUALS.split(run)[-1], False) or None


def _trimmed(text: str, is_prose: bool) -> str:
    """The text without signs at its ends that belong to the sentence: a dash, or a bracket without its other half."""
    text = text.strip().rstrip("=<>+*/^_,;-: ").lstrip("=<>*/^_,;:)]}%! ").strip()
    text = re.sub(r"^[-+]\s+", "", text) if is_prose else re.sub(r"^([-+])\s+", r"\1", text)
    for opening, closing in ("([", ")]"), ("{", "}"):
        opened, closed = sum(text.count(c) for c in opening), sum(text.count(c) for c in closing)
        if opened > closed:
            text = text.lstrip(opening) if text[:1] in opening else text
        elif closed > opened and text[-1:] in closing:
            text = text[: len(text) - (closed - opened)] if text.endswith(text[-1] * (closed - opened)) else text
    return text.strip()
