"""The report from what a run folder holds: the JSON as promised, nothing from elsewhere, data escaped."""

import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard
from rich.console import Console

from ray_distil.errors import UserError
from ray_distil.evaluation import scores
from ray_distil.report import benchmark_tables, contents, excerpts, provenance, report
from ray_distil.store.manifest import Manifest, model_fingerprint, read_manifest, write_manifest
from ray_distil.store.schemas import EVAL, REJECTS, RESPONSES, REWRITES
from ray_distil.store.storage import Folder

HOSTILE = "<script>alert('x')</script>"


def model(name: str, accuracy: float | None, tokens: float) -> dict[str, Any]:
    gain = 200 / tokens
    entry = {"name": name, "benchmark": "sums", "num_problems": 2, "accuracy": accuracy, "mean_tokens": tokens}
    return entry | {"completion_rate": 1.0, "speed_gain": gain}


@pytest.fixture(autouse=True)
def only_the_figures_of_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures here are not those of the rows. `test_provenance.py` has figures that are computed from rows."""
    monkeypatch.setattr(scores, "summarise", lambda *_: {})


MODELS = [model("base", 0.0, 10.0), model("slow", 0.96, 200.0), model("fast", 0.95, 50.0)]


def artifact(
    run: Path,
    name: str,
    stage: str,
    rejects: dict[str, int],
    rows: pa.Table | None = None,
    summary: dict[str, Any] | None = None,
) -> None:
    (run / name).mkdir(parents=True)
    files = []
    if rows is not None:
        pq.write_table(rows, run / name / "part-1.parquet")
        files = ["part-1.parquet"]
    bad = sum(rejects.values())
    manifest = Manifest(name, stage, "f", "rows", 10 + bad, 10, bad, rejects, 1.5, files, summary or {})
    write_manifest(Folder.at(run / name), manifest)


def answer(name: str, text: str) -> dict[str, Any]:
    row = {"eval_id": name, "model": name, "benchmark": "sums", "instruction_id": "i", "instruction": "2 + 3?"}
    row |= {"reference_answer": "5", "sample_index": 0, "response": text, "answer": "5", "correct": True}
    return row | {"scored_by": "math 1", "complete": True, "num_prompt_tokens": 3, "num_generated_tokens": 7}


def make_run(run: Path, models: list[dict[str, Any]] = MODELS, text: str = "It is 5.") -> Path:
    artifact(run, "responses", "teacher", {"prompt_too_long": 2})  # its stage's name in manifests of earlier versions
    blank = {f.name: "x" if f.type == pa.string() else 1 for f in REWRITES}
    rewrites = [blank | {"original_tokens": 100 + k, "rewritten_tokens": 20 + k} for k in range(50)]
    artifact(run, "rewrites", "rewrites", {"source_wrong_answer": 3}, pa.Table.from_pylist(rewrites, REWRITES))
    for entry in models:
        name, told = entry["name"], {key: value for key, value in entry.items() if key != "speed_gain"}
        answers = pa.Table.from_pylist([answer(name, text)], EVAL)
        artifact(run, f"eval/{name}/sums", f"eval/{name}/sums", {}, answers, told)
    (run / "checkpoint").mkdir()
    lines = [json.dumps({"step": s, "loss": 3 / s} | ({"eval_loss": 4 / s} if s % 4 == 0 else {})) for s in range(1, 9)]
    (run / "checkpoint" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    sources = [{"name": entry["name"], "model_source": f"m/{entry['name']}"} for entry in models]
    sources[-1]["model_source"] = "student"
    compared = {"models": sources, "baseline": "slow", "benchmark": "sums"}
    (run / "config.yaml").write_text(yaml.safe_dump({"run": {"name": "x"}, "evaluation": compared}))
    return run


def test_versions_are_those_by_which_the_run_was_made(tmp_path: Path) -> None:
    """And not those of the machine that makes the page."""
    (tmp_path / "config.yaml").write_text("run: {name: first}\n")
    for name, version in (("responses", "0.1.0 (commit a)"), ("rewrites", "0.2.0 (commit b)")):
        artifact(tmp_path, name, name, {})
        manifest = Manifest(
            name, name, "f", "rows", 10, 10, 0, {}, 1.5, [], versions={"ray-distil": version, "vllm": "0.9"}
        )
        write_manifest(Folder.at(tmp_path / name), manifest)
    report.build(Folder.at(tmp_path))
    page, markdown = (unescape((tmp_path / "report" / f"report.{ending}").read_text()) for ending in ("html", "md"))
    assert (
        "<li>ray-distil <span>0.1.0 (commit a), 0.2.0 (commit b)</span></li><li>vllm <span>0.9</span></li></ul>" in page
    )
    assert "ray-distil 0.1.0 (commit a), 0.2.0 (commit b), vllm 0.9\n" in markdown


def test_rewrites_of_imported_responses_have_no_tokens_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    file = run / "rewrites" / "part-1.parquet"
    rows = [row | {"original_tokens": None, "compression_ratio": None} for row in pq.read_table(file).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, REWRITES), file)
    report.build(Folder.at(run))
    assert "50 rewrites, whose tokens before or after are not known" in (run / "report" / "report.html").read_text()


def test_a_run_whose_tokens_nobody_counted_has_its_report(tmp_path: Path) -> None:
    """Each count is null, as docs/artifacts.md allows it: endpoints may count nothing."""
    uncounted = [entry | {"mean_tokens": None} for entry in MODELS]
    run = make_run(tmp_path / "mine", uncounted)
    for file in run.glob("**/part-*.parquet"):
        table = pq.read_table(file)
        counts = [name for name in table.column_names if "tokens" in name or name == "compression_ratio"]
        rows = [row | dict.fromkeys(counts) for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, REWRITES if "rewrites" in str(file) else EVAL), file)

    built = report.build(Folder.at(run))
    page = (run / "report" / "report.html").read_text()
    assert page.count("<small>– tokens") == 2 * 3 + 2, "three rewrites beside their sources, two answers"
    assert "50 rewrites, whose tokens before or after are not known" in page
    assert "The tokens of these answers were not counted." in page
    assert "fast beside slow, with tokens that were not all counted: accuracy 95.0% against 96.0%" in page
    assert [row[3] for row in built.model_rows()] == ["–"] * 3
    assert "None" not in page
    report.build_several([Folder.at(run)])


def test_json_is_as_promised(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    report.build(Folder.at(run))
    facts = json.loads((run / "report" / "report.json").read_text())
    assert list(facts) == ["run", "facts", "models", "stages", "curation", "kept_out", "costs"]
    assert facts["run"] == "mine"
    against = [entry.pop("against") for entry in facts["models"]]
    assert facts["models"] == MODELS
    assert against[1] is None
    assert against[2]["tokens"] == {"gain": 1.0, "interval": [1.0, 1.0], "problems": 1}
    keys = ["name", "rows_in", "rows_out", "rows_rejected", "rejects", "seconds"]
    assert [list(stage) for stage in facts["stages"]] == [keys] * 5
    assert facts["stages"][0]["rejects"] == {"prompt_too_long": 2}


def test_models_are_compared_with_the_baseline_in_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    report.build(Folder.at(run))
    said = "fast beside slow: accuracy +0.0 points (-65.3 to +65.3), no difference seen on 1 problem; speed gain 1.00"
    for file in ("report.html", "report.md"):
        words = (run / "report" / file).read_text()
        assert said in words
        assert "slow beside slow" not in words


def test_page_has_its_pictures_and_asks_for_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    report.build(Folder.at(run))
    page = (run / "report" / "report.html").read_text()
    assert re.findall(r'class="figure (\w+)"', page) == ["tokens", "answers", "accuracy", "loss", "rejects"]
    assert re.findall(r"<script|<link|<iframe|<img|@import|src=|url\(http|href=\"http", page) == []
    assert "#00000" not in page, "a stand-in colour was left"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert (
        "fast answers with 25% of the tokens of slow: accuracy 95.0% against 96.0%, no difference seen on 1 problem"
        in page
    )


def test_data_is_escaped(tmp_path: Path) -> None:
    named = [MODELS[0], MODELS[1], MODELS[2] | {"name": HOSTILE}]
    run = make_run(tmp_path / "mine", named, text=HOSTILE)
    report.build(Folder.at(run))
    assert "<script" not in (run / "report" / "report.html").read_text()
    words = (run / "report" / "report.md").read_text()
    assert "<script" not in words.partition("```")[0], "what follows is the configuration, as code"


def test_markdown_has_the_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    report.build(Folder.at(run))
    words = (run / "report" / "report.md").read_text()
    assert "| fast | 95.0% | – | 50.0 | 100.0% | 4.0x | 2 |" in words
    assert "| responses | 12 | 10 | 2 | 1.5 | rows | prompt_too_long 2 |" in words


def test_a_trained_student_has_a_card_that_the_hub_reads(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", text=HOSTILE)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    saved |= {"training": {"student": "Qwen/Qwen2.5-7B", "learning_rate": 2e-5, "system_prompt": ""}}
    saved |= {
        "teachers": {
            "slow": {"engine": {"model_source": "/disk/models/r1"}, "sampling_params": {"top_p": 0.9, "top_k": None}}
        }
    }
    saved |= {
        "instructions": {"path": "hf://datasets/org/problems@abc", "suffix": "\nThink."},
        "gates": {"correct": True},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    report.build(Folder.at(run))
    assert not (run / "checkpoint" / "student").exists(), "the student is not there yet"
    (run / "checkpoint" / "student").mkdir()
    write_manifest(
        Folder.at(run / "checkpoint"), Manifest("checkpoint", "checkpoint", "f", "rows", 8, 8, 0, {}, 1.0, [])
    )
    report.build(Folder.at(run))
    card = ModelCard.load(run / "checkpoint" / "student" / "README.md")
    assert card.data.base_model == "Qwen/Qwen2.5-7B"
    assert card.data.datasets == ["org/problems"]
    assert card.data.license is None
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"accuracy": 95.0, "mean_tokens": 50.0}
    assert "| fast | 95.0% | – | 50.0 |" in card.text
    assert "responses: " in card.text
    assert "eval/" not in card.text
    assert "slow teacher: r1; top_p 0.9\n" in card.text, "a parameter that is not set is not named"
    assert "/disk" not in card.text, "no folder of a machine"
    written = (run / "checkpoint" / "student" / "README.md").stat().st_mtime_ns
    report.build(Folder.at(run))
    assert (run / "checkpoint" / "student" / "README.md").stat().st_mtime_ns == written
    assert "System prompt in training: none. Behind each instruction: '\\nThink.'." in card.text
    assert "The chat template does not add the text behind the instruction: write it behind each question." in card.text


def test_a_card_has_the_licences_that_were_given_and_guesses_none(tmp_path: Path) -> None:
    """Also those that were given after the student was made, where they are of the same model or source."""
    run = make_run(tmp_path / "mine")
    made: dict[str, Any] = {
        "training": {"student": "Qwen/Qwen2.5-7B"},
        "teachers": {"slow": {"engine": {"model_source": "org/r1"}}, "direct": {"engine": {"model_source": "org/v3"}}},
        "instructions": {"path": "tiny", "sources": [{"path": "hf://datasets/org/a"}, {"path": "/home/me/b.jsonl"}]},
        "curation": {"choose": "shortest"},
    }
    newest = yaml.safe_load((run / "config.yaml").read_text())
    newest |= {
        "training": {"student": "Qwen/Qwen2.5-7B", "student_license": "apache-2.0"},
        "teachers": {
            "slow": {"engine": {"model_source": "org/r1"}, "license": HOSTILE},
            "direct": {"engine": {"model_source": "org/other"}, "license": "gemma"},
        },
        "instructions": {"path": "tiny", "sources": [{"path": "hf://datasets/org/a", "license": "mit"}]},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(newest))
    (run / "checkpoint" / "student").mkdir(parents=True)
    for name in ("instructions", "responses", "sft_examples", "checkpoint"):
        found = {"test_sets": {"math500": 500}, "contaminated": {"math500": 3}} if name == "instructions" else {}
        written = Manifest(name, name, "f", "rows", 8, 8, 0, {}, 1.0, [], found, made_of={"config": made, "settings": {}, "inputs": []})  # fmt: skip
        write_manifest(Folder.at(run / name), written)
    report.build(Folder.at(run))
    card = ModelCard.load(run / "checkpoint" / "student" / "README.md")
    assert card.data.datasets == ["org/a"]
    assert card.data.license is None
    for line in (
        "| this model |  | to be added |",
        "| the model that was trained | Qwen/Qwen2.5-7B | apache-2.0 |",
        "| problems of org/a | org/a | mit |",
        "| problems of b.jsonl | b.jsonl | to be added |",
        "| texts of the direct teacher | org/v3 | to be added |",
        "| texts of the slow teacher | org/r1 | ",
        "- Test problems that were looked for in the training problems: math500 500; found: math500 3",
        "- choice: choose shortest",
    ):
        assert line in card.text, line
    assert "gemma" not in card.text
    assert "<script" not in card.text
    assert "/home" not in card.text
    write_manifest(Folder.at(run / "instructions"), Manifest("instructions", "a", "f", "rows", 8, 8, 0, {}, 1.0, []))
    report.build(Folder.at(run))
    words = (run / "checkpoint" / "student" / "README.md").read_text()
    assert "No test problems were looked for among the training problems." in words


def test_a_card_changes_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = model_fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("# A model")
    assert model_fingerprint(str(tmp_path)) == before
    (tmp_path / "config.json").write_text("{} ")
    assert model_fingerprint(str(tmp_path)) != before


def test_a_run_at_its_beginning_can_be_reported(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    artifact(run, "instructions", "instructions", {})
    report.build(Folder.at(run))
    page = (run / "report" / "report.html").read_text()
    for words in ("no rewrites", "no model with measured accuracy", "no training metrics", "No row was rejected"):
        assert words in page
    assert "<svg" not in page


def test_missing_accuracy_is_a_dash_and_no_claim(tmp_path: Path) -> None:
    models = [MODELS[1] | {"accuracy": None}, MODELS[2] | {"accuracy": None}]
    made = report.build(Folder.at(make_run(tmp_path / "mine", models)))
    assert report.headline(made) == "fast answers with 25% of the tokens of slow"
    assert made.model_rows()[1][1] == "–"


def test_a_student_with_no_right_answer_is_not_praised_for_its_few_tokens(tmp_path: Path) -> None:
    nothing = MODELS[2] | {"accuracy": 0.0, "num_problems": 29, "no_answer_rate": 1.0}
    run = make_run(tmp_path / "mine", [MODELS[0], MODELS[1] | {"accuracy": 0.0}, nothing])
    artifact(run, "sft_examples", "sft_examples", {"wrong_answer": 210, "no_answer": 32})
    artifact(run, "packed", "packed", {})
    student = Manifest("checkpoint", "checkpoint", "f", "sequences", 3, 3, 0, {}, 1.5, [], {"num_steps": 6})
    write_manifest(Folder.at(run / "checkpoint"), student)
    made = report.build(Folder.at(run))
    assert report.headline(made) == (
        "no answer of fast is right, on 29 problems: 100% state none; it has learnt 10 texts in 6 steps; "
        "242 of 252 candidates are rejected (wrong_answer 210, no_answer 32)"
    )
    note = "most candidates are rejected: 242 of 252 (wrong_answer 210, no_answer 32)"
    assert note in (run / "report" / "report.md").read_text()


def test_without_the_baseline_there_is_no_speed_gain(tmp_path: Path) -> None:
    made = report.build(Folder.at(make_run(tmp_path / "mine", [MODELS[0], MODELS[2]])))
    assert [row[5] for row in made.model_rows()] == ["–", "–"]
    assert "compares no student" in report.headline(made)


def test_the_head_names_models_teachers_day_and_machine(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    endpoint = {"model": "deepseek-reasoner", "base_url": ["https://user:secret@api.example.com/v1?key=secret"]}
    saved |= {"training": {"student": "Qwen/Qwen2.5-7B"}, "teachers": {"direct": None, "slow": {"endpoint": endpoint}}}
    saved["long2short"] = {"enabled": True, "engine": {"model_source": "m/rewriter"}}
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    made = report.build(Folder.at(run))
    day = made.facts.pop("made")
    assert made.facts == {
        "base": "m/base",
        "slow": "m/slow",
        "fast": "Qwen/Qwen2.5-7B, trained here",
        "slow teacher": "deepseek-reasoner at api.example.com",
        "rewriter": "m/rewriter",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, in 0 min, on [\d,]+ CPUs?(, .*GPU.*)?", day)
    page, markdown, values = ((run / "report" / f"report.{ending}").read_text() for ending in ("html", "md", "json"))
    assert "<span>slow teacher: deepseek-reasoner at api.example.com</span> ·" in page
    assert f"\n- made: {day}\n" in markdown
    assert json.loads(values)["facts"] == made.facts | {"made": day}
    assert "secret" not in values


def test_the_head_names_who_made_the_rows_and_not_the_last_command(tmp_path: Path) -> None:
    """Another address is no reason to ask again, so the artifacts stay; a report that named it would be wrong."""
    run = make_run(tmp_path / "mine")

    def config(host: str) -> dict[str, Any]:
        endpoint = {"model": "think-1", "base_url": f"http://{host}/v1"}
        models = [{"name": name, "endpoint": endpoint} for name in ("base", "slow")]
        models.append({"name": "fast", "model_source": "student"})
        return {
            "teachers": {"slow": {"endpoint": endpoint}},
            "long2short": {"enabled": True, "endpoint": endpoint},
            "training": {"student": f"m/{host}"},
            "evaluation": {"models": models, "baseline": "slow", "benchmark": "sums"},
        }

    for name in ("responses", "rewrites", "eval/base/sums"):
        manifest = read_manifest(Folder.at(run / name))
        write_manifest(
            Folder.at(run / name),
            replace(manifest, made_of={"settings": {}, "inputs": ["f"], "config": config("first.example")}),
        )
    (run / "config.yaml").write_text(yaml.safe_dump({"run": {"name": "x"}} | config("other.example")))
    made = report.build(Folder.at(run)).facts
    assert {made[name] for name in ("base", "slow teacher", "rewriter")} == {"think-1 at first.example"}
    assert made["slow"] == "think-1 at other.example", "its manifest does not say"
    assert made["fast"] == "m/other.example, trained here", "not trained yet"


def test_runs_are_compared_by_the_settings_with_which_they_were_measured(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        saved = yaml.safe_load((run / "config.yaml").read_text())
        for entry in MODELS:
            folder = Folder.at(run / "eval" / entry["name"] / "sums")
            write_manifest(
                folder, replace(read_manifest(folder), made_of={"settings": {}, "inputs": ["f"], "config": saved})
            )
    saved["evaluation"]["sampling_params"] = {"temperature": 0.7}
    (runs[1] / "config.yaml").write_text(yaml.safe_dump(saved))  # of a command that has measured nothing
    assert "not measured alike" not in report.build_several([Folder.at(run) for run in runs])[1]


def test_the_time_is_that_in_which_some_stage_worked() -> None:
    def made(stage: str, finished: str, seconds: float, machine: str = "4 CPUs") -> Manifest:
        return Manifest(stage, stage, "f", "rows", 1, 1, 0, {}, seconds, [], finished=finished, machine=machine)

    beside = [made("responses", "2026-12-01T10:10:00+00:00", 600), made("eval", "2026-12-01T10:10:00+00:00", 300)]
    later = made("checkpoint", "2026-12-03T10:30:00+00:00", 1200, "8 CPUs, 1 GPU (H200)")
    last = made("sft_examples", "2026-12-03T10:31:00+00:00", 1, "8 CPUs")
    facts = provenance.facts({"training": {"student": "m"}}, [last, later, *beside])
    assert facts == {"student": "m", "made": "2026-12-03, in 30 min, on 8 CPUs, 1 GPU (H200)"}
    assert provenance.facts({}, [made("responses", "", 600)]) == {}  # of an earlier version


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        report.build(Folder.at(tmp_path / "absent"))


def test_rejected_rows_are_shown_one_a_stage_and_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    (run / "responses" / "_rejects").mkdir()
    rows = [
        {"id": key, "stage": stage, "reason": reason, "detail": "2,000 tokens", "row": json.dumps(row)}
        for key, stage, reason, row in [
            ("b", "teacher", "incomplete", {"response": "the second"}),  # the stage's name in earlier versions
            ("a", "responses", "incomplete", {"response": HOSTILE, "num_generated_tokens": 3}),
            ("c", "teacher", "no_answer", {"response": "another reason"}),
        ]
    ]
    pq.write_table(pa.Table.from_pylist(rows, REJECTS), run / "responses" / "_rejects" / "part-1.parquet")
    manifest = json.loads((run / "responses" / "_manifest.json").read_text())
    manifest["files"] = ["_rejects/part-1.parquet"]
    (run / "responses" / "_manifest.json").write_text(json.dumps(manifest))
    report.build(Folder.at(run))
    page = (run / "report" / "report.html").read_text()
    assert "another reason" in page
    assert "the second" not in page
    assert "&lt;script&gt;" in page
    assert "num_generated_tokens" not in page


def test_a_reject_for_its_answer_is_shown_with_what_was_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    blank = {f.name: "x" if f.type == pa.string() else 1 for f in RESPONSES}
    row = blank | {"response_id": "r", "response": "I say thirty-nine.", "answer": "39", "reference_answer": "7"}
    (run / "responses" / "_manifest.json").unlink()
    (run / "responses").rmdir()
    artifact(run, "responses", "responses", {}, pa.Table.from_pylist([row], RESPONSES))
    rejects = {
        "sft_examples": ("wrong_answer", {"origin_id": "r", "completion": "So it is."}),
        "rewrites": ("source_wrong_answer", {"response_id": "r", "source_answer": "39", "reference_answer": "7"}),
    }
    for name, (reason, of_row) in rejects.items():
        rows = [{"id": "a", "stage": name, "reason": reason, "detail": "", "row": json.dumps(of_row)}]
        (run / name / "_rejects").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, REJECTS), run / name / "_rejects" / "part-1.parquet")
        manifest = Manifest(name, name, "f", "rows", 1, 0, 1, {reason: 1}, 1.5, ["_rejects/part-1.parquet"])
        write_manifest(Folder.at(run / name), manifest)
    example, unfit = excerpts.rejected(Folder.at(run), ["sft_examples", "rewrites"])
    assert example["texts"] == {"completion": "So it is.", "answer": "39", "reference_answer": "7"}
    assert unfit["texts"] == {"source_answer": "39", "reference_answer": "7", "response": "I say thirty-nine."}


def test_rewrites_stand_beside_their_source(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    response = {f.name: "x" if f.type == pa.string() else 1 for f in RESPONSES} | {
        "reasoning": "Let me think at length."
    }
    pq.write_table(pa.Table.from_pylist([response], RESPONSES), run / "responses" / "part-1.parquet")
    manifest = json.loads((run / "responses" / "_manifest.json").read_text())
    (run / "responses" / "_manifest.json").write_text(json.dumps(manifest | {"files": ["part-1.parquet"]}))
    (first, *_rest) = excerpts.rewritten(Folder.at(run))
    assert (first["before"], first["after"]) == ("Let me think at length.", "x")
    assert len(_rest) == 2


def test_intervals_are_shown_where_they_are_known(tmp_path: Path) -> None:
    models = [MODELS[1], MODELS[2] | {"accuracy_interval": [0.93, 0.97]}]
    made = report.build(Folder.at(make_run(tmp_path / "mine", models)))
    assert [row[2] for row in made.model_rows()] == ["–", "93.0–97.0%"]
    assert json.loads(made.to_json())["models"][1]["accuracy_interval"] == [0.93, 0.97]


def test_the_student_is_the_configurations_and_not_the_last_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    saved["evaluation"]["models"].reverse()
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    made = report.read(Folder.at(run))
    assert [m["name"] for m in made.models] == ["fast", "slow", "base"]
    assert made.student == "fast"
    assert report.headline(made).startswith("fast answers with 25% of the tokens of slow")


def with_benchmarks(run: Path, name: str = "fast") -> Path:
    """A run with the recipe's two benchmarks of tokens beside its own problems."""
    make_run(run)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    figure = {"tokens": 600.0, "source": "Paper", "model": "Their-7B", "accuracy": 0.5}
    prompt = {"prompt": "Well: {instruction}", "sampling_params": {"temperature": 0.6}, "limit": 9}
    given = [
        {"name": b, "path": "x.jsonl", "num_problems": 30, "published": [figure]} | prompt
        for b in ("mmlu_pro", "aime24")
    ]
    given[1]["published"] = [figure | {"tokens": 1200.0}, figure | {"model": "Their-slow", "tokens": 3600.0}]
    saved["evaluation"]["benchmarks"] = [{"name": "held-out"}, *given]
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    for number, benchmark in enumerate(("mmlu_pro", "aime24"), 1):
        for entry in MODELS[1:]:
            row = answer(entry["name"], "It is 5.") | {"benchmark": benchmark, "category": "business"}
            told = entry | {
                "benchmark": benchmark,
                "mean_tokens": number * entry["mean_tokens"],
                "scored_by": "choice 1",
            }
            told["categories"] = {"business": entry | {"accuracy_interval": [0.8, 1.0]}}
            artifact(run, f"eval/{entry['name']}/{benchmark}", f"eval/{entry['name']}/{benchmark}", {},
                     pa.Table.from_pylist([row], EVAL), told)  # fmt: skip
    return run


