"""Figures of one model's answers, and of two models side by side: pure functions on columns of EVAL rows.

    instruction_id         id of the problem
    correct                whether the answer equals the reference; null without a reference
    unclear                whether the judge could not read one of the two; null where that is not known
    complete               whether the model stopped by itself
    answer                 the answer that the response states; null where it states none
    num_generated_tokens   null for a rejected row, which counts as wrong and not complete; null where not counted
    num_thinking_tokens    the thinking tokens among these; null where not counted

A figure that is not defined is None, never 0. All intervals are 95 % intervals; tests/benchmarks/intervals.py measures
their coverage.
"""

from collections import Counter
from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa

from ray_distil.judge.agreement import answers_agree

Z = 1.959964  # quantile of the normal distribution for a 95 % interval
COLUMNS = (
    "instruction_id", "correct", "unclear", "complete", "answer", "num_generated_tokens", "num_thinking_tokens", "category",
    "scored_by",
)  # fmt: skip
REJECTED = "is_rejected"  # a column of `with_rejected`
SUPPOSED = 12  # problems, see `clustered_wilson`; 8 are too few for 30 problems of 64 samples
DRAWS = 2000  # number of bootstrap samples
SEED = 0  # of the bootstrap: the same figures each time

Numbers = Any  # a numpy array of floats, NaN where a value is null


def with_rejected(answers: pa.Table, rejected: list[dict[str, Any]]) -> pa.Table:
    """The COLUMNS of a model's answers, and for each rejected row an answer that is wrong and not complete."""
    lost = [
        {
            "instruction_id": row["instruction_id"],
            "correct": None if row.get("reference_answer") is None else False,
            "complete": False,
            "category": row.get("category"),
            REJECTED: True,
        }
        for row in rejected
    ]
    rows = answers.select([name for name in COLUMNS if name in answers.column_names])
    rows = rows.append_column(REJECTED, pa.array([False] * rows.num_rows, pa.bool_()))
    schema = pa.schema([pa.field(field.name, field.type) for field in rows.schema])
    return pa.concat_tables([rows.cast(schema), pa.Table.from_pylist(lost, schema=schema)])


def summary(answers: pa.Table) -> dict[str, Any]:
    """One model's figures.

    accuracy: mean over the problems of each problem's share of correct answers. accuracy_interval: `clustered_wilson`.
    pass_at: {k: chance that at least one of k answers is right}, for k = 1, 2, 4, ... and the number of samples.
    majority: share of problems whose most frequent answer is right; None with one sample a problem.
    mean_tokens, median_tokens, p90_tokens: generated tokens of an answer, with reasoning and end token; cut ones count.
    tokens_of_right, _wrong, _cut: mean tokens of right answers, of complete wrong answers, and of cut answers.
    tokens_per_correct: tokens of all graded answers, divided by the number of right answers.
    num_wrong: answers that count as wrong. num_unclear: those of them that the judge could not read; None: not known.
    completion_rate: share of answers that ended by themselves. no_answer_rate: share of responses that state no answer;
    rejected rows do not count there. Where a scorer of the user's own has judged texts, majority and no_answer_rate are
    None: they are of stated answers.
    """
    problem, correct, tokens = _problem(answers), _floats(answers, "correct"), _floats(answers, "num_generated_tokens")
    complete, is_there = _floats(answers, "complete") == 1, ~np.isnan(tokens)
    unclear = _not_nan(_floats(answers, "unclear"))
    graded = ~np.isnan(correct)

    # Each problem counts the same.
    num, num_right = _by_problem(problem[graded], np.ones(graded.sum())), _by_problem(problem[graded], correct[graded])
    shares = num_right / num
    spent = tokens[is_there & graded].sum() if (is_there & graded).any() else None

    stated = np.array([text is not None for text in answers["answer"].to_pylist()], bool)
    answered = _floats(answers, REJECTED) != 1
    by_text = _is_by_own_scorer(answers)
    per_problem = np.bincount(problem) if len(problem) else np.zeros(0)

    return {
        "num_problems": len(per_problem),
        "num_samples": int(per_problem.min()) if len(per_problem) else 0,
        "accuracy": _mean(shares),
        "accuracy_interval": _rounded(clustered_wilson(shares.tolist(), int(num.sum()))) if len(shares) else None,
        "pass_at": {str(k): pass_at_k(num, num_right, k) for k in _ks(num)},
        "majority": majority(answers) if len(num) and num.min() > 1 and not by_text else None,
        "completion_rate": _mean(complete.astype(float)),
        "no_answer_rate": None if by_text else _mean(1.0 - stated[answered]),
        "mean_tokens": _mean(tokens[is_there]),
        "median_tokens": _quantile(tokens[is_there], 0.5),
        "p90_tokens": _quantile(tokens[is_there], 0.9),
        "mean_thinking_tokens": _mean(_not_nan(_floats(answers, "num_thinking_tokens"))),
        "num_wrong": int((correct == 0).sum()),
        "num_unclear": int(unclear.sum()) if len(unclear) else None,
        "tokens_of_right": _mean(tokens[is_there & (correct == 1)]),
        "tokens_of_wrong": _mean(tokens[is_there & complete & (correct == 0)]),
        "tokens_of_cut": _mean(tokens[is_there & ~complete]),
        "tokens_per_correct": float(spent / num_right.sum()) if spent is not None and num_right.sum() else None,
    }


