"""Gates and scorers of a user's own: named by an import path, known by their source, refused before anything is paid for."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.checks import preflight
from ray_distil.config import DistillConfig, load
from ray_distil.config.models import resolve_models
from ray_distil.errors import ConfigError, UserError
from ray_distil.evaluation import scores
from ray_distil.generate import own_backend
from ray_distil.judge import scorers
from ray_distil.judge.gates import GATES, first_reason
from ray_distil.runner.runs import Run
from ray_distil.runtime import user_code
from tests.remakes import of_responses

POLITE = "examples.my_gates:polite"
PERCENT = "examples.my_scorers:within_a_percent"
PENS = 'def no_pens(row):\n    return "pens" if "pens" in row["response"] else None\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a command starts, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # it would serve for a later source of the same size and second
    user_code.imported.cache_clear()
    (tmp_path / "pen_gates.py").write_text(PENS)
    yield tmp_path
    sys.modules.pop("pen_gates", None)
    user_code.imported.cache_clear()


def import_anew() -> None:
    """As another process would."""
    sys.modules.pop("pen_gates", None)
    user_code.imported.cache_clear()


def config(*overrides: str) -> DistillConfig:
    return load(None, [*overrides])


def test_the_examples_do_what_they_say() -> None:
    row = {"response": "Certainly! 5", "reasoning": "", "finish_reason": "stop", "answer": "5", "reference_answer": "5"}
    assert first_reason(row, [*GATES, POLITE]) == "talks_to_the_reader"
    assert first_reason(row | {"response": "It is 5."}, [*GATES, POLITE]) is None
    answer = {"response": "About 1,003.", "reference_answer": "1000", "complete": True}
    judged = scorers.judged(answer, PERCENT)
    assert (judged["correct"], judged["scored_by"]) == (True, user_code.mark(PERCENT))
    assert scorers.judged(answer | {"response": "900"}, PERCENT)["correct"] is False
    assert scorers.judged(answer | {"complete": False}, PERCENT)["correct"] is False
    assert scorers.judged(answer | {"reference_answer": None}, PERCENT)["correct"] is None


def test_a_module_in_the_folder_of_the_command_is_a_gate_after_the_others(here: Path) -> None:
    chosen = config("gates.custom=[pen_gates:no_pens]", "gates.correct=false")
    assert chosen.gates.enabled == [*(name for name in GATES if name != "correct"), "pen_gates:no_pens"]
    row = {"response": "5 pens", "finish_reason": "length", "answer": "5", "reference_answer": None}
    assert first_reason(row, chosen.gates.enabled) == "incomplete"
    assert first_reason(row | {"finish_reason": "stop"}, chosen.gates.enabled) == "pens"


def test_another_source_is_another_gate(here: Path) -> None:
    before = config("gates.custom=[pen_gates:no_pens]").gates.marks
    assert before[:-1] == config().gates.marks
    (here / "pen_gates.py").write_text(PENS.replace('"pens"', '"pencils"'))
    with pytest.raises(UserError, match="pen_gates.py has changed since it was imported; start this program again"):
        _ = config("gates.custom=[pen_gates:no_pens]").gates.marks
    import_anew()
    assert config("gates.custom=[pen_gates:no_pens]").gates.marks != before


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("absent_gates:no_pens", "'absent_gates' cannot be imported .*must be installed, or lie in the folder"),
        ("pen_gates:no_pencils", "'pen_gates' has no function 'no_pencils'"),
    ],
)
def test_what_cannot_be_imported_is_refused_before_anything_is_paid_for(here: Path, path: str, says: str) -> None:
    chosen = config(f"gates.custom=[{path}]")
    with pytest.raises(ConfigError, match=rf"gates\.custom: {path}: {says}"):
        preflight.check(chosen, resolve_models(chosen))


def test_what_is_no_import_path_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"gates\.custom\.0: 'no_pens' is no import path; give package.module:function"
    ):
        config("gates.custom=[no_pens]")


@pytest.mark.parametrize("value", ["True", "''", "5"])
def test_a_gate_that_returns_no_reason_is_told_by_name(here: Path, value: str) -> None:
    (here / "pen_gates.py").write_text(f"def no_pens(row):\n    return {value}\n")
    row: dict[str, Any] = {"response": "5", "finish_reason": "stop", "answer": "5", "reference_answer": None}
    with pytest.raises(UserError, match=f"pen_gates:no_pens returned {value}; a gate returns a reason"):
        first_reason(row, ["pen_gates:no_pens"])


def test_an_engine_of_ones_own_marks_its_texts_by_its_source_model_and_arguments(here: Path) -> None:
    def marks(kwargs: str = "{}", model: str = "m") -> Any:
        backend = f"{{build: pen_gates:no_pens, model: {model}, kwargs: {kwargs}}}"
        words = [f"run.storage_path={here}", "teachers.slow.engine=null", f"teachers.slow.backend={backend}"]
        return of_responses(Run(chosen := config(*words), resolve_models(chosen))).marks["slow"][0]

    before = marks()
    assert len({before, marks("{a: 1}"), marks(model="n")}) == 3
    assert marks() == before
    (here / "pen_gates.py").write_text(PENS + "\n")
    import_anew()
    assert marks() != before


def test_a_teacher_has_one_of_the_four_ways() -> None:
    with pytest.raises(
        ConfigError, match=r"needs one of `engine`, `endpoint`, `backend` and `responses`, not engine and"
    ):
        config("teachers.slow.backend={build: a:b, model: m}")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "def no_pens(row):\n    return row['resonse']\n",
            "pen_gates:no_pens raised KeyError: 'resonse' .pen_gates.py:2.",
        ),
        ("def no_pens(row):\n    row['response'] = ''\n", "pen_gates:no_pens raised TypeError: .*assignment"),
        ("def no_pens(row):\n    return 'incomplete'\n", "which is the reason of the gate complete"),
        ("def no_pens(row):\n    return ['pens']\n", "returned \\['pens'\\]; a gate returns a reason"),
    ],
)
def test_a_gate_that_fails_is_told_by_name(here: Path, source: str, says: str) -> None:
    (here / "pen_gates.py").write_text(source)
    with pytest.raises(UserError, match=says):
        first_reason({"response": "5"}, ["pen_gates:no_pens"])


def test_gates_and_scorers_that_cannot_be_called_are_refused_before_anything_is_paid_for(here: Path) -> None:
    (here / "pen_gates.py").write_text("def two(row, x):\n    return None\ndef one(response):\n    return True\n")
    import_anew()
    wrong = {
        "gates.custom=[pen_gates:two]": "gates.custom: pen_gates:two is called with row: missing a required argument: 'x'",
        "evaluation.benchmarks=[{name: mine, path: mine.jsonl, scorer: 'pen_gates:one'}]": "is called with response and reference",
    }
    for override, says in wrong.items():
        findings = list(preflight._user_code(config(override)))
        assert any(says in f"{finding.key}: {finding.text}" for finding in findings), findings


def test_the_engine_of_the_page_runs_as_it_stands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doors.md").read_text()
    block = page.split("## An engine")[1].split("    from ray.data", 1)[1].split("| columns |")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent("    from ray.data" + block), names)
    model, batch = (
        names["Model"]("m"),
        {"id": ["0", "1"], "carried": ["{}", "{}"], "messages": [], "sampling_params": []},
    )
    rows = own_backend.unpack(pa.table(model(batch)), "page:build").to_pylist()
    assert [row["id"] for row in rows] == ["0", "1"]
    assert callable(names["build"](2, folder="m"))


def test_a_scorer_reads_all_references_before_a_model_is_asked(here: Path) -> None:
    (here / "pen_gates.py").write_text("def near(response, reference):\n    return float(reference) == 5\n")
    scorers.check_scorer("pen_gates:near", ["5", None, "7"])
    with pytest.raises(UserError, match="pen_gates:near raised ValueError: could not convert string to float: '1/2'"):
        scorers.check_scorer("pen_gates:near", ["5", "1/2"])
    scorers.check_scorer("math", ["1/2"])


def test_figures_of_stated_answers_are_not_known_where_a_scorer_judges_texts() -> None:
    columns = {"instruction_id": ["a", "a"], "correct": [True, True], "complete": [True, True], "answer": [None, None]}
    columns |= {"num_generated_tokens": [3, 3], "num_thinking_tokens": [0, 0], "category": [None, None]}
    by_text = scores.summary(scores.with_rejected(pa.table(columns | {"scored_by": ["m:f@1", "m:f@1"]}), []))
    assert (by_text["accuracy"], by_text["majority"], by_text["no_answer_rate"]) == (1.0, None, None)
    by_answer = scores.summary(scores.with_rejected(pa.table(columns | {"scored_by": ["math 1", "math 1"]}), []))
    assert (by_answer["majority"], by_answer["no_answer_rate"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ("{api_key: abc}", "'api_key' is the name of a secret"),
        ("{day: 2026-01-01}", "they must have a form in JSON"),
        ("{value: .nan}", "they must have a form in JSON"),
    ],
)
def test_arguments_of_an_engine_that_cannot_be_written_are_refused(kwargs: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config("teachers.slow.engine=null", f"teachers.slow.backend={{build: a:b, model: m, kwargs: {kwargs}}}")


def test_arguments_that_the_function_does_not_take_are_refused(here: Path) -> None:
    words = ["teachers.slow.engine=null", "teachers.slow.backend={build: pen_gates:no_pens, model: m, kwargs: {b: 1}}"]
    chosen = config(*words)
    with pytest.raises(
        ConfigError, match=r"teachers\.slow\.backend\.kwargs: pen_gates:no_pens is called with num_rows and"
    ):
        preflight.check(chosen, resolve_models(chosen))


ADDED_VALUES = {"generated_text": "t", "finish_reason": "stop", "num_prompt_tokens": 1, "num_generated_tokens": 1}
ADDED_VALUES |= {"num_thinking_tokens": 0, "error": ""}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"finish_reason": "eos"}, "the finish_reason 'eos'"),
        ({"num_generated_tokens": None}, "whose 'num_generated_tokens' is null"),
        ({"num_generated_tokens": 1.5}, "values of other types"),
        ({"generated_text": ["t"]}, "values of other types"),
        ({"finish_reason": "error"}, "without an `error`"),
        ({"error": "timeout: late"}, "the other way round"),
    ],
)
def test_rows_of_an_engine_keep_the_contract(change: dict[str, Any], says: str) -> None:
    table = own_backend.pack(
        pa.Table.from_pylist([{"id": "a", "messages": [], "sampling_params": {"x": 1}, "n": None}])
    )
    rows = [row | ADDED_VALUES for row in table.select(["id", "carried"]).to_pylist()]
    (row,) = own_backend.unpack(pa.Table.from_pylist(rows), "m:f").to_pylist()
    assert row == {"id": "a", "n": None} | ADDED_VALUES
    with pytest.raises(UserError, match=f"m:f gives .*{says}"):
        own_backend.unpack(pa.Table.from_pylist([rows[0] | change]), "m:f")


IN_A_WORKER = """
import ray
from ray_distil.runtime.session import start_ray
from ray_distil.judge.gates import first_reason
from ray_distil.judge.scorers import judged

start_ray(1)
row = {"response": "5 pens", "finish_reason": "stop", "answer": "5", "reference_answer": None}
print(ray.get(ray.remote(first_reason).remote(row, ["pen_gates:no_pens"])))
answer = {"response": "5 pens", "reference_answer": "5", "complete": True}
print(ray.get(ray.remote(judged).remote(answer, "pen_gates:has_pens"))["correct"])
"""


def test_they_work_in_a_ray_worker(here: Path) -> None:
    """In the folder of the command, which no path of Python's names."""
    (here / "pen_gates.py").write_text(PENS + "def has_pens(response, reference):\n    return 'pens' in response\n")
    (here / "script").mkdir()
    (here / "script" / "run.py").write_text(IN_A_WORKER)
    result = subprocess.run([sys.executable, "script/run.py"], cwd=here, capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == ["pens", "True"], result.stderr[-2000:]
