"""An ablation: its runs, what is copied into them, and its table, from answers that are there. Without Ray."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.commands import ablate as ablation
from ray_distil.config import DistillConfig, load
from ray_distil.errors import UserError
from ray_distil.evaluation import scores
from ray_distil.report import ablation as table
from ray_distil.report import kept_out, report
from ray_distil.runtime.progress import Display
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import Manifest, write_manifest
from ray_distil.store.schemas import EVAL, RESPONSES, stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder

PROBLEMS = 20


@pytest.fixture
def config(tmp_path: Path) -> DistillConfig:
    return load(None, [f"run.storage_path={tmp_path}", "run.name=r", "run.seed=7"])


def finished(run: Folder, name: str, schema: pa.Schema, mark: str, rows: list[dict[str, Any]]) -> None:
    made = Artifact(run, name, schema, mark)
    if made.is_complete():
        return
    made.start()
    made.write_table(table_of(rows, schema), "stage")
    made.finish("stage", "rows", len(rows), 1.0, lambda: summary(made) if schema is EVAL else {})


def summary(answers: Artifact) -> dict[str, Any]:
    return scores.summarise(answers.read_table(), answers.rejected(), "fast", "tiny")


class Pipeline:
    """In the place of `pipeline.run`: what runs were made, with what in them, and answers whose accuracy is known."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.there: dict[str, list[str]] = {}
        self.mark, self.num_steps = "one", 9
        self.max_steps: dict[str, int | None] = {}
        self.wrong = {"r-without-correct-seed-0": 8, "r-without-correct-seed-1": 10, "r-seed-1": 2}
        monkeypatch.setattr("ray_distil.commands.pipeline.run", self.run)

    def run(self, config: DistillConfig, display: Display) -> None:
        run, name = config.run_folder, config.run.name
        self.made.append(name)
        self.there[name] = sorted({f.split("/")[0] for f in run.files(recursive=True) if "/" in f})
        finished(run, "responses", RESPONSES, self.mark, [])
        packed = Manifest("packed", "packed", "f", "examples", 9, 7, 2, {"too_long": 2}, 1.0, [])
        write_manifest(run / "packed", packed)
        self.max_steps[name] = config.training.max_steps
        trained = Manifest("checkpoint", "checkpoint", "t", "x", 1, 1, 0, {}, 1.0, [], {"num_steps": self.num_steps})
        write_manifest(run / "checkpoint", trained)
        run.write_text("config.yaml", config.to_yaml())
        rows = []
        for k in range(PROBLEMS):
            row = {"eval_id": stable_id(name, k), "model": "fast", "benchmark": "tiny", "instruction_id": f"p{k}"}
            row |= {"instruction": "?", "reference_answer": "1", "sample_index": 0, "response": "1", "answer": "1"}
            row |= {"correct": k >= self.wrong.get(name, 0), "complete": True, "scored_by": "math 1"}
            rows.append(row | {"num_generated_tokens": 100 if "long2short" in name else 50})
        if "long2short" in name:
            rows[0] = reject(rows[0], "prompt_too_long")
        finished(run, "eval/fast/tiny", EVAL, "e", rows)


def test_each_variant_changes_one_thing_and_trains_from_the_same_seeds(config: DistillConfig) -> None:
    assert ablation.choices(config) == [
        "complete",
        "answered",
        "correct",
        "reasoned",
        "shorter",
        "long2short",
        "rewrites",
    ]
    assert ablation.variant(config, "", 0) is config
    other = ablation.variant(config, "", 1)
    assert (other.run.name, other.training_seed, other.run.seed, other.gates) == ("r-seed-1", 8, 7, config.gates)
    assert [model.name for model in other.evaluation.models] == [other.evaluation.baseline] == ["fast"]
    without = ablation.variant(config, "correct", 0)
    assert (without.run.name, without.training_seed) == ("r-without-correct-seed-0", 7)
    assert without.gates.model_dump() == config.gates.model_dump() | {"correct": False}
    assert without.long2short == config.long2short
    both = ablation.variant(config, "correct+long2short", 0)
    assert (both.run.name, both.long2short.enabled) == ("r-without-correct-long2short-seed-0", False)
    assert both.gates == without.gates
    direct = ablation.variant(config, "rewrites", 0)
    assert (direct.candidates, direct.long2short, direct.gates) == (["direct"], config.long2short, config.gates)
    slow = ablation.variant(config, "long2short", 2)
    assert slow.candidates == ["direct", "slow"]
    assert (slow.long2short.enabled, slow.gates, slow.training_seed) == (False, config.gates, 9)


