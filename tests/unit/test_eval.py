"""Models on benchmarks: what is asked anew, what stays, and odd models and problems told as they are. Without Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil import stages
from ray_distil.config import StagesConfig
from ray_distil.config.models import resolve_models
from ray_distil.config.section import validate
from ray_distil.generate.generator import Generator
from ray_distil.judge import scorers
from ray_distil.report import report
from ray_distil.runner.runs import Run
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import EVAL, RESPONSES
from ray_distil.store.shards import table_of, write_block
from ray_distil.store.storage import Folder
from tests.unit.test_reuse import Rows, written

Row = dict[str, Any]


def said(text: str = "", finish: str = "stop", error: str = "", tokens: int = 5) -> Row:
    known = {"num_prompt_tokens": 9, "num_generated_tokens": tokens, "num_thinking_tokens": 0}
    return {"generated_text": text, "finish_reason": finish, "error": error} | known


class World:
    """Two benchmarks of five problems, two models, and what was asked. `answer`: how a row is answered."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, list[Row]()
        self.answer: Callable[[Row], Row] = lambda row: said(f"\\boxed{{{row['reference_answer']}}}")
        monkeypatch.setattr(Generator, "generate", lambda generator, num_rows: self.generate)
        monkeypatch.setattr(Artifact, "read", lambda artifact, columns=None: Rows(artifact.read_table().to_pylist()))
        monkeypatch.setattr(Artifact, "written", written)
        monkeypatch.setattr(Run, "start_ray", lambda run, imports=(): None)
        # Each takes seconds; test_report.py looks at them.
        monkeypatch.setattr("ray_distil.report.pictures.pictures", lambda *_: [])
        self.write("sums", [{"instruction": f"{k} + 3?", "answer": str(k + 3)} for k in range(5)])
        words = [{"instruction": f"Which {k}?", "choices": ["x", "y", "z"], "answer": "yxzxy"[k]} for k in range(5)]
        self.write("words", [row | {"category": "odd" if k % 2 else "even"} for k, row in enumerate(words)])

    def write(self, name: str, rows: list[Row]) -> None:
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def generate(self, rows: Rows) -> Rows:
        self.asked += rows.rows
        kept = [{k: v for k, v in row.items() if k not in ("messages", "sampling_params")} for row in rows.rows]
        return Rows([own | self.answer(row) for own, row in zip(kept, rows.rows, strict=True)])

    def run(self, *names: str, **changes: Any) -> list[Row]:
        """The models of the report; `asked` are the requests that this run made."""
        self.asked.clear()
        kinds = {"sums": "integer", "words": "choice"}
        given = [
            {"name": n, "path": str(self.folder / f"{n}.jsonl"), "answer": kinds.get(n, "math")} | changes.get(n, {})
            for n in names
        ]
        config = validate(StagesConfig, {
            "run": {"name": "r", "storage_path": str(self.folder / "runs")},
            "evaluation": {
                "engine": {"model_source": "tiny:student-slow"},
                "models": [{"name": n, "model_source": f"tiny:student-{n}"} for n in ("base", "slow")],
                "benchmarks": given,
                "baseline": "slow",
                "num_samples": changes.get("num_samples", 1),
                "num_timed": changes.get("num_timed", 0),
            },
        })  # fmt: skip
        run = Run(config, resolve_models(config))
        run.folder.write_text("config.yaml", config.to_yaml())
        benchmarks = stages.make_benchmarks(run)
        stages.make_given_evaluations(run, benchmarks)
        stages.make_timings(run, benchmarks)
        return report.build(run.folder).models

    def rows(self, name: str) -> dict[str, Row]:
        folder = Folder.at(self.folder / "runs" / "r" / "eval" / name)
        tables = [folder.read_table(file) for file in folder.files("part-", ".parquet")]
        return {row["eval_id"]: row for table in tables for row in table.to_pylist()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_each_model_answers_each_benchmark(world: World) -> None:
    models = world.run("sums", "words")
    assert [(m["name"], m["benchmark"]) for m in models] == [
        ("base", "sums"), ("slow", "sums"), ("base", "words"), ("slow", "words")
    ]  # fmt: skip
    assert {m["accuracy"] for m in models} == {1.0}
    assert {row["scored_by"] for row in world.rows("slow/words").values()} == {f"choice {scorers.VERSION}"}
    assert models[3]["categories"]["odd"]["num_problems"] == 2
    assert models[3]["categories"]["even"]["accuracy"] == 1.0
    asked = next(row["messages"] for row in world.asked if row["benchmark"] == "words")
    assert "\n\nA. " in asked[-1]["content"]
    assert asked[-1]["content"].endswith("put only the letter of your answer within \\boxed{}.")


def test_samples_are_drawn_as_declared_each_by_a_seed_of_its_own(world: World) -> None:
    """evalchemy samples greedily beside a temperature of 0.7, so that its repeats are one answer."""
    world.run("sums", sums={"num_samples": 3, "sampling_params": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 99}})
    asked = [row["sampling_params"] for row in world.asked]
    assert {(one["temperature"], one["top_p"], one["max_tokens"]) for one in asked} == {(0.6, 0.95, 99)}
    assert len({one["seed"] for one in asked}) == len(asked) == 2 * 5 * 3


