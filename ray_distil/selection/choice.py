"""Which of a problem's texts are learnt, of those that passed the gates.

    problem  pass rate  candidates (characters)                     choose: shortest
    p1       4 of 4     direct 210, direct 180, rewrite 240         direct 180; the others are not_chosen
    p2       1 of 4     rewrite 300, conclusion 40                  rewrite 300; the conclusion is too_short
    p3       0 of 4     -                                           nothing: no text is right

In this order: difficulty by the pass rate, the majority's answer where there is no reference, hard problems at full length,
a floor of length, and then all texts, the shortest or any. All is a function of ids and counts: the same on each machine,
in any order of rows, after any kill. Works on small columns of numpy, without Python for each problem.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_distil.selection.same_texts import SAME_TEXT
from ray_distil.selection.words import Hashes, Places, mixed
from ray_distil.store.ids import Keys

KINDS = ("direct", "rewrite", "conclusion", "slow")
CODES = {kind: code for code, kind in enumerate(KINDS)}
REASONS = ("", "not_chosen", "too_short", "too_easy", "too_hard", "minority_answer", "no_majority", "over_budget")
LEFT_OUT = (SAME_TEXT, *REASONS[1:])  # reasons of texts that pass the gates and are not learnt
STAYS, NOT_CHOSEN, TOO_SHORT, TOO_EASY, TOO_HARD, MINORITY, NO_MAJORITY, OVER_BUDGET = range(len(REASONS))
CANDIDATE = np.dtype([
    ("problem", np.uint64), ("example", np.uint64), ("kind", np.uint8), ("characters", np.int32), ("tokens", np.int32),
    ("answer", np.uint64),
])  # fmt: skip
SAMPLE = np.dtype([("problem", np.uint64), ("answer", np.uint64), ("is_right", np.bool_), ("has_reference", np.bool_)])
Flags = npt.NDArray[np.bool_]
Reasons = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rules:
    """The keys of `curation` (docs/curation.md). kinds: those that may be learnt, as codes."""

    kinds: tuple[int, ...]
    choose: str = "all"
    keep: int = 1
    min_length: float = 0.0
    pass_rate: tuple[float, float] = (0.0, 1.0)
    easy_fraction: float = 1.0
    slow_fraction: float = 0.0
    vote: bool = False


class Difficulty(NamedTuple):
    """Of each problem with a reference, or with a majority: its samples, and those that are right. Ascending, [problems]."""

    problems: Keys
    tried: Places
    right: Places


def choose(candidates: np.ndarray, samples: np.ndarray, rules: Rules) -> tuple[Reasons, Difficulty]:
    """(the reason of each candidate, in the order given; the difficulty of the problems).

    candidates: the texts that passed the gates, of the dtype CANDIDATE. samples: all responses of the teachers to the same
    problems, of the dtype SAMPLE; a rewrite and a conclusion are no samples of their own. An answer is a hash, 0: none.
    """
    problems = np.unique(np.concatenate([candidates["problem"], samples["problem"]]))
    groups = np.searchsorted(problems, candidates["problem"])
    reasons = np.zeros(len(candidates), np.uint8)

    # Who is right, where there is no reference.
    majority = _majority(problems, samples) if rules.vote else np.zeros(len(problems), np.uint64)
    of_samples = np.searchsorted(problems, samples["problem"])
    counts = samples["has_reference"] | (majority[of_samples] != 0)
    is_right = np.where(samples["has_reference"], samples["is_right"], samples["answer"] == majority[of_samples])
    tried = np.bincount(of_samples[counts], minlength=len(problems))
    right = np.bincount(of_samples[counts & is_right], minlength=len(problems))
    if rules.vote:
        has_reference = np.bincount(of_samples[samples["has_reference"]], minlength=len(problems)) > 0
        is_open = ~has_reference[groups]
        reasons[is_open & (majority[groups] == 0)] = NO_MAJORITY
        reasons[is_open & (majority[groups] != 0) & (candidates["answer"] != majority[groups])] = MINORITY

    # Difficulty.
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = (right / tried)[groups]  # nan: not known
        _reject(reasons, rate < rules.pass_rate[0], TOO_HARD)
        _reject(reasons, rate > rules.pass_rate[1], TOO_EASY)
    if rules.easy_fraction < 1:
        is_left_out = fraction("easy", candidates["problem"]) >= rules.easy_fraction
        _reject(reasons, (rate == 1) & is_left_out, TOO_EASY)

    # Hard problems at full length: there the slow response is learnt alone. Elsewhere kinds decide.
    is_slow = (candidates["kind"] == CODES["slow"]) & (reasons == STAYS)
    at_length = np.zeros(len(candidates), np.bool_)
    if rules.slow_fraction:
        is_hard = (rate < 1) & (fraction("slow", candidates["problem"]) < rules.slow_fraction)
        has_slow = np.bincount(groups[is_slow], minlength=len(problems)) > 0
        at_length = is_hard & has_slow[groups]
        _reject(reasons, at_length & ~_first(is_slow & at_length, groups, candidates, 1, "shortest"), NOT_CHOSEN)
    may_be_learnt = np.isin(candidates["kind"], rules.kinds)
    _reject(reasons, ~at_length & ~may_be_learnt, NOT_CHOSEN)

    # Length.
    if rules.min_length:
        floor = rules.min_length * _medians(groups, candidates, (reasons == STAYS) & ~at_length, len(problems))
        _reject(reasons, ~at_length & (candidates["characters"] < floor[groups]), TOO_SHORT)
    if rules.choose != "all":
        rest = (reasons == STAYS) & ~at_length
        _reject(reasons, rest & ~_first(rest, groups, candidates, rules.keep, rules.choose), NOT_CHOSEN)
    is_known = tried > 0
    return reasons, Difficulty(problems[is_known], tried[is_known], right[is_known])


def within_budget(problems: Keys, tokens: Places, max_tokens: int) -> Flags:
    """Which examples fit into a budget: problems in the order of a hash, each as a whole, until the sum is reached."""
    order = np.lexsort((problems, mixed(problems ^ _SALTS["budget"])))
    ordered, total = problems[order], np.cumsum(tokens[order].astype(np.int64))
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))[: len(ordered)]
    fits = ends[total[ends] <= max_tokens] if len(ordered) else ends
    is_within = np.zeros(len(problems), np.bool_)
    is_within[order[: fits[-1] + 1 if len(fits) else 0]] = True
    return is_within


def fraction(purpose: str, problems: Keys) -> npt.NDArray[np.float64]:
    """A number in [0, 1) by the id of each problem, another one for each purpose."""
    # Ids are hashes; they are mixed once more, for held-out problems have the smallest ones.
    return mixed(problems ^ _SALTS[purpose]).astype(np.float64) / 2.0**64


_SALTS = {purpose: mixed(np.array([k], np.uint64))[0] for k, purpose in enumerate(("easy", "slow", "budget"), 1)}


def doubted(samples: np.ndarray, least: int = 3) -> tuple[Keys, Hashes]:
    """Problems whose reference contradicts the teachers: (problems, the answer that more than half of the samples state).

    No sample is right, at least `least` state an answer, and more than half of them state the same one.
    """
    referenced = samples[samples["has_reference"]]
    problems = np.unique(referenced["problem"])
    groups = np.searchsorted(problems, referenced["problem"])
    num_right = np.bincount(groups[referenced["is_right"]], minlength=len(problems))
    stated = np.bincount(groups[referenced["answer"] != 0], minlength=len(problems))
    majority = _majority(problems, referenced, with_reference=True)
    is_doubted = (num_right == 0) & (stated >= least) & (majority != 0)
    return problems[is_doubted], majority[is_doubted]


def _reject(reasons: Reasons, where: Flags, reason: int) -> None:
    reasons[where & (reasons == STAYS)] = reason


def _majority(problems: Keys, samples: np.ndarray, with_reference: bool = False) -> Hashes:
    """The answer of more than half of a problem's samples, and of at least two; 0 without one, [problems]."""
    voters = samples[samples["has_reference"] == with_reference]
    num_voters = np.bincount(np.searchsorted(problems, voters["problem"]), minlength=len(problems))
    stated = voters[voters["answer"] != 0]
    order = np.lexsort((stated["answer"], stated["problem"]))
    groups, answers = np.searchsorted(problems, stated["problem"][order]), stated["answer"][order]
    is_first = np.append(True, (groups[1:] != groups[:-1]) | (answers[1:] != answers[:-1]))[: len(groups)]
    first = np.flatnonzero(is_first)
    votes = np.diff(np.append(first, len(groups)))
    has_won = (votes >= 2) & (2 * votes > num_voters[groups[first]])
    majority = np.zeros(len(problems), np.uint64)
    majority[groups[first][has_won]] = answers[first][has_won]
    return majority


