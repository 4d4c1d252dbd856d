"""Training problems that hold a test problem: what is found in a disguise, and what is another problem."""

import io
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from ray_distil.commands import plan
from ray_distil.config import DistillConfig, load
from ray_distil.config.evaluation_config import BenchmarkConfig
from ray_distil.errors import ConfigError, UserError
from ray_distil.problems import collecting
from ray_distil.problems.benchmark_rows import test_problems as problems_of_benchmark
from ray_distil.records.problem_facts import StoredProblems
from ray_distil.runner.runs import Run
from ray_distil.runtime.progress import Display
from ray_distil.selection.contamination import BenchmarkProblem, BenchmarkProblems
from ray_distil.selection.words import words_of
from ray_distil.stages import instructions, make_instructions, read_problems

APPLES = "Ann has 3 boxes of 14 apples. She gives 8 of them to Ben, and buys 20 more apples. How many apples does she have now?"
ROOTS = "Let $x$ be a real number such that $x^2 - 5x + \\frac{1}{2} = 0$. What is the sum of all of the values of $x$?"
STEM = "Which of the following statements about it is true?"


def held_by(
    texts: list[str], test_problems: list[str | BenchmarkProblem], **rules: Any
) -> dict[int, tuple[int, float]]:
    """Row -> (the test problem that it holds, share)."""
    problems = [p if isinstance(p, BenchmarkProblem) else BenchmarkProblem("b", "b 1", p) for p in test_problems]
    found = BenchmarkProblems(problems, **rules).held_by(words_of(pa.array(texts, pa.string())), 0.4)
    return dict(zip(found.rows.tolist(), zip(found.tests.tolist(), found.shares.tolist(), strict=True), strict=True))


@pytest.mark.parametrize("disguise", [
    "{}", "{} Give a number.", "Here are two exercises. 1. What is 5 + 9? 2. {} Solve both, and show all of your work.",
])  # fmt: skip
def test_a_test_problem_is_found_in_a_disguise(disguise: str) -> None:
    texts = [disguise.format(APPLES.lower()), disguise.format(ROOTS.replace("$", ""))]
    assert held_by(texts, [APPLES, ROOTS]) == {0: (0, 1.0), 1: (1, 1.0)}


def test_two_changed_words_are_no_disguise() -> None:
    longer = (
        f"{APPLES} Give the number of all apples that lie in the boxes of Ann at the end of the day, as a whole number."
    )
    changed = longer.replace("gives", "hands").replace("buys", "gets")
    assert list(held_by([changed], [longer])) == [0]


def test_other_numbers_are_another_problem_unless_numbers_are_ignored() -> None:
    changed = APPLES.replace("14", "15")
    assert held_by([changed], [APPLES]) == {}
    assert list(held_by([changed], [APPLES], ignore_numbers=True)) == [0]


def test_test_problems_of_one_template_are_told_apart() -> None:
    """Each training problem of the template shares most n-grams with all of them."""
    tests = [APPLES.replace("14", str(100 + k)).replace("20", str(200 + 3 * k)) for k in range(300)]
    texts = [f"Well: {tests[k]}" for k in range(0, 300, 7)] + [APPLES.replace("14", str(500 + k)) for k in range(300)]
    assert held_by(texts, tests) == {row: (7 * row, 1.0) for row in range(43)}
    assert {test for test, _ in held_by(texts, tests, ignore_numbers=True).values()} == {0}
    assert len(held_by(texts, tests, ignore_numbers=True)) == len(texts)