def test_another_benchmark_and_more_samples_leave_the_rest(world: World) -> None:
    world.run("sums")
    assert len(world.asked) == 10
    before = world.rows("slow/sums")
    world.run("sums", "words")
    assert {row["benchmark"] for row in world.asked} == {"words"}
    world.run("sums", "words", sums={"num_samples": 3})
    assert {row["benchmark"] for row in world.asked} == {"sums"}
    assert len(world.asked) == 2 * 5 * 2
    assert world.rows("slow/sums").items() >= before.items()
    world.run("sums", "words", sums={"num_samples": 3})
    assert world.asked == []


def test_a_limit_that_grows_asks_for_the_others_alone(world: World) -> None:
    (first, *_) = world.run("words", words={"limit": 2})
    assert first["num_problems"] == 2
    world.run("words")
    assert len(world.asked) == 2 * 3


def test_another_scorer_judges_what_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.answer = lambda row: said("Answer 5, I say")
    assert world.run("sums")[0]["accuracy"] == 0
    monkeypatch.setattr(scorers, "VERSION", scorers.VERSION + 1)
    monkeypatch.setattr(scorers, "extract_answer", lambda text: text.split()[1].strip(","))
    models = world.run("sums")
    assert world.asked == []
    assert models[0]["accuracy"] == 0.2
    assert {row["scored_by"] for row in world.rows("base/sums").values()} == {f"integer {scorers.VERSION}"}


def test_another_reference_is_judged_anew_without_asking(world: World) -> None:
    world.run("sums")
    world.write("sums", [{"instruction": f"{k} + 3?", "answer": "7"} for k in range(5)])
    assert world.run("sums")[0]["accuracy"] == 0.2
    assert world.asked == []


def test_the_same_again_has_the_same_figures(world: World) -> None:
    world.answer = lambda row: said(f"\\boxed{{{row['id'][:1]}}}", tokens=int(row["id"][:2], 16) + 1)
    given = {"num_samples": 4}
    first = world.run("sums", "words", **given)
    assert world.run("sums", "words", **given) == first
    for file in (world.folder / "runs" / "r" / "eval" / "slow" / "words").glob("*"):
        file.unlink()
    assert world.run("sums", "words", **given) == first
    assert {(row["model_name"], row["benchmark"]) for row in world.asked} == {("slow", "words")}


def test_problems_are_timed_alone_the_same_ones_for_each_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.data.from_items", Rows)
    right = world.answer
    alone = {"base": 0.5, "slow": 2.0}
    world.answer = lambda row: right(row) | {"seconds": alone[row["model_name"]], "finished_at": 100.0, "tokens": 5}
    base, slow = world.run("sums", num_timed=3)
    timed = world.asked[-6:]
    assert [row["model_name"] for row in timed] == ["base"] * 3 + ["slow"] * 3
    assert {row["instruction_id"] for row in timed[:3]} == {row["instruction_id"] for row in timed[3:]}
    assert len(world.asked) == 2 * 5 + 6
    assert (slow["seconds"], slow["num_timed"], slow["seconds_gain"]) == (2.0, 3, 1.0)
    assert (base["seconds"], base["seconds_gain"], base["tokens_per_s"]) == (0.5, 4.0, 50.0)
    page = (world.folder / "runs" / "r" / "report" / "report.md").read_text()
    assert "| base | 0.50 | 4.0x | 1.0x | 50 | 3 |" in page
    world.run("sums", num_timed=3)
    assert world.asked == []
    world.run("sums", num_timed=4)
    assert len(world.asked) == 8, "the answers are there, and only times are measured again"


