r"""Splits a response into its reasoning (the think block) and its conclusion (the text behind the block).

<think> ...reasoning... </think> The final answer is \boxed{8}.
        `- reasoning -'          `-------- conclusion --------'

A text may also mention these marks in a sentence. So a mark that is alone on its line counts first; a mark within a
line counts only if no mark is alone on a line. A block inside a block belongs to the outer one. A second block behind
the first is reasoning too.
"""

import re
from bisect import bisect_left
from typing import NamedTuple

THINK_BEGIN, THINK_END = "<think>", "</think>"


class Marks(NamedTuple):
    """Marks of a family of models, or of a dataset: begin and end of the reasoning, and of the conclusion if it has some.

    `label`: a line that the model writes behind the begin mark.
    """

    begin: str
    end: str
    conclusion: str = ""
    conclusion_end: str = ""
    label: str = ""


OTHER_MARKS = [
    Marks("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),  # OpenThoughts
    Marks("<thinking>", "</thinking>"),
    Marks("<thought>", "</thought>"),
    Marks("<reasoning>", "</reasoning>"),
    Marks("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks(
        "<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|open|>response<|sep|>", "<|close|>response<|sep|>"
    ),  # Kimi
    Marks("<seed:think>", "</seed:think>"),
    Marks("<mm:think>", "</mm:think>"),  # MiniMax
    Marks("<longcat_think>", "</longcat_think>"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),  # Command A
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("<|channel>", "<channel|>", label="thought"),  # Gemma 4
    Marks("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", "", "[END FINAL RESPONSE]"),  # Apriel
    Marks("Here is my thought process:", "Here is my response:"),  # Granite
]
# gpt-oss: each message has a channel; `final` is the conclusion, all others are reasoning.
HARMONY = Marks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
_HARMONY = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_MARK = re.compile(r"</?think>")
_ON_A_LINE = re.compile(r"^[ \t]*</?think>[ \t]*$", re.MULTILINE)


class Block(NamedTuple):
    """Positions of a think block: begin, first character inside, begin of its end mark, end (None: it is left open)."""

    start: int
    inside: int
    mark: int
    end: int | None


def _blocks(text: str) -> list[Block]:
    """The think blocks of a text in their order. The first may lack its begin mark: then the prompt has it."""
    blocks = []
    lead = len(text) - len(text.lstrip())
    if text.startswith(THINK_BEGIN, lead):
        first = Block(lead, lead + len(THINK_BEGIN), len(text), None)
    elif (begin := _begin_on_a_line(text, 0)) >= 0 and THINK_END not in text[:begin]:
        first = Block(begin, begin + len(THINK_BEGIN), len(text), None)
    elif THINK_END in text:
        first = Block(0, 0, len(text), None)
    elif THINK_BEGIN in text:  # the mark is within a line, and the block is never closed
        begin = text.index(THINK_BEGIN)
        first = Block(begin, begin + len(THINK_BEGIN), len(text), None)
    else:
        return []

    # Where the blocks can end.
    marks = [list(pattern.finditer(text)) for pattern in (_ON_A_LINE, _MARK)]
    for mark in marks:  # drops the marks behind the last end mark
        while mark and mark[-1][0].strip() != THINK_END:
            mark.pop()

    # Each next block begins behind the one before.
    while True:
        closed = _closed(first, marks)
        blocks.append(closed)
        if closed.end is None or (begin := _begin_on_a_line(text, closed.end)) < 0:
            return blocks
        first = Block(begin, begin + len(THINK_BEGIN), len(text), None)


def _begin_on_a_line(text: str, start: int) -> int:
    """The position of the next begin mark that is first in its line, or right behind the block before; -1 for none."""
    match = re.compile(r"\s*<think>").match(text, start) if start else None
    match = match or re.compile(r"\n[ \t]*<think>").search(text, start)
    return match.end() - len(THINK_BEGIN) if match else -1


def _closed(block: Block, marks: "list[list[re.Match[str]]]") -> Block:
    """The block with its end, which skips inner blocks. It is found by marks alone on a line, else by all marks."""
    for next_mark in marks:
        depth = 1
        for k in range(bisect_left(next_mark, block.inside, key=lambda mark: mark.start()), len(next_mark)):
            depth += -1 if next_mark[k][0].strip() == THINK_END else 1
            if depth == 0 or k == len(next_mark) - 1:  # the last end mark counts, if an inner block lacks its own
                return block._replace(mark=next_mark[k].start(), end=next_mark[k].end())
    return block


def split_reasoning(response: str) -> tuple[str, str]:
    """`(reasoning, conclusion)` of a response. Without a think block there is no reasoning. Text behind a block is
    conclusion; an open block has none.
    """
    blocks = _blocks(response)
    if not blocks:
        return "", response.strip()
    thoughts = [response[block.inside : block.mark].strip() for block in blocks]
    starts = [block.start for block in blocks[1:]] + [len(response)]
    outside = [
        response[block.end : start].strip()
        for block, start in zip(blocks, starts, strict=True)
        if block.end is not None
    ]
    head = response[: blocks[0].start].strip()
    return "\n\n".join(filter(None, [head, *thoughts])), "\n\n".join(filter(None, outside))


def thinking_is_open(response: str) -> bool:
    """Whether the last think block does not end: then the response was cut, whatever its finish_reason says."""
    blocks = _blocks(response)
    return bool(blocks) and blocks[-1].end is None


def thinking_of(response: str) -> str:
    """The part of a response up to where its thinking ends, marks included; "" where it does not think."""
    blocks = _blocks(response)
    return response[: blocks[-1].end] if blocks else ""


def with_think_begin(response: str) -> str:
    """The response with <think> at its begin, if its reasoning lacks this mark because the mark was in the prompt."""
    blocks = _blocks(response)
    is_begun = blocks and not response[blocks[0].start :].startswith(THINK_BEGIN)
    return f"{THINK_BEGIN}\n{response.lstrip()}" if is_begun else response


def joined(reasoning: str, content: str) -> str:
    """Reasoning and content as one text with <think> and </think>, as the model wrote it.

    Some servers repeat the reasoning in the content, with or without marks; in the result it stands once.
    """
    reasoning, content = with_our_marks(reasoning), with_our_marks(content)
    if not reasoning.strip():
        return with_think_begin(content)
    thought = reasoning.strip().removeprefix(THINK_BEGIN).removesuffix(THINK_END).strip()
    if content.lstrip().startswith(f"{thought}\n"):  # the same thought again, without marks
        content = content.lstrip()[len(thought) :]
    if content.lstrip().startswith((THINK_BEGIN, THINK_END)):  # the same thought again, or its end mark alone
        within, conclusion = split_reasoning(content)
        if thinking_is_open(content) or (within and within != thought and thought not in within):
            return with_think_begin(content)
        content = conclusion
    if not content.strip():
        closed = reasoning.rstrip().endswith(THINK_END)
        return f"{THINK_BEGIN}\n{thought}" + (f"\n{THINK_END}" if closed else "")
    return f"{THINK_BEGIN}\n{thought}\n{THINK_END}\n\n{content.lstrip()}"


def with_our_marks(text: str) -> str:
    """The text with `<think>` and `</think>` in place of OTHER_MARKS, if it begins with a block in those marks, or has
    such marks alone on their lines; a text in gpt-oss' channels as one block and the final message.
    """
    if _HARMONY.match(text):
        return _of_channels(text)
    for marks in OTHER_MARKS:
        if text.lstrip()[: len(marks.begin)].lower() == marks.begin.lower():
            return _of_family(text.lstrip()[len(marks.begin) :], marks)
    return _of_lines(text)


def _of_channels(text: str) -> str:
    messages = [(channel, content.strip()) for channel, content in _MESSAGE.findall(text)]
    thought = "\n\n".join(content for channel, content in messages if channel != "final" and content)
    final = "\n\n".join(content for channel, content in messages if channel == "final")
    if not any(channel == "final" for channel, _ in messages):  # it was cut while it thought
        return f"{THINK_BEGIN}\n{thought}"
    return f"{THINK_BEGIN}\n{thought}\n{THINK_END}\n\n{final}" if thought else final


def _of_family(text: str, marks: Marks) -> str:
    """A text, without its begin mark, in our marks."""
    thought, mark, conclusion = text.partition(marks.end)
    if marks.label and thought.lstrip().startswith(marks.label):
        thought = thought.lstrip().removeprefix(marks.label)
    if not mark:
        return THINK_BEGIN + thought
    conclusion = conclusion.replace(marks.conclusion, "", 1) if marks.conclusion else conclusion
    if marks.conclusion_end:
        head, _, tail = conclusion.rpartition(marks.conclusion_end)
        conclusion = head + tail
    return f"{THINK_BEGIN}{thought}{THINK_END}\n\n{conclusion.strip()}"


def _of_lines(text: str) -> str:
    """A text with an end mark alone on its line: the prompt, or words, may stand where its begin mark would be."""
    for begin, end, *_ in OTHER_MARKS:
        if end not in text or not (ends := re.compile(rf"^[ \t]*{re.escape(end)}[ \t]*$", re.MULTILINE)).search(text):
            continue
        begins = re.compile(rf"^[ \t]*{re.escape(begin)}[ \t]*$", re.MULTILINE)
        return ends.sub(THINK_END, begins.sub(THINK_BEGIN, text))
    return text