def test_equal_test_problems_count_once() -> None:
    assert held_by([APPLES], [ROOTS, APPLES, APPLES.lower()]) == {0: (1, 1.0)}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_found_is_what_all_pairs_say(seed: int) -> None:
    dice = random.Random(seed)

    def drawn() -> str:
        return " ".join(
            dice.choice(["a", "b", "c", "d", "1", "2", "3", "4", "5", "44", "45"]) for _ in range(dice.randint(1, 14))
        )

    tests = [drawn() for _ in range(60)]
    texts = [drawn() for _ in range(40)] + [f"{drawn()} {dice.choice(tests)} {drawn()}" for _ in range(60)]
    expected = {}
    for row, text in enumerate(texts):
        words, found = text.split(), []
        for number, test in enumerate(tests):
            needed = test.split()
            runs = {tuple(needed[k : k + 8]) for k in range(max(1, len(needed) - 7))}
            own = {tuple(words[k : k + 8]) for k in range(max(1, len(words) - 7))}
            share = len(runs & own) / len(runs)
            numbers = Counter(w for w in needed if w.isdigit()) - Counter(w for w in words if w.isdigit())
            if share > 0.4 and not numbers and test not in tests[:number]:
                found.append((share, -number))
        if found:
            expected[row] = max(found)[0]
    assert {row: pytest.approx(share) for row, (_, share) in held_by(texts, tests).items()} == expected
    assert len(expected) > 10


def test_a_number_that_stands_once_is_not_there_twice() -> None:
    twice = (
        "A rope of 12 metres is cut into pieces of 12 centimetres each; how many pieces of rope are there then in all?"
    )
    assert held_by([twice.replace("12 metres", "some metres")], [twice]) == {}


def test_a_short_test_problem_is_the_whole_training_problem() -> None:
    texts = ["Simplify $\\sqrt{242}$.", "Simplify $\\sqrt{242} + 1$ as far as you can."]
    assert list(held_by(texts, ["simplify \\sqrt{242}"])) == [0]


def test_a_short_question_of_a_choice_is_found_with_its_options() -> None:
    """ "Which of these is true?" would throw away every multiple choice of a file."""
    birds = BenchmarkProblem("b", "b 1", STEM, "Penguins live in the south\nOstriches fly\nEagles swim well")
    texts = [
        f"{STEM} (A) Eagles swim well (B) Penguins live in the south (C) Ostriches fly",
        f"{STEM} (A) Iron is a metal (B) Water boils at noon (C) Stones float on the sea",
        STEM,
    ]
    assert list(held_by(texts, [birds])) == [0]
    assert list(held_by(texts, [birds._replace(text=f"{APPLES} {STEM}")])) == []
    assert list(held_by([f"{APPLES} {STEM}"], [birds._replace(text=f"{APPLES} {STEM}")])) == [0]


def test_nothing_is_held_where_there_is_nothing() -> None:
    assert held_by([APPLES, "", "?!"], []) == held_by([], [APPLES]) == held_by(["", "..."], ["", "..."]) == {}


def config_of(folder: Path, rows: list[dict[str, Any]], *overrides: str) -> DistillConfig:
    filler = [{"instruction": f"What is {k} plus {k + 7}, a filler?", "answer": str(2 * k + 7)} for k in range(30)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + filler))
    return load(None, [f"instructions.path={folder / 'p.jsonl'}", f"run.storage_path={folder}", *overrides])


def with_benchmark(folder: Path, *texts: str) -> str:
    """An override: a benchmark of one's own, "own"."""
    (folder / "b.jsonl").write_text("".join(json.dumps({"instruction": t, "answer": "54"}) + "\n" for t in texts))
    return f"evaluation.benchmarks=[{{name: own, path: {folder / 'b.jsonl'}}}]"


def test_the_prompt_of_a_benchmark_is_no_part_of_its_problems(tmp_path: Path) -> None:
    with_benchmark(tmp_path, APPLES)
    benchmark = BenchmarkConfig(name="own", path=str(tmp_path / "b.jsonl"))
    assert [problem.text for problem in problems_of_benchmark(benchmark)] == [APPLES]