def test_benchmarks_are_groups_of_columns_and_each_has_its_own_part(tmp_path: Path) -> None:
    run = with_benchmarks(tmp_path / "mine")
    made = report.build(Folder.at(run))
    assert made.benchmarks == ["sums", "mmlu_pro", "aime24"]
    words, page = ((run / "report" / f"report.{kind}").read_text() for kind in ("md", "html"))
    # base was not measured on all of them; gains are of each benchmark's own baseline
    assert "| base | 0.0% | 10 | 20.0x | – | – | – | – | – | – |" in words
    assert "| fast | 95.0% | 50 | 4.0x | 95.0% | 50 | 4.0x | 95.0% | 100 | 4.0x |" in words
    assert re.findall(r'class="figure (\w+)"', page) == [
        "tokens", "answers", "answers1", "answers2", "accuracy", "accuracy1", "accuracy2", "loss", "rejects"
    ]  # fmt: skip
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    for told in (
        "| prompt | Well: {instruction} |",
        "| sampling | temperature 0.6 |",
        "| limit | 9 |",
        "| scorer | choice 1 |",
    ):
        assert told in words
    assert "| business | fast | 95.0% | 80.0–100.0% | 50 | 100.0% | 2 |" in words


def test_the_recipes_own_table_and_published_figures(tmp_path: Path) -> None:
    run = with_benchmarks(tmp_path / "mine")
    report.build(Folder.at(run))
    words = (run / "report" / "report.md").read_text()
    assert "| Model | MMLU_PRO tokens | AIME2024 tokens | Speed gain |" in words
    assert "| fast | 50 | 100 | 4.0x, 4.0x |" in words
    assert "| base | – | – | –, – |" in words
    assert "| Their-7B (published) | 600 | 1,200 | 1.0x, 3.0x |" in words
    # 15 of 30, by Wilson (1927)
    assert "| Their-slow | 50.0% | 33.2–66.8% | 3,600 | 1, a single run | Paper |" in words


