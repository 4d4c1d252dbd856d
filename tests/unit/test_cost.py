"""What a run has cost: tokens of its rows, GPU-hours of its engines, dollars by the plan's prices, and what is not known."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ray_distil.commands import status
from ray_distil.config import StagesConfig, load
from ray_distil.config.section import validate
from ray_distil.report import cost, report
from ray_distil.report.cost import Cost, StageFiles, costs
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import EVAL, RESPONSES, REWRITES, TIMING, stable_id
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder

ENGINE = {"model_source": "m", "num_gpus": 1, "engine_kwargs": {"tensor_parallel_size": 4}, "concurrency": [1, 2]}
ENDPOINT = {"base_url": "https://api.test/v1", "model": "r1"}
PLAN = {
    "usd_per_gpu_hour": 3.0,
    "slow": {"usd_per_million_tokens": [1.0, 4.0]},
    "evaluation": {"*": {"usd_per_million_tokens": [0.5, 2.0]}},
}
CONFIG: dict[str, Any] = {
    "teachers": {"direct": {"engine": ENGINE}, "slow": {"endpoint": ENDPOINT}},
    "evaluation": {"models": [{"name": "api", "endpoint": ENDPOINT}], "baseline": "api", "benchmarks": ["aime24"]},
    "training": {"student": "m", "use_gpu": True, "num_workers": 16},
    "plan": PLAN,
}


def write(run: Folder, name: str, schema: Any, rows: list[dict[str, Any]]) -> list[str]:
    """An artifact of these rows; the columns that are not in them have a value of their kind. Returns its files."""
    artifact = Artifact(run, name, schema, "settings")
    artifact.start()
    blank = {field.name: "x" if str(field.type) == "string" else None for field in schema}
    blank |= {field.name: 1 for field in schema if str(field.type) in ("int32", "double") and not field.nullable}
    blank |= {field.name: True for field in schema if str(field.type) == "bool"}
    whole = [blank | {schema.names[0]: stable_id(name, k)} | row for k, row in enumerate(rows)]
    artifact.write_table(table_of(whole, schema), name)
    return artifact.folder.files("part-", ".parquet")


def tokens(prompt: int | None, generated: int | None, **more: Any) -> dict[str, Any]:
    return {"num_prompt_tokens": prompt, "num_generated_tokens": generated} | more


ANSWERS = [
    tokens(100, 1_000, teacher="direct"),
    tokens(200, 2_000, teacher="direct"),
    tokens(1_000_000, 500_000, teacher="slow"),
    tokens(1_000_000, 250_000, teacher="slow"),
]


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    run = Folder.at(tmp_path / "mine")
    run.write_text("config.yaml", validate(StagesConfig, CONFIG).to_yaml())
    return run


def of_responses(run: Folder, config: dict[str, Any], rows: list[dict[str, Any]], seconds: float = 7200) -> Cost:
    files = write(run, "responses", RESPONSES, rows)
    (spent,) = costs(run, config, [StageFiles("responses", seconds, files)])
    return spent


def test_tokens_gpu_hours_and_dollars_of_an_engine_beside_an_endpoint(run: Folder) -> None:
    spent = of_responses(run, CONFIG, ANSWERS)
    assert (spent.prompt_tokens, spent.generated_tokens, spent.num_uncounted) == (2_000_300, 753_000, 0)
    assert (spent.gpus, spent.gpu_hours) == (8, 16.0)  # two engines of four GPUs, for two hours
    # GPUs: 16 hours of 3 dollars. Endpoint: 2 M prompt tokens of 1 dollar, 0.75 M generated tokens of 4 dollars.
    assert spent.dollars == pytest.approx(48 + 2 + 3)
    assert spent.is_priced


def test_each_teacher_has_a_row_with_its_means_and_its_dollars(run: Folder) -> None:
    """What the plan section asks for after a first small run."""
    both = CONFIG | {"teachers": {name: {"endpoint": ENDPOINT} for name in ("direct", "slow")}}
    both |= {"plan": {name: {"usd_per_million_tokens": [1.0, 4.0]} for name in ("direct", "slow")}}
    spent = of_responses(run, both, [*ANSWERS, tokens(None, None, teacher="direct")])
    direct, slow = spent.parts
    assert (direct.stage, direct.num_rows, direct.mean(direct.prompt_tokens), direct.dollars) == (
        "responses/direct",
        3,
        150,
        None,
    )
    assert (slow.num_rows, slow.mean(slow.generated_tokens), slow.dollars) == (2, 375_000, 5.0)
    of_slow = cost.rows_of([spent])[2]
    assert of_slow == ["responses/slow", "2,000,000", "750,000", "2", "1,000,000", "375,000", "", "", "", "5.00"]

    cents = Cost("rewrites", 1.0, 1_000, 300, 0, 0, 0.0022, True, 4)
    assert [row[-1] for row in cost.rows_of([cents])] == ["0.0022", "0.0022"]


def test_engines_that_work_one_after_the_other_hold_the_gpus_of_the_larger(run: Folder) -> None:
    both = CONFIG | {"teachers": {"direct": {"engine": ENGINE}, "slow": {"engine": ENGINE | {"concurrency": 1}}}}
    assert of_responses(run, both | {"run": {"parallel_engines": True}}, ANSWERS).gpus == 12
    assert of_responses(run, both | {"run": {"parallel_engines": False}}, ANSWERS).gpus == 8


def test_on_cpus_no_gpu_hour_and_no_dollar(run: Folder) -> None:
    spent = of_responses(run, load(None, []).model_dump(mode="json"), ANSWERS)
    assert (spent.gpus, spent.gpu_hours, spent.dollars, spent.is_priced) == (0, 0.0, None, True)


def test_imported_responses_have_cost_nothing(run: Folder) -> None:
    """Nobody counted their tokens, and that is no gap."""
    imported = CONFIG | {"teachers": {"direct": {"responses": "r.jsonl"}, "slow": {"endpoint": ENDPOINT}}}
    rows = [tokens(None, None, teacher="direct"), tokens(1_000_000, 1_000_000, teacher="slow")]
    spent = of_responses(run, imported, rows)
    assert (spent.prompt_tokens, spent.generated_tokens, spent.num_uncounted) == (1_000_000, 1_000_000, 0)
    assert (spent.gpus, spent.dollars) == (0, 5.0)


def test_an_endpoint_that_does_not_count_has_no_price(run: Folder) -> None:
    spent = of_responses(run, CONFIG, [*ANSWERS, tokens(None, 70, teacher="slow")])
    assert (spent.num_uncounted, spent.generated_tokens) == (1, 753_070)
    assert (spent.dollars, spent.is_priced) == (48.0, False)
    first, *_, total = cost.rows_of([spent])
    assert first[1:3] == ["at least 2,000,300", "at least 753,070"]
    assert first[-1] == total[-1] == "at least 48.00"


def test_without_prices_there_are_no_dollars(run: Folder) -> None:
    spent = of_responses(run, CONFIG | {"plan": {}}, ANSWERS)
    assert (spent.gpu_hours, spent.dollars, spent.is_priced) == (16.0, None, False)
    assert {row[-1] for row in cost.rows_of([spent])} == {"–"}


def test_a_configuration_of_another_version_leaves_the_tokens(run: Folder) -> None:
    spent = of_responses(run, CONFIG | {"a_key_of_tomorrow": 1}, ANSWERS)
    assert (spent.generated_tokens, spent.gpus, spent.gpu_hours, spent.dollars) == (753_000, None, None, None)
    (training,) = costs(run, {"a_key_of_tomorrow": 1}, [StageFiles("checkpoint", 60.0, [])])
    assert [row[-2:] for row in cost.rows_of([spent, training])] == [["–", "–"]] * 3


def test_a_teacher_that_the_configuration_has_no_more_leaves_its_tokens(run: Folder) -> None:
    spent = of_responses(run, CONFIG | {"teachers": None}, ANSWERS)
    assert (spent.generated_tokens, spent.gpus, spent.dollars) == (753_000, 0, None)


def test_each_kind_of_stage(run: Folder) -> None:
    rewrites = write(run, "rewrites", REWRITES, [tokens(10, 20)])
    answers = write(run, "eval/api/aime24", EVAL, [tokens(1_000_000, 3_000_000, scored_by="math 1")])
    times = write(run, "timing/api/aime24", TIMING, [{"num_generated_tokens": 9}])
    stages = [
        StageFiles("instructions", 1.0, []),
        StageFiles("rewrites", 3600.0, rewrites),
        StageFiles("checkpoint", 900.0, ["student/model.safetensors"]),
        StageFiles("eval/api/aime24", 60.0, answers),
        StageFiles("timing/api/aime24", 60.0, times),
    ]
    rewriting, training, evaluation, timing = costs(run, CONFIG, stages)
    assert (rewriting.prompt_tokens, rewriting.generated_tokens) == (10, 20)
    assert rewriting.dollars == pytest.approx((10 * 1.0 + 20 * 4.0) / 1e6), "by the slow teacher, at its price"
    own_price = CONFIG | {"plan": PLAN | {"long2short": {"usd_per_million_tokens": [0.0, 1.0]}}}
    assert costs(run, own_price, stages)[0].dollars == pytest.approx(20 / 1e6)
    assert (training.gpus, training.gpu_hours, training.dollars) == (16, 4.0, 12.0)
    assert (evaluation.generated_tokens, evaluation.dollars) == (3_000_000, 6.5)
    assert (timing.generated_tokens, timing.num_uncounted, timing.is_priced) == (9, 1, False)


def test_the_shards_of_others_may_go_and_may_be_broken(run: Folder) -> None:
    files = write(run, "responses", RESPONSES, ANSWERS)
    (run / "responses").write_bytes("part-torn.parquet", b"")
    stage = StageFiles("responses", 7200, [*files, "part-torn.parquet", "part-gone.parquet"])
    (spent,) = costs(run, CONFIG, [stage])
    assert spent.generated_tokens == 753_000


def test_the_report_and_the_status_show_it(run: Folder) -> None:
    artifact = Artifact(run, "responses", RESPONSES, "settings")
    write(run, "responses", RESPONSES, ANSWERS)
    text = io.StringIO()
    Console(file=text, width=140).print(*status.tables(run), sep="\n")
    assert text.getvalue().count("2,000,300") == 2, "the stage in the middle, and the sum"

    artifact.start()
    artifact.finish("responses", "responses", 4, 3600.0)
    report.build(run)
    facts = json.loads((run / "report").read_text("report.json"))
    assert [part["stage"] for part in facts["costs"][0].pop("parts")] == ["responses/direct", "responses/slow"]
    assert facts["costs"][0] | {"dollars": 29.0} == {
        "stage": "responses", "seconds": 3600.0, "prompt_tokens": 2_000_300, "generated_tokens": 753_000,
        "num_uncounted": 0, "gpus": 8, "dollars": 29.0, "is_priced": True, "gpu_hours": 8.0, "num_rows": 4,
    }  # fmt: skip
    for file in ("report.html", "report.md"):
        assert "What it has cost" in (run / "report").read_text(file)
    assert "| responses | 2,000,300 | 753,000 | 4 | 500,075 | 188,250 | 1.00 | 8 | 8.00 | 29.00 |" in (
        run / "report"
    ).read_text("report.md")