def _first(which: Flags, groups: Places, candidates: np.ndarray, number: int, by: str) -> Flags:
    """Of these candidates the first ones of each problem: "shortest" by characters, then by id; "random" by id, a hash."""
    rows = np.flatnonzero(which)
    keys = [candidates["example"][rows], groups[rows]]
    if by == "shortest":
        keys.insert(1, candidates["characters"][rows])
    rows = rows[np.lexsort(keys)]
    place = np.arange(len(rows))
    is_new = np.append(True, groups[rows][1:] != groups[rows][:-1])[: len(rows)]
    rank = place - np.maximum.accumulate(np.where(is_new, place, 0)) if len(rows) else place
    is_first = np.zeros(len(which), np.bool_)
    is_first[rows[rank < number]] = True
    return is_first


def _medians(groups: Places, candidates: np.ndarray, which: Flags, num_problems: int) -> Places:
    """The median length of each problem's texts, the larger one of two; 0 where there is none, [problems].

    Conclusions do not count: n samples have n of them, which would pull the median down to themselves.
    """
    rows = np.flatnonzero(which & (candidates["kind"] != CODES["conclusion"]))
    rows = rows[np.lexsort((candidates["characters"][rows], groups[rows]))]
    counts = np.bincount(groups[rows], minlength=num_problems)
    starts = np.cumsum(counts) - counts
    medians = np.zeros(num_problems, np.int64)
    has_some = counts > 0
    medians[has_some] = candidates["characters"][rows[(starts + counts // 2)[has_some]]]
    return medians