def test_both_pages_have_their_parts_in_one_order(tmp_path: Path) -> None:
    run = with_benchmarks(tmp_path / "mine")
    report.build(Folder.at(run))
    page, words = ((run / "report" / name).read_text() for name in ("report.html", "report.md"))
    titles = re.findall(r"^## (.+)$", words, re.MULTILINE)
    assert len(titles) > 5
    shown = [unescape(title) for title in re.findall(r"<h2>(.+?)</h2>", page)]
    assert [title for title in shown if title in titles] == [title for title in titles if title != "Models"]


def test_several_runs_on_one_page(tmp_path: Path) -> None:
    first, second = with_benchmarks(tmp_path / "one"), with_benchmarks(tmp_path / "two" / "one")
    saved = yaml.safe_load((second / "config.yaml").read_text())
    saved["evaluation"]["benchmarks"][2]["prompt"] = "Now: {instruction}"
    (second / "config.yaml").write_text(yaml.safe_dump(saved))
    made, page = report.build_several([Folder.at(first), Folder.at(second)])
    assert [m["name"] for m in made.of("aime24")] == ["one/slow", "one/fast", "one-2/slow", "one-2/fast"]
    assert [m["speed_gain"] for m in made.of("aime24")] == [1.0, 4.0, 1.0, 4.0]
    assert "one-2/fast beside one/slow: accuracy" in page
    assert (
        "not measured alike: aime24, prompt: one &#39;Well: {instruction}&#39;; one-2 &#39;Now: {instruction}&#39;"
        in page
    )
    assert "not measured alike: mmlu_pro" not in page
    assert re.findall(r"<script|<link|<iframe|<img|@import|src=|url\(http|href=\"http", page) == []