def test_without_times_nothing_is_said_of_them(world: World) -> None:
    assert world.run("sums")[0]["tokens_per_s"] is None
    assert "Speed" not in (world.folder / "runs" / "r" / "report" / "report.md").read_text().replace("Speed gain", "")


def test_a_model_that_never_stops(world: World) -> None:
    world.answer = lambda row: said("Answer: C. Wait, ", "length", tokens=600)
    model = world.run("words")[0]
    assert (model["accuracy"], model["completion_rate"], model["mean_tokens"]) == (0, 0, 600)
    assert (model["tokens_of_cut"], model["tokens_per_correct"], model["tokens_of_right"]) == (600, None, None)
    assert model["accuracy_interval"][1] > 0


def test_a_model_that_says_nothing(world: World) -> None:
    world.answer = lambda row: said("", tokens=1)
    model = world.run("words", num_samples=2)[0]
    assert (model["accuracy"], model["no_answer_rate"], model["majority"], model["pass_at"]["2"]) == (0, 1, 0, 0)
    assert model["categories"]["odd"]["accuracy"] == 0


def test_tokens_that_nobody_counts_are_not_known(world: World) -> None:
    right = world.answer
    world.answer = lambda row: right(row) | {"num_generated_tokens": 0, "num_prompt_tokens": 0}
    model = world.run("sums")[1]
    assert (model["accuracy"], model["mean_tokens"], model["speed_gain"]) == (1, None, None)
    assert (model["no_answer_rate"], model["tokens_per_correct"]) == (0, None)


def test_a_problem_longer_than_the_context_counts_as_wrong(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    right = world.answer
    world.answer = lambda row: (
        said(error="prompt_too_long: 9") if row["instruction"].startswith("Which 3") else right(row)
    )
    model = world.run("words")[0]
    assert (model["accuracy"], model["completion_rate"], model["num_problems"], model["num_rejected"]) == (
        0.8,
        0.8,
        5,
        1,
    )
    assert model["categories"]["odd"]["accuracy"] == 0.5
    monkeypatch.setattr(scorers, "VERSION", scorers.VERSION + 1)
    assert world.run("words")[0] == model | {"scored_by": f"choice {scorers.VERSION}"}
    assert world.asked == [], "it does not fit under another scorer either"
    world.answer = lambda row: said(error="prompt_too_long: 9")
    model = world.run("sums")[0]
    assert (model["accuracy"], model["mean_tokens"], model["no_answer_rate"]) == (0, None, None)


def test_an_empty_benchmark(world: World) -> None:
    world.write("none", [])
    models = world.run("none", "sums")
    assert world.asked[0]["benchmark"] == "sums"
    figures = {k: models[0][k] for k in ("num_problems", "accuracy", "accuracy_interval", "mean_tokens", "majority")}
    assert figures == {
        "num_problems": 0,
        "accuracy": None,
        "accuracy_interval": None,
        "mean_tokens": None,
        "majority": None,
    }
    assert models[0]["speed_gain"] is None
    page = (world.folder / "runs" / "r" / "report" / "report.html").read_text()
    assert "nan" not in page.lower().replace("nano", "")


@pytest.mark.parametrize(("schema", "failed"), [(EVAL, 1), (RESPONSES, 3)])
def test_what_is_a_finding_of_an_evaluation_ends_no_stage(schema: pa.Schema, failed: int, tmp_path: Path) -> None:
    """A cut answer and a problem that does not fit are; a row on which the engine dies is not."""
    blank = {f.name: {"string": "x", "bool": False, "int32": 1, "double": 1.0}[str(f.type)] for f in schema}
    lost = [
        {schema.names[0]: n, "reject_reason": why, "reject_detail": ""}
        for n, why in (("b", "prompt_too_long"), ("c", "kills_engine"))
    ]
    rows = [blank | {"finish_reason": "length"}, *lost]
    folder = Folder.at(tmp_path)
    folder.write_text("_attempt", "me")
    counts = write_block(table_of(rows, schema), folder, schema, "stage", "me").to_pylist()[0]
    assert (counts["num_tried"], counts["num_failed"]) == (3, failed)