def clustered_wilson(shares: list[float], num_answers: int) -> tuple[float, float]:
    """Wilson's interval for the mean of `shares`: each problem's share of correct answers, `num_answers` in all.

    It is Wilson's score interval (1927) for an effective number of answers. With that number, independent answers would
    have the same standard error as these, clustered by problem (Miller, 2411.00640): samples of one problem that all
    agree count as one answer. The interval has a width also at 0 and at 100 %.

    Few problems often hold none of the rare ones that a model can solve, and look more alike than all problems are. So
    the variance between problems is estimated with SUPPOSED further problems of one answer each. Without them, 30
    problems of 64 samples held a truth of 2 % in 79 of 100 draws (tests/benchmarks/intervals.py).
    """
    n, mean = len(shares), sum(shares) / len(shares)
    largest = mean * (1 - mean)  # the variance between problems of one answer each
    variance = (sum((share - mean) ** 2 for share in shares) + SUPPOSED * largest) / (n - 1 + SUPPOSED)
    effective = min(max(n * largest / variance, n), num_answers) if variance else n
    middle, spread = mean + Z**2 / (2 * effective), Z * sqrt(mean * (1 - mean) / effective + (Z / (2 * effective)) ** 2)
    scale = 1 + Z**2 / effective
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def pass_at_k(num: Numbers, num_right: Numbers, k: int) -> float | None:
    """The chance that at least one of k answers is right, without bias (Chen et al., 2107.03374): the mean over the
    problems of 1 - C(n - c, k) / C(n, k). `num`, `num_right`: (P,) n and c; None where a problem has fewer than k.
    """
    if not len(num) or num.min() < k:
        return None
    drawn = np.arange(k)[None, :]
    all_wrong = np.prod(np.clip(num[:, None] - num_right[:, None] - drawn, 0, None) / (num[:, None] - drawn), axis=1)
    return float(np.mean(1 - all_wrong))


def _is_by_own_scorer(answers: pa.Table) -> bool:
    names = answers["scored_by"].drop_null() if "scored_by" in answers.column_names else []
    return len(names) > 0 and ":" in names[0].as_py().split(" ")[0]  # behind a blank it is a judge


def majority(answers: pa.Table) -> float | None:
    """The share of problems whose most frequent answer is right.

    Each answer has one vote, and answers that mean the same are counted together. A cut answer has no vote, nor has a
    response that states none. If several answers share the most votes, the problem counts by the share of them that is
    right, e.g. 1/2.
    """
    votes: dict[str, list[tuple[str, bool]]] = {}
    columns = (answers[name].to_pylist() for name in ("instruction_id", "correct", "complete", "answer"))
    for problem, correct, complete, answer in zip(*columns, strict=True):
        if correct is not None:
            voted = votes.setdefault(problem, [])
            if complete and answer is not None:
                voted.append((answer, correct))
    return _mean([_majority_of(voted) for voted in votes.values()])


def _majority_of(votes: list[tuple[str, bool]]) -> float:
    number = Counter(answer for answer, _ in votes)
    is_right = dict(reversed(votes))
    groups: list[tuple[str, int]] = []  # (one answer of the group, votes)
    for answer, count in number.items():
        same = next((k for k, (group_answer, _) in enumerate(groups) if answers_agree(answer, group_answer)), None)
        if same is None:
            groups.append((answer, count))
        else:
            groups[same] = (groups[same][0], groups[same][1] + count)
    largest = max((count for _, count in groups), default=0)
    best = [is_right[answer] for answer, count in groups if count == largest]
    return sum(best) / len(best) if best else 0.0


def difference(first: pa.Table, second: pa.Table) -> dict[str, Any] | None:
    """Accuracy of `first` minus that of `second` on their common problems: `difference`, `interval`, `problems`.

    Paired by problem. The interval is that of Agresti and Min (2005): it adds two problems, half of one in favour of
    each model and one without a difference, so it has a width also where the models never differ. None without a common
    problem.
    """
    mine, theirs = _shares(first), _shares(second)
    differences = np.array([share - theirs[problem] for problem, share in mine.items() if problem in theirs])
    if not len(differences):
        return None
    n = len(differences) + 2
    mean = differences.sum() / n
    spread = Z * sqrt((np.square(differences).sum() + 1) / n - mean**2) / sqrt(n)
    interval = _rounded((max(-1.0, mean - spread), min(1.0, mean + spread)))
    return {"difference": float(differences.mean()), "interval": interval, "problems": len(differences)}


