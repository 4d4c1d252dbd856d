r"""The answer that a text states.

... so \boxed{8}.              8
**Answer:** C. 42              C. 42
The answer is 12, since ...    12
#### 12                        12
答案是 $12$。                   12
"""

import re

from ray_distil.store.schemas import without_unseen

# A box with braces, or without braces before a number, letter or command: \boxed{5}, \boxed 1,200, \boxed\frac{1}{2}.
_BOX = re.compile(
    r"\\(?:boxed|f?box)(?![A-Za-z])\s{0,3}\$?(?:(\{)|(-?\d+(?:,\d{3})*(?:\.\d+)?%?|-?\\[A-Za-z]+(?:\s?\{[^{}]*\}|\d)*|[A-Za-z](?![A-Za-z])))"
)
# The text between two boxes that form one answer: \boxed{5} and \boxed{6}, x = \boxed{5}, y = \boxed{6}.
_BETWEEN = re.compile(
    r"(?:[\s$]|\\[()\[\]])*(?:,|;|and|or|\\text\{ ?(?:and|or) ?\})?(?:[\s$]|\\[()\[\]])*"
    r"(?:(?:and|or)\s)?(?:[A-Za-z](?:_\{?\w\}?)?\s?=)?(?:[\s$]|\\[()\[\]])*"
)
_PARTS = re.compile(
    r"[\s$.,;]*(?:\((?:[b-h]|ii|iii|iv|v)\)|(?:part|Part) (?:[b-h]|[2-9]))[\s:$]*"
)  # (a) [box] (b) [box]
_KEY = re.compile(
    r"""
    (?: (?<![A-Za-z])(?:answers?|ans) (?:\s(?:to|for|of)\s[^.:\n]{1,80}?)?
      | \bcorrect\s(?:answer|option|choice) | \b(?:right|correct)\sanswer
      | 答案 | (?P<chosen>故选) )
    (?P<bold>[*_\s]{0,6})
    (?: (?P<colon>[:：=】\]]|(?<=[Aa]ns)\.(?=\s)|(?<=answer)\s*[-–—]\s)
      | (?P<is>\b(?:is|are|was|(?:should|would|must|will)\sbe|equals)\b|(?:应该|應該|就|即)?[是为為]|應為|应为|选|選)
      | (?P<end>(?=\n)) | (?(chosen)|(?!)) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# An "Answer: X" behind a box corrects the box only if nothing but these words stands before it in its line.
_LEADS = re.compile(
    r"(?:.*[.!?]\s+)?[\s*_#>-]*(?:(?:so|thus|hence|therefore),?\s)?(?:(?:the|my)\s)?(?:final|correct|right)?\s?[\s*_]*",
    re.I,
)
_CHOSEN = re.compile(r"\b(?:option|choice)\s\(?([A-J])\)?\sis\s(?:the\s)?(?:correct|right)", re.IGNORECASE)
_FILLER = re.compile(
    r"(?:[\s*_:：]|\b(?:therefore|thus|then|simply|just|indeed|clearly|option|choice|equal to|given by|approximately|about"
    r"|roughly|around|nearly|exactly)\b,?|≈|\\approx(?![A-Za-z]))+",
    re.I,
)
# Where the sentence of an answer ends: at a dot (but of St., U.S. or J. Smith), a dash, or words that begin a clause.
_CLAUSE = (
    r"(?:because|since|as|which|so|where|when|that|thus|hence|therefore|but|while|obtained|making|giving|meaning|using|after|"
    r"if|i\.e|e\.g|it|we|they|he|she|this|these|there|the|by|in|for|with|not|rounded|at|on|of|to|from|assuming|given)\b"
)
_SENTENCE_ENDS = re.compile(
    r"(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bNo)(?<!\bvs)(?<![.\s][A-Z])(?<!^[A-Z])\.(?=\s+[A-Z])"
    r"|[。！？](?=\s|$|.)|，(?!\d)|\.\*\*|\s[-–—]\s(?=[A-Za-z]{2})"
    rf"|,\s(?={_CLAUSE})|\s(?=(?:because|since|as|which|so|where|when)\s)|(?<=[\d$}})])\sif\s|\n"
)
_MATHEMATICS = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MARKS = {"<|begin_of_box|>": "<answer>", "<|end_of_box|>": "</answer>"}  # GLM's
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|return|eom_id)\|>|</s>|<end_of_turn>|<｜end▁of▁sentence｜>|\[/?INST\]"
)
_FONTS = re.compile(r"</?(?:b|i|u|em|strong|span|p|div|code|mark|font)(?:\s+[\w-]+=[\"'][^<>]*)?>|<br\s*/?>", re.I)
_SENTENCE = re.compile(
    r"(?:The|This|That|Its?)\s[A-Za-z ,'’-]{1,60}?\b(?:is|are|was|equals)\s(?:equal\sto\s|therefore\s|then\s)?(?=[*_$]*[-\\]?[\d$\\(.])"
)
# What points elsewhere, or repeats the form that was asked for, is no answer.
_ECHO = re.compile(
    r"(?:as |see |shown |given |stated |the )*(?:above|below|boxed|box)(?: (?:above|below|answer|result))?"
    r"|(?:with)?in(?:side)? \\?boxed\s*\{?\s*\}?|\\boxed\s*\{\s*\}|[\[<({]?(?:your|the|final) (?:final )?answer[\]>)}]?|[\[<]?answer[\]>]?"
    r"|(?:[A-J]\s*/\s*){2,}[A-J]|\.\.\.|…|_+",
    re.I,
)
WINDOW = 2000  # characters that are read behind "answer is"


def extract_answer(text: str) -> str | None:
    r"""The answer that a text states; None where it states none.

    - The last `\boxed{}` (or several side by side) counts, unless an explicit "Answer: X" or `<answer>` follows it.
    - Without a box: the last `<answer>`; else the last "Answer: X" or "the answer is X".
    - Else GSM8K's `#### 12` in the last line.

    The time is linear in the text's length.
    """
    text = readable(text)
    boxed, end = _last_boxes(text)
    if tagged := _last_tagged(text, end):
        return _last_boxes(tagged)[0] or tagged
    if boxed is not None:
        return _stated(text, end, explicit=True) or boxed
    return _stated(text, 0, explicit=False) or _gsm8k(text)


def readable(text: str) -> str:
    """The text without characters that nobody sees, HTML's tags of fonts, and the marks with which models end a turn."""
    for mark, tag in _MARKS.items():
        text = text.replace(mark, tag)
    return _FONTS.sub("", _TURN_ENDS.sub("", without_unseen(text)))


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` that is not empty, up to its own closing brace; None where there is none."""
    return _last_boxes(text)[0]


def _last(pattern: "re.Pattern[str]", text: str) -> "re.Match[str] | None":
    return max(pattern.finditer(text), key=lambda match: match.start(), default=None)


def _last_tagged(text: str, start: int) -> str:
    """The content of the last <answer> block that ends behind `start`; "" where there is none."""
    lower = text.lower()
    end = lower.rfind("</answer>", start)
    begin = lower.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[begin + len("<answer>") : end].strip() if begin >= 0 else ""


def boxes(text: str) -> list[str]:
    """The contents of all boxes that are not empty, in their order."""
    return [content for *_, content in _boxes(text)]


def statements(text: str) -> list[str]:
    """The values behind "answer:" or "the answer is", in their order; at most the last 50."""
    keys = list(_KEY.finditer(text))[-50:]
    values = (_value(text[key.end() : key.end() + WINDOW], heading=key["end"] is not None) for key in keys)
    return [value for value in values if value]


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Begin, end and content of each box that is not empty."""
    boxes: list[tuple[int, int, str]] = []
    position = 0
    while match := _BOX.search(text, position):
        position = match.end()
        if match[1] is None:
            boxes.append((match.start(), match.end(), match[2]))
            continue
        end = _closing_brace(text, match.end())
        if end is None:  # the box is left open, and so is every later one
            break
        if content := text[match.end() : end].strip():
            boxes.append((match.start(), end + 1, content))
        position = match.end() if "\\boxed" in content else end + 1
    return boxes


def _last_boxes(text: str) -> tuple[str | None, int]:
    """`(content, end)` of the last box, or of the last boxes side by side ("5, 6"); (None, 0) without a box."""
    boxes = _boxes(text)
    if not boxes:
        return None, 0
    last = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : last[0][0]]
        is_joined = between == "" or (between.strip() and _BETWEEN.fullmatch(between)) or _PARTS.fullmatch(between)
        if len(between) > 40 or not is_joined:
            break
        last.insert(0, box)
    return ", ".join(dict.fromkeys(content for *_, content in last)), last[-1][1]


def _closing_brace(text: str, start: int) -> int | None:
    """The position where the brace that opens right before `start` closes. Escaped braces, `\\{`, do not count."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _stated(text: str, start: int, explicit: bool) -> str | None:
    """The answer of the last statement behind `start`. `explicit`: only an "Answer: X" that corrects a box counts."""
    keys = list(_KEY.finditer(text, start))
    for key in reversed(keys[-50:]):
        if explicit and not (key["colon"] and _LEADS.fullmatch(_line_before(text, key.start()))):
            continue
        value = _value(text[key.end() : key.end() + WINDOW], heading=key["end"] is not None)
        if value:
            return value
    choice = _last(_CHOSEN, text[start:])
    return choice[1] if choice else None


def _line_before(text: str, position: int) -> str:
    """The last 100 characters of a line up to a position."""
    start = max(0, position - 100)
    return text[start:position].rpartition("\n")[2]


def _value(text: str, heading: bool) -> str | None:
    # Words and marks in front of the answer.
    if heading and not re.match(r"[*_:#\s]*\n", text):
        return None
    if filler := _FILLER.match(text):
        text = text[filler.end() :]
    text = re.sub(r"^```\w*\n", "", text.lstrip())

    # A formula with marks around it.
    if mathematics := _MATHEMATICS.match(text):
        rest = text[mathematics.end() :]
        if re.match(r"\s*(?:[.,;。，]|and\b|or\b|$|\n|[*_]|[A-Za-z])", rest) and not re.match(
            r"\s*(?:,|and|or)\s*\$", rest
        ):
            unit = re.match(r"[ ]?([A-Za-z]+)(?=[.,;\s]*$)", rest.split("\n")[0])
            return f"{next(g for g in mathematics.groups() if g).strip()}{' ' + unit[1] if unit else ''}".strip()

    # Else the text of one sentence.
    end = _SENTENCE_ENDS.search(text)
    value = text[: end.start() if end else len(text)]
    label, mark, last = value.rpartition(": ")  # the answer must be negative: -5
    if mark and re.match(r"[A-Za-z]{2}", label) and ": " not in label and re.search(r"\d", last):
        value = last
    if sentence := _SENTENCE.match(value):  # Final Answer: The value is 5
        value = value[sentence.end() :]
    value = re.sub(r"^\\boxed\s*\{(?=[^{}]*$)", "", value.strip())  # a box that nobody closes
    value = value.strip().strip("*_`").strip().rstrip(".,;:。，").strip("*_ \"“”'‘’").strip()
    if _ECHO.fullmatch(value):
        return None
    if re.search(r"\d!$", value):  # the ! ends the sentence: a factorial would stand between $ signs
        value = value[:-1]
    return (value if re.fullmatch(r"\$[\d.,]+( \w+)?", value) else value.strip("$ ")) or None


def _gsm8k(text: str) -> str | None:
    """The text behind `####` in the last line, if it is not a heading."""
    last = text.rstrip().rpartition("\n")[2].strip()
    match = re.fullmatch(r"#### ?(\S.{0,80})", last)
    if not match or re.match(r"[A-Za-z]{2}", match[1]) or len(match[1].split()) > 5:
        return None
    return match[1].strip()