@pytest.mark.parametrize(("candidates", "offered"), [("[rewrite]", False), ("[slow, rewrite]", True), ("null", True)])
def test_rewrites_are_left_out_only_where_other_texts_are_left(candidates: str, offered: bool) -> None:
    config = load(None, [f"curation.candidates={candidates}"])
    assert ("rewrites" in ablation.choices(config)) is offered
    if offered:
        assert ablation.variant(config, "rewrites", 0).candidates == [
            one for one in config.candidates if one != "rewrite"
        ]


def test_a_variant_that_an_earlier_version_has_trained_stays(
    config: DistillConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Pipeline(monkeypatch)
    variant = ablation.variant(config, "rewrites", 0).run_folder
    before = {"settings": {"num_train_epochs": 3}, "inputs": []}
    (variant / "checkpoint").write_text("_made_of.json", json.dumps(before))
    (config.run_folder).write_text("models.json", '{"org/name": "abc"}')
    ablation.run(config, ["rewrites"], 2, Display())
    assert made.max_steps["r-without-rewrites-seed-0"] is None
    assert made.max_steps["r-without-rewrites-seed-1"] == 9
    assert variant.read_text("models.json") == '{"org/name": "abc"}'


def test_without_another_text_nothing_can_be_left_out(config: DistillConfig) -> None:
    alone = config.model_copy(update={"teachers": config.teachers.model_copy(update={"direct": None})})
    assert ablation.choices(alone)[-2:] == ["shorter", "long2short"]
    off = config.model_copy(update={"long2short": config.long2short.model_copy(update={"enabled": False})})
    assert ablation.choices(off)[-1] == "shorter"


def test_each_variant_is_trained_for_as_many_steps_as_the_full_run(
    config: DistillConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Pipeline(monkeypatch)
    made.num_steps = 77
    ablation.run(config, ["rewrites"], 2, Display())
    assert made.max_steps == {
        "r": None,
        "r-seed-1": None,
        "r-without-rewrites-seed-0": 77,
        "r-without-rewrites-seed-1": 77,
    }


def test_what_a_run_has_is_copied_once_and_the_variants_are_compared(
    config: DistillConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Pipeline(monkeypatch)
    told = ablation.run(config, ["correct", "long2short"], 2, Display()).ablation
    names = ["r", "r-seed-1"] + [f"r-without-{name}-seed-{k}" for name in ("correct", "long2short") for k in (0, 1)]
    assert made.made == names
    assert made.there["r"] == []
    for name in names[1:]:  # of another seed, the packed sequences too
        assert made.there[name] == (["responses"] if name.endswith("seed-0") else ["packed", "responses"])

    assert told is not None
    as_it_is, correct, rewriting = told["variants"]
    assert as_it_is["by_seed"] == [1.0, 0.9]
    assert as_it_is["accuracy"] == pytest.approx(0.95)
    assert as_it_is["accuracy_beside_all"] is None
    assert correct["by_seed"] == [0.6, 0.5]
    assert correct["accuracy_beside_all"]["difference"] == pytest.approx(-0.4)
    assert correct["accuracy_beside_all"]["interval"][1] < 0
    assert rewriting["by_seed"] == [0.95, 0.95]  # a rejected answer is a wrong one
    assert rewriting["tokens_beside_all"]["gain"] == pytest.approx(0.5)
    rows = table.table(told, "tiny")
    assert [row[0] for row in rows] == ["nothing", "correct", "long2short"]
    assert rows[1][1] == "7", "what did not fit into a sequence was not learnt"
    assert rows[1][2] == "9"
    assert rows[1][5] == "60.0%, 50.0%"
    assert rows[1][6].startswith("-40.0 points (-")
    assert "no difference seen" in rows[2][6]
    assert rows[2][8] == "x 2.00 (2.00 to 2.00)"
    page = (tmp_path / "r" / "report" / "report.html").read_text()
    assert "Without a gate" in page
    assert "-40.0 points" in page
    assert "| correct |" in (tmp_path / "r" / "report" / "report.md").read_text()
    assert report.ablation_tables(report.read(config.run_folder))[0].row_count == 3

    # Of another student than the run has now, it is not shown.
    write_manifest(
        config.run_folder / "checkpoint", Manifest("checkpoint", "checkpoint", "new", "x", 1, 1, 0, {}, 1.0, [])
    )
    report.build(config.run_folder)
    assert "Without a gate" not in (tmp_path / "r" / "report" / "report.html").read_text()

    # Again: what a variant has made of it stays; what has changed in the run is copied anew.
    kept = config.run_folder.local.parent / "r-without-correct-seed-0" / "responses" / "own"
    kept.write_text("own")
    ablation.run(config, ["correct"], 2, Display())
    assert kept.exists()
    made.mark = "two"
    ablation.run(config, ["correct"], 2, Display())
    assert not kept.exists()


@pytest.mark.parametrize(
    ("without", "seeds", "overrides", "told"),
    [
        (["corect"], 1, [], "--without: 'corect' is not on in this configuration; known: complete, answered"),
        (["complete+correkt"], 1, [], "--without: 'correkt' is not on"),
        (["shorter"], 1, ["gates.shorter=false"], "--without: 'shorter' is not on"),
        (["shorter"], 0, [], "--seeds: 0 is no number of trainings"),
        (["shorter"], 1, ["evaluation.models=[]"], "evaluation.models: none is the student"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    without: list[str], seeds: int, overrides: list[str], told: str, tmp_path: Path
) -> None:
    config = load(None, [f"run.storage_path={tmp_path}", *overrides])
    with pytest.raises(UserError, match=told):
        ablation.run(config, without, seeds, Display())
    assert list(tmp_path.iterdir()) == []


def manifest(name: str, rejects: dict[str, int], tokens: dict[str, int], **summary: int) -> Manifest:
    bad = sum(rejects.values())
    return Manifest(name, "s", "f", "rows", 90, 90 - bad, bad, rejects, 1.0, [], summary, {}, tokens)


def test_each_gate_is_told_with_what_it_kept_out_of_rewriting_and_of_training() -> None:
    rewrites = manifest(
        "rewrites",
        {"source_wrong_answer": 3, "source_answer_timeout": 1, "kills_engine": 1},
        {"source_wrong_answer": 700, "source_answer_timeout": 200, "kills_engine": 5},
        tokens_before=1000,
        tokens_after=250,
    )
    examples = manifest("sft_examples", {"wrong_answer": 2, "not_shorter": 4}, {"not_shorter": 90})
    told = kept_out.by_gate(rewrites, examples, {"complete": True, "correct": True, "shorter": False})
    assert kept_out.rows_of(told) == [
        ["complete", "0", "0", "0", "0"],
        ["correct", "4", "900", "2", "–"],
        ["shorter (off)", "–", "–", "–", "–"],
    ]
    assert kept_out.rewriting(rewrites) == "Rewriting made 250 tokens of 1,000: 25%, in 85 rewrites."
    assert kept_out.rewriting(None) == ""
    assert kept_out.by_gate(None, None, {"correct": True}) == []