def test_models_without_a_common_problem_have_no_gain(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    for entry in MODELS:
        row = answer(entry["name"], "It is 5.") | {"instruction_id": "of another file"}
        pq.write_table(pa.Table.from_pylist([row], EVAL), second / "eval" / entry["name"] / "sums" / "part-1.parquet")
    made, page = report.build_several([Folder.at(first), Folder.at(second)])
    gains = {model["name"]: model["speed_gain"] for model in made.models}
    assert gains == {"one/base": 20.0, "one/slow": 1.0, "one/fast": 4.0} | dict.fromkeys(
        ("two/base", "two/slow", "two/fast")
    )
    assert [row[5] for row in made.model_rows()] == ["20.0x", "1.0x", "4.0x", "–", "–", "–"]
    assert "two/fast and one/slow have no problem in common" in page
    assert "<span>two/slow: m/slow</span>" in page


def test_runs_without_a_model_are_not_compared(tmp_path: Path) -> None:
    artifact(tmp_path / "new", "instructions", "instructions", {})
    with pytest.raises(UserError, match="none of these runs has compared a model yet"):
        report.build_several([Folder.at(tmp_path / "new")] * 2)


def test_reasons_are_whole_on_a_narrow_console() -> None:
    console = Console(file=io.StringIO(), width=80)
    row = ["eval/slow/held-out", "1,000", "996", "4", "1,234.5", "slow responses", "source_wrong_answer 4"]
    console.print(
        contents.console_table("Stages", ["Stage", "In", "Out", "Rejected", "Seconds", "Unit", "Why"], [row], (0, 5, 6))
    )
    assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_sampling_names_what_is_set() -> None:
    saved = {"evaluation": {"sampling_params": {"temperature": 0.6, "top_k": None}}}
    assert ("sampling", "temperature 0.6") in benchmark_tables.facts({"name": "own"}, saved, [])
