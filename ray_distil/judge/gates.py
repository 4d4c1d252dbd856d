"""Gates: pure functions `row -> reason or None` that keep bad rows out of training.

A gate reads the text, finish_reason, answer and reference_answer of a row, and the lengths of a rewrite and its source.
The functions below are applied in their order in this file. `@gate` gives each a switch in the configuration, `gates.NAME`.

A gate of a user's own is a function with the same contract, named in `gates.custom` by its import path. It is applied
after these, and its reason is a reject's reason.

Another gate here, or another rule of a gate, changes which rows pass: raise VERSION here and in `stages/rewrites.py`, or a
finished run with the same switches stays as it is.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from ray_distil.chat.reasoning_marks import thinking_is_open
from ray_distil.errors import UserError
from ray_distil.judge.agreement import compare_answers
from ray_distil.judge.results import has_steps
from ray_distil.runtime import user_code

VERSION = 6
ACCEPTED = "accepted"
MOST_SHOWN = 100  # characters of an answer in the detail of a reject
Row = Mapping[str, Any]
Gate = Callable[[Row], str | None]
GateT = TypeVar("GateT", bound=Gate)

GATES: dict[str, Gate] = {}  # in the order in which they are applied
DESCRIPTIONS: dict[str, str] = {}  # of the gates, in the configuration
REASONS: dict[str, str] = {}  # reason -> the gate that gives it


def gate(description: str, *reasons: str) -> Callable[[GateT], GateT]:
    """Makes a function a gate under its own name; `reasons` are all that it returns beside None."""

    def listed(function: GateT) -> GateT:
        GATES[function.__name__] = function
        DESCRIPTIONS[function.__name__] = description
        REASONS.update(dict.fromkeys(reasons, function.__name__))
        return function

    return listed


@gate("the text ended by itself", "incomplete")
def complete(row: Row) -> str | None:
    """The text ended by itself, and so did its thinking. A text that was cut is never trimmed into an example."""
    text = row.get("response") or row.get("reasoning") or ""
    return None if row["finish_reason"] == "stop" and not thinking_is_open(text) else "incomplete"


@gate("the text states an answer", "no_answer")
def answered(row: Row) -> str | None:
    """The text states an answer."""
    return None if row["answer"] else "no_answer"


_NOT_CORRECT = {"different": "wrong_answer", "unclear": "unclear_answer", "timeout": "answer_timeout"}


@gate("the answer equals the reference, where there is one (math-verify)", *_NOT_CORRECT.values())
def correct(row: Row, judge: str | None = None) -> str | None:
    """The answer equals the reference; a row without a reference passes. One that cannot be compared fails.

    judge: the import path of a user's own, see `compare_answers`.
    """
    if row["reference_answer"] is None:
        return None
    problem = row.get("instruction") or ""
    return _NOT_CORRECT.get(compare_answers(row["answer"], row["reference_answer"], problem, judge))


@gate("a rewrite holds a step beside its answer", "no_steps")
def reasoned(row: Row) -> str | None:
    """A rewrite has a step, and not only the answer, which its prompt has told it. A row that is no rewrite passes."""
    return None if "rewritten_tokens" not in row or has_steps(row["reasoning"]) else "no_steps"


@gate("a rewrite has fewer characters than its source, and fewer tokens where both are counted", "not_shorter")
def shorter(row: Row) -> str | None:
    """A rewrite has fewer characters than its source, and fewer tokens where both are counted.

    Tokens alone would not do: two tokenizers may have counted them. A row that is no rewrite passes.
    """
    original, rewritten = row.get("original_tokens"), row.get("rewritten_tokens")
    longest = row.get("original_characters")
    if longest is not None and len(row["reasoning"]) >= longest:
        return "not_shorter"
    return None if original is None or rewritten is None or rewritten < original else "not_shorter"


def first_reason(row: Row, names: Iterable[str], judge: str | None = None) -> str | None:
    """The reason of the first gate among `names` that the row fails; None where it passes all.

    names: of the gates above, and import paths of a user's own. judge: of `correct`. A verdict of the same gates that stands
    in the row is used. Raises UserError for a name that is no gate: a row must not pass because its gate is missing.
    """
    enabled = dict.fromkeys(names)
    custom = [name for name in enabled if ":" in name]
    if unknown := enabled.keys() - GATES.keys() - set(custom):
        raise UserError(
            f"gates.{min(unknown)}: no such gate in this process, which has {', '.join(GATES)}. Workers import "
            "ray_distil/judge/gates.py anew: a gate that only the driver's program has registered is not there"
        )
    is_judged = row.get("judged_by") == judged_by(judge)
    reason = row["verdict"] if is_judged else None
    if reason is None or (reason != ACCEPTED and REASONS[reason] not in enabled):
        gates = GATES | {"correct": partial(correct, judge=judge)}
        reason = next(filter(None, (passes(row) for name, passes in gates.items() if name in enabled)), ACCEPTED)
    if reason != ACCEPTED:
        return reason
    return next(filter(None, (_custom_reason(row, path) for path in custom)), None)


def compared(row: Row, reason: str) -> str:
    """Beside the reasons of `correct`, the stated answer and the reference, e.g. "39, not 7"; else ""."""
    if reason not in _NOT_CORRECT.values():
        return ""
    answer, reference = (_short(str(row[name])) for name in ("answer", "reference_answer"))
    return f"{answer}, not {reference}" if reason == "wrong_answer" else f"{answer} beside {reference}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def judged_by(judge: str | None = None) -> str:
    """Who has given a verdict: the gates of this version, and a user's own judge by its import path and source."""
    return f"gates {VERSION}" if judge is None else f"gates {VERSION}, {user_code.mark(judge)}"


def verdict(row: Row, judge: str | None = None) -> dict[str, str]:
    """The columns `verdict` and `judged_by` of a row, by all gates of this file, whichever are on."""
    unjudged = {name: value for name, value in row.items() if name != "judged_by"}
    return {"verdict": first_reason(unjudged, GATES, judge) or ACCEPTED, "judged_by": judged_by(judge)}


def _custom_reason(row: Row, path: str) -> str | None:
    reason = user_code.call(path, "gates.custom", MappingProxyType(dict(row)))
    if reason is not None and (not isinstance(reason, str) or not reason):
        raise UserError(
            f"gates.custom: {path} returned {reason!r}; a gate returns a reason, or None for a row that passes"
        )
    if reason in REASONS:
        raise UserError(f"gates.custom: {path} returned {reason!r}, which is the reason of the gate {REASONS[reason]}")
    return reason


def against_source(rewrite: Row) -> Row:
    """A rewrite as the gates read it: where it has no reference answer, it is compared with its source's answer."""
    return {**rewrite, "reference_answer": rewrite["reference_answer"] or rewrite["source_answer"]}