def gain(model: pa.Table, baseline: pa.Table) -> dict[str, Any] | None:
    """Mean tokens of the baseline divided by those of `model`, on their common problems: `gain`, `interval`, `problems`.

    The interval is from a bootstrap over the problems; each draw takes the same problems for both models. None without
    a common problem, and where `model` has a problem with 0 tokens.
    """
    mine, theirs = _mean_tokens(model), _mean_tokens(baseline)
    both = sorted(mine.keys() & theirs.keys())
    numbers, base = np.array([mine[p] for p in both]), np.array([theirs[p] for p in both])
    if not len(both) or not numbers.all():
        return None
    draw = np.random.default_rng(SEED)
    ratios = []
    for _ in range(DRAWS):
        drawn = draw.integers(0, len(both), len(both))
        ratios.append(base[drawn].mean() / numbers[drawn].mean())
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {"gain": float(base.mean() / numbers.mean()), "interval": _rounded((low, high)), "problems": len(both)}


def compare(models: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """The models' summaries with `speed_gain`, as in the recipe's table: the baseline's mean tokens over the model's.

    `seconds_gain`: the same for seconds a problem, where seconds were measured. A model has none where its entry
    `against` says that it has no problem in common with the baseline.
    """
    base = next((model for model in models if model["name"] == baseline), {})

    def gain_of(model: dict[str, Any], figure: str) -> float | None:
        pair = model.get("against")
        if pair is not None and not any(pair.values()):
            return None
        reference, value = base.get(figure), model.get(figure)
        return reference / value if reference and value else None

    gains = {"speed_gain": "mean_tokens", "seconds_gain": "seconds"}
    return [
        model | {name: gain_of(model, figure) for name, figure in gains.items() if figure in model} for model in models
    ]


def pareto_front(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models, sorted by tokens, for which no other model has at least the accuracy with at most the tokens."""
    measured = [m for m in models if m["accuracy"] is not None and m["mean_tokens"] is not None]
    front: list[dict[str, Any]] = []
    for model in sorted(measured, key=lambda m: (m["mean_tokens"], -m["accuracy"])):
        if not front or model["accuracy"] > front[-1]["accuracy"]:
            front.append(model)
    return front


def _problem(answers: pa.Table) -> Any:
    """(N,) for each answer the number of its problem, from 0."""
    return np.unique(np.array(answers["instruction_id"].to_pylist(), dtype=object), return_inverse=True)[1]


def _floats(answers: pa.Table, name: str) -> Numbers:
    """(N,) a column as floats; all NaN without this column."""
    if name not in answers.column_names:
        return np.full(answers.num_rows, np.nan)
    return answers[name].cast(pa.float64()).to_numpy(zero_copy_only=False).astype(float)


def _by_problem(problem: Any, values: Numbers) -> Numbers:
    """(P,) the sum of `values` for each problem. problem, values: (N,)."""
    numbers, inverse = np.unique(problem, return_inverse=True)
    return np.bincount(inverse, weights=values, minlength=len(numbers)) if len(values) else np.zeros(0)


def _of_problems(answers: pa.Table, column: str) -> dict[str, float]:
    """Problem -> mean of the column's values that are not null."""
    values, names = _floats(answers, column), answers["instruction_id"].to_pylist()
    sums: dict[str, list[float]] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        if value == value:  # not NaN
            sums.setdefault(name, []).append(value)
    return {name: sum(of_figure) / len(of_figure) for name, of_figure in sums.items()}


def _shares(answers: pa.Table) -> dict[str, float]:
    return _of_problems(answers, "correct")


def _mean_tokens(answers: pa.Table) -> dict[str, float]:
    return _of_problems(answers, "num_generated_tokens")


def _ks(num: Numbers) -> list[int]:
    """1, 2, 4, ... up to the smallest number of samples of a problem, and that number itself."""
    smallest = int(num.min()) if len(num) else 0
    return sorted({2**power for power in range(smallest.bit_length())} | ({smallest} if smallest else set()))


def _not_nan(values: Numbers) -> Numbers:
    return values[~np.isnan(values)]


def _quantile(values: Numbers, share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _rounded(bounds: tuple[float, float]) -> list[float]:
    return [round(float(bound), 6) for bound in bounds]


def summarise(answers: pa.Table, rejected: list[dict[str, Any]], name: str, benchmark: str) -> dict[str, Any]:
    """The figures of one model's answers; see `summary`. `rejected`: rows without an answer, counted as wrong.

    Where problems have categories, `categories` has the figures of each category.
    """
    all_answers = with_rejected(answers, rejected)
    figures = summary(all_answers)
    entry = {"name": name, "benchmark": benchmark, "num_rejected": len(rejected), **figures}
    categories = dict(_by_category(all_answers))
    return entry | ({"categories": categories} if categories else {})


def _by_category(answers: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of each category, in the order of their names."""
    names = ("num_problems", "accuracy", "accuracy_interval", "completion_rate", "mean_tokens")
    for name in sorted(set(answers["category"].to_pylist()) - {None}) if "category" in answers.column_names else ():
        figures = summary(answers.filter(pa.compute.equal(answers["category"], name)))
        yield name, {key: figures[key] for key in names}
