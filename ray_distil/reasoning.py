r"""Reasoning and answers: split, extract, compare.

<think> ...reasoning... </think> The final answer is \boxed{8}.
        `- reasoning -'          `-------- conclusion --------'
"""

import re
import threading

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")
_STATED = re.compile(r"answer\s*(?:is|:)\s*:?\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
THINK_BEGIN, THINK_END = "<think>", "</think>"
PARSING_SECONDS = 5  # math-verify's limit for one answer


def split_reasoning(response: str) -> tuple[str, str]:
    """`(reasoning, conclusion)` of a response.

    The marks decide: `</think>` ends the reasoning, whether `<think>` is in the text or stood in the prompt. A think
    block left open has no conclusion; a response without marks is all conclusion.
    """
    reasoning, mark, conclusion = response.partition(THINK_END)
    if mark or THINK_BEGIN in response:
        return reasoning.replace(THINK_BEGIN, "", 1).strip(), conclusion.strip()
    return "", response.strip()


def thinking_is_open(response: str) -> bool:
    """Whether a think block begins and does not end: whatever the finish_reason says, there is no conclusion."""
    return THINK_BEGIN in response and THINK_END not in response


def thinking_of(response: str) -> str:
    """The part of a response up to where its thinking ends, marks included; "" where it does not think."""
    if thinking_is_open(response):
        return response
    before, mark, _ = response.partition(THINK_END)
    return before + mark if mark else ""


def with_think_begin(response: str) -> str:
    """The response with the mark that begins its thinking, where that stood in the prompt."""
    before, mark, _ = response.partition(THINK_END)
    return f"{THINK_BEGIN}\n{response.lstrip()}" if mark and THINK_BEGIN not in before else response


def joined(reasoning: str, content: str) -> str:
    """Reasoning and content as one text with the marks of thinking, as the model wrote it."""
    if not reasoning:
        return with_think_begin(content)
    thought = reasoning if reasoning.startswith(THINK_BEGIN) else f"{THINK_BEGIN}\n{reasoning}"
    if not content.strip() or THINK_END in reasoning or THINK_END in content:
        return thought + content
    return f"{thought}\n{THINK_END}\n\n{content}"


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`, braces balanced; None where there is none or it is left open."""
    start = text.rfind("\\boxed{")
    depth = 0
    for position in range(start + len("\\boxed"), len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position].strip()
    return None


def extract_answer(text: str) -> str | None:
    r"""The answer that a text states: its last `\boxed{}`, else what follows "answer is"; None if neither."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed or None
    stated = _STATED.findall(text)
    return (stated[-1].strip("*$ .") or None) if stated else None


def final_result(text: str) -> str | None:
    """Where a text ends: the answer that it states, else the last number of its last line that has one."""
    stated = extract_answer(text)
    if stated is not None:
        return stated
    for line in reversed(text.splitlines()):
        numbers = _NUMBER.findall(line)
        if numbers:
            return str(numbers[-1])
    return None


def answers_agree(answer: str | None, reference: str | None) -> bool:
    """Whether two answers mean the same: as written, else as math-verify reads them (1/2 and 0.5, sets, units)."""
    if answer is None or reference is None:
        return False
    if _plain(answer) == _plain(reference):
        return True
    from math_verify import parse, verify

    # math-verify keeps its time limit by SIGALRM, which only a main thread may set.
    seconds = PARSING_SECONDS if threading.current_thread() is threading.main_thread() else None
    parsed = [parse(f"${text}$", parsing_timeout=seconds) for text in (reference, answer)]
    return bool(parsed[0] and parsed[1] and verify(parsed[0], parsed[1], timeout_seconds=seconds))


def _plain(answer: str) -> str:
    return answer.strip().strip("$").rstrip(".").replace(",", "").replace(" ", "").lower()