def test_a_training_problem_of_a_benchmark_is_rejected_and_told(tmp_path: Path) -> None:
    rows = [{"instruction": f"Solve this: {APPLES}", "answer": "54"}]
    config = config_of(tmp_path, rows, with_benchmark(tmp_path, APPLES, ROOTS))
    facts = read_problems(config).facts
    assert (facts.rejects, facts.contaminated) == ({"contaminated": 1}, {"own": 1})
    assert re.fullmatch(r"1.00 of the 8-grams of own .*Ann has 3 boxes.*", facts.details["contaminated"])
    assert facts.test_sets["own"] == 2
    assert facts.pairs["contaminated"][0][:2] == (rows[0]["instruction"], APPLES)
    for override in ("coverage=null", "benchmarks=[]"):
        assert not read_problems(config_of(tmp_path, rows, with_benchmark(tmp_path, APPLES), f"instructions.decontamination.{override}")).facts.rejects  # fmt: skip


def test_a_training_problem_that_holds_a_held_out_one_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"instruction": APPLES, "answer": "54"}) + "\n")
    rows = [{"instruction": f"Question: {APPLES} Think first, then answer with a number.", "answer": "54"}]
    facts = read_problems(config_of(tmp_path, rows, f"instructions.eval_path={tmp_path / 'eval.jsonl'}", "instructions.near_duplicates=null")).facts  # fmt: skip
    assert (facts.rejects, facts.contaminated) == ({"contaminated": 1}, {"held-out": 1})


def test_a_copy_of_a_contaminated_problem_keeps_its_own_reason(tmp_path: Path) -> None:
    rows = [{"instruction": f"{name} asks: {APPLES}", "answer": "54"} for name in ("Rosa", "Sven")]
    problems = read_problems(config_of(tmp_path, rows, with_benchmark(tmp_path, APPLES)))
    assert (problems.facts.rejects, problems.facts.contaminated) == (
        {"contaminated": 1, "near_duplicate": 1},
        {"own": 1},
    )


def test_contaminated_problems_do_not_count_in_num_train(tmp_path: Path) -> None:
    rows = [{"instruction": APPLES, "answer": "54"}, {"instruction": ROOTS, "answer": "5"}]
    facts = read_problems(
        config_of(tmp_path, rows, with_benchmark(tmp_path, APPLES), "instructions.num_train=10")
    ).facts
    assert (facts.usable["train"], facts.rejects["contaminated"]) == (10, 1)


def test_a_file_of_test_problems_leaves_nothing_and_is_told(tmp_path: Path) -> None:
    texts = [APPLES.replace("14", str(100 + k)) for k in range(40)]
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"instruction": t, "answer": k}) + "\n" for k, t in enumerate(texts))
    )
    override = with_benchmark(tmp_path, *texts)
    config = load(None, [f"instructions.path={tmp_path / 'p.jsonl'}", override])
    with pytest.raises(UserError, match="leaves no instruction to train on: 36 of 40 records are contaminated"):
        read_problems(config)


def test_mostly_contaminated_problems_are_told_with_pairs(tmp_path: Path) -> None:
    texts = [APPLES.replace("14", str(100 + k)) for k in range(60)]
    config = config_of(tmp_path, [{"instruction": t, "answer": "1"} for t in texts], with_benchmark(tmp_path, *texts))
    (found,) = collecting.mostly_alike(read_problems(config).facts)
    assert not found.is_error
    assert re.match(r"instructions.path: \d\d training problems hold a test problem and are left out, \d\d are left; the "
                    r"first: 'Ann has 3 boxes of 1\d\d apples.* beside 'Ann has 3", str(found))  # fmt: skip


def test_a_name_that_nothing_answers_to_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"instructions.decontamination.benchmarks: 'math50' .*did you mean 'math500'"
    ):
        config_of(tmp_path, [], "instructions.decontamination.benchmarks=[math50]")
    for text in ("coverage=70", "coverage=0", "coverage=1"):
        with pytest.raises(ConfigError, match="instructions.decontamination.coverage"):
            config_of(tmp_path, [], f"instructions.decontamination.{text}")
    with pytest.raises(ConfigError, match="instructions.near_duplicates"):
        config_of(tmp_path, [], "instructions.near_duplicates=70")
    own = with_benchmark(tmp_path, APPLES)
    config = config_of(tmp_path, [], own, "instructions.decontamination.benchmarks=[own, gsm8k]")
    assert [benchmark.name for benchmark in config.test_sets] == ["own", "gsm8k"]


def test_a_benchmark_that_is_not_there_is_told_and_a_plan_counts_without_it(tmp_path: Path) -> None:
    rows = [{"instruction": APPLES, "answer": "54"}]
    override = with_benchmark(tmp_path, APPLES)
    config = config_of(tmp_path, rows, override)
    assert plan.make(config).problems.facts.rejects == {"contaminated": 1}  # type: ignore[union-attr]
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError, match="b.jsonl"):
        read_problems(config)
    planned = plan.make(config)
    assert planned.problems is not None
    assert not planned.problems.facts.rejects
    assert [remark for remark in planned.remarks if "b.jsonl' not there yet: problems that hold one of its" in remark]


def test_what_of_a_benchmark_remakes_the_problems(tmp_path: Path) -> None:
    """Its problems do; how they are asked does not."""
    override = with_benchmark(tmp_path, APPLES)

    def values(more: str = "") -> dict[str, Any]:
        return instructions.settings_of(config_of(tmp_path, [], override.replace("}]", f"{more}}}]"))).values

    before = values()
    for how in ("num_samples: 3", "limit: 7", "sampling_params: {temperature: 0.1}", "num_problems: 3"):
        assert values(f", {how}") == before
    for which in ("keep: {instruction: apples}", "columns: {instruction: question}"):
        assert values(f", {which}") != before
    with_benchmark(tmp_path, APPLES, ROOTS)
    assert values() != before


def test_problems_of_an_earlier_version_stay_until_a_key_is_set(tmp_path: Path) -> None:
    """They were made without looking for near-duplicates and test problems."""
    config = config_of(tmp_path, [])
    settings = instructions.settings_of(config)
    assert settings.earlier is not None
    assert settings.values == settings.earlier.values | {
        "near_duplicates": 0.7,
        "decontamination": {"coverage": 0.4, "ignore_numbers": False, "benchmarks": {}},
    }
    off = ["instructions.near_duplicates=null", "instructions.decontamination.coverage=null"]
    assert instructions.settings_of(config_of(tmp_path, [], *off)).values == settings.earlier.values
    assert instructions.settings_of(config_of(tmp_path, [], "instructions.near_duplicates=0.6")).earlier is None


def test_problems_with_paid_texts_are_not_left_out_unasked(tmp_path: Path) -> None:
    rows = [{"instruction": f"Solve this: {APPLES}", "answer": "54"}]
    config = config_of(tmp_path, rows)
    run = Run(config, {}, Display(Console(file=io.StringIO())))
    problems = make_instructions(run, read_problems(config))
    ids = [row["instruction_id"] for row in problems.read_table().to_pylist()]
    responses = [{"response_id": row_id, "instruction_id": row_id} for row_id in ids]
    (config.run_folder / "responses").write_table("part-1.parquet", pa.Table.from_pylist(responses))

    more = config_of(tmp_path, rows, with_benchmark(tmp_path, APPLES))
    with pytest.raises(UserError, match=r"1 problems with texts that were paid for .* a problem of own, and would be left "
                                        r"out \(instructions.near_duplicates, instructions.decontamination"):  # fmt: skip
        make_instructions(Run(more, {}, run.display), read_problems(more))
    kept_as_they_are = config_of(
        tmp_path, rows, with_benchmark(tmp_path, APPLES), "instructions.decontamination.benchmarks=[]"
    )
    assert isinstance(read_problems(kept_as_they_are), StoredProblems)
    agreed = config_of(tmp_path, rows, with_benchmark(tmp_path, APPLES), "run.remake=true")
    made = make_instructions(Run(agreed, {}, run.display), read_problems(agreed))
    manifest = made.manifest()
    assert manifest is not None
    assert manifest.rejects == {"contaminated": 1}
    assert manifest.summary["contaminated"] == {"own": 1}
    assert read_problems(agreed).facts.pairs["contaminated"][0].like == APPLES
