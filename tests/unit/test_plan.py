"""The plan of a run: rows as the stages will have them, and a word on what would go wrong."""

import json
import math
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from ray_distil.commands import plan
from ray_distil.config import load
from ray_distil.config.models import TINY_MODELS
from ray_distil.errors import UserError
from ray_distil.planning import plan_table
from ray_distil.problems import collecting
from ray_distil.stages import asking
from tests.object_store import CREDENTIALS

OWN = ["instructions.path=absent.jsonl", "plan.num_instructions=1000", "instructions.num_eval=20"]


def planned(overrides: Sequence[str] = ()) -> tuple[dict[str, plan_table.Step], list[str]]:
    made = plan.make(load(None, overrides))
    return {step.name: step for step in made.steps}, made.remarks


def test_rows_are_those_that_the_stages_will_ask_for() -> None:
    steps, _ = planned(["teachers.slow.num_samples=2", "instructions.num_train=400", "instructions.num_eval=50"])
    config = load(None, ["instructions.num_train=400", "instructions.num_eval=50"])
    train = [i for ids in collecting.collect(config.instructions, 0).ids("train") for i in ids]
    asked = [i for i in train if asking.is_asked(i, "slow", 0.3)]
    assert 80 < len(asked) < 160
    assert (steps["instructions"].rows, steps["responses/direct"].rows) == (450, 400)
    assert steps["responses/slow"].rows == 2 * len(asked)
    assert steps["eval/fast/tiny"].rows == 50
    assert steps["rewrites"].rows == round(2 * len(asked) * config.plan.kept)
    assert {name for name, step in steps.items() if not step.exact} == {
        "rewrites",
        "sft_examples, packed",
        "checkpoint",
    }


def test_a_file_that_is_not_there_yet_is_assumed_or_refused() -> None:
    steps, remarks = planned(OWN)
    assert (steps["responses/direct"].rows, steps["responses/slow"].rows) == (1000, 300)
    assert any("'absent.jsonl' not there yet" in remark for remark in remarks)
    with pytest.raises(UserError, match="there is no file 'absent.jsonl'"):
        planned(["instructions.path=absent.jsonl"])


def test_a_store_that_cannot_be_reached_is_told_from_a_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses each request at once: Arrow tries for long where nobody answers."""

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        do_GET = do_HEAD

        def log_message(self, *_: Any) -> None:
            pass

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = f"scheme=http&endpoint_override=127.0.0.1:{server.server_port}&region=us-east-1"
    problems = f"instructions.path=s3://bucket/problems.jsonl?{store}"
    _, remarks = planned([problems, "plan.num_instructions=1000"])
    (line,) = [text for text in remarks if "plan.num_instructions=1,000" in text]
    assert line.startswith("instructions.path: 's3://bucket/problems.jsonl")
    assert "cannot be reached" in line
    assert "not there" not in line
    with pytest.raises(UserError, match=r"instructions.path: 's3://bucket/problems.* cannot be reached"):
        planned([problems])

    made = plan.checked(load(None, [f"run.storage_path=s3://bucket/runs?{store}"]))
    assert made.steps == plan.checked(load(None, [f"run.storage_path={tmp_path}"])).steps
    (line,) = made.remarks
    assert line.startswith("run.storage_path: s3://bucket/runs")
    assert line.endswith("; planned as a new run")
    server.shutdown()
    server.server_close()


def test_responses_that_are_there_cost_nothing(tmp_path: Path) -> None:
    imported = [f"teachers.slow={{responses: {tmp_path}/r.jsonl, fraction: 0.3}}"]
    imported += ["long2short.engine={model_source: m, num_gpus: 1}"]
    asked, (steps, remarks) = planned()[0]["responses/slow"], planned(imported)
    slow = steps["responses/slow"]
    assert (slow.rows, slow.exact, slow.tokens, slow.prompt_tokens, slow.seconds) == (asked.rows, True, 0, 0, None)
    assert slow.size == asked.size
    assert steps["rewrites"].gpus == 1
    assert any(f"'{tmp_path}/r.jsonl' not there yet" in remark for remark in remarks)
    (tmp_path / "r.jsonl").write_text("{}")
    assert planned(imported)[1] == []


def test_only_texts_that_may_be_learnt_are_counted_as_examples() -> None:
    def examples(candidates: str) -> int:
        return planned([f"curation.candidates={candidates}", "plan.kept=1"])[0]["sft_examples, packed"].rows

    direct, slow, rewrites = (examples(f"[{kind}]") for kind in ("direct", "slow", "rewrite"))
    assert (direct, slow) == (2000, rewrites)
    assert examples("null") == examples("[direct, rewrite]") == direct + rewrites
    assert examples("[slow, rewrite]") == slow + rewrites
    assert "rewrites" not in planned(["curation.candidates=[direct]"])[0]


def test_the_fewest_examples_are_a_step() -> None:
    few = ["packing.enabled=false", "teachers.direct=null", "instructions.num_train=1", "plan.kept=0.6"]
    assert planned(few)[0]["sft_examples, packed"].rows == 0


def test_a_folder_of_problems_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("instruction\n" + "".join(f"{k} + 1?\n" for k in range(50)))
    steps, remarks = planned([f"instructions.path={tmp_path}", "plan.num_instructions=9"])
    assert (steps["instructions"].rows, steps["responses/direct"].rows) == (50, 45)
    assert remarks == [f"'{tmp_path}': 50 records: 45 to train on, 5 held out; 0 have an answer"]


def test_hours_and_dollars_follow_from_rates_and_prices() -> None:
    gpu = ["teachers.direct.engine.num_gpus=1", "teachers.direct.engine.concurrency=2"]
    gpu += ["teachers.direct.engine.engine_kwargs={tensor_parallel_size: 4}"]
    steps, _ = planned([*OWN, *gpu, "plan.direct={num_generated_tokens: 100, tokens_per_s: 50}"])
    direct = steps["responses/direct"]
    assert (direct.tokens, direct.seconds, direct.gpus) == (100_000, 1000, 8)
    assert direct.gpu_hours == pytest.approx(8000 / 3600)
    endpoint = ["teachers.direct={endpoint: {base_url: 'http://h/v1', model: m, api_key_env: null}}"]
    price = "plan.direct={num_generated_tokens: 100, usd_per_million_tokens: [1, 10]}"
    steps, _ = planned([*OWN, *endpoint, price, "plan.num_prompt_tokens=50"])
    assert steps["responses/direct"].dollars == pytest.approx((50_000 * 1 + 100_000 * 10) / 1e6)


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    known, unknown = plan_table.Step("a", 1, seconds=3600, gpus=1), plan_table.Step("b", 1, gpus=1)
    assert plan_table.total([known.gpu_hours]) == 1.0
    assert plan_table.total([known.gpu_hours, unknown.gpu_hours]) is None


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("teachers.slow.sampling_params.max_tokens=200", "plan.slow.num_generated_tokens=235 reaches teachers.slow"),
        ("evaluation.sampling_params.max_tokens=100", "plan.evaluation.slow.num_generated_tokens=238 reaches"),
        ("packing.max_length=64", "long2short examples of 111 tokens exceed packing.max_length=64"),
    ],
)
def test_lengths_that_cut_are_told(override: str, told: str) -> None:
    assert planned()[1] == []
    assert any(told in remark for remark in planned([override])[1])


def test_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert planned()[0]
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_a_checkpoint_is_that_of_the_students_files() -> None:
    steps, _ = planned(["plan.student_parameters=1e12", "training.save_minutes=null"])
    with safe_open(TINY_MODELS / "student-base" / "model.safetensors", "pt") as file:
        number = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert steps["checkpoint"].size == number * 4


def test_what_is_assumed_stands_below_the_table() -> None:
    overrides = ["plan.student_parameters=0.49e+9", "plan.training_tokens_per_s=40000"]
    line = str(plan.make(load(None, overrides))).splitlines()[-1]
    assert line.startswith(
        "assumed by the section plan, whatever the models are: a student of ~490 M parameters learns 40,000 tokens/s a "
        "worker (training.student has ~"
    )
    assert ": set plan.training_tokens_per_s); direct " in line
    assert "; long2short 55 tokens a text at 500 tokens/s; eval/base 64 tokens a text at " in line
    far = str(plan.make(load(None, [*overrides, "training.student=absent"])))
    assert "a worker (training.student is absent, whose size could not be read); direct" in far


def test_states_are_counted_where_training_is_long_enough_for_them() -> None:
    def held(*overrides: str) -> float | None:
        given = ["plan.training_tokens_per_s=50", "training.num_workers=1", *overrides]
        steps, _ = planned([*OWN, *given])
        assert steps["checkpoint"].seconds is not None
        assert steps["checkpoint"].seconds > 30 * 60
        return steps["checkpoint"].size

    number = plan.student_parameters(load(None))
    assert number is not None
    student, state = number * 4, number * 16
    assert held("training.save_minutes=100000") == student
    assert held("training.save_minutes=null") == student
    assert held("training.save_minutes=null", "training.keep_states=true") == student + state
    assert held("training.save_minutes=null", "training.save_steps=1") == student + 3 * state
    assert held("training.save_minutes=1") == student + 3 * state


def test_dollars_in_all_are_a_bound_where_a_price_is_missing(tmp_path: Path) -> None:
    def total(*overrides: str) -> str:
        endpoint = "{base_url: http://x/v1, model: m, api_key_env: null}"
        teachers = [f"teachers.{name}.endpoint={endpoint}" for name in ("direct", "slow")]
        engines = [f"teachers.{name}.engine=null" for name in ("direct", "slow")]
        made = plan.make(load(None, [f"run.storage_path={tmp_path}", *teachers, *engines, *overrides]))
        return str(list(plan_table.table(made.steps).columns[7].cells)[-1])

    prices = [f"plan.{name}.usd_per_million_tokens=[10, 10]" for name in ("direct", "slow", "long2short")]
    assert total() == "–"
    assert total(prices[0]).startswith("at least ~")
    assert total(*prices).startswith("~")


def test_a_slow_teacher_that_rewrites_has_its_own_price(tmp_path: Path) -> None:
    """Unless plan.long2short has one; a remark says so where the two differ."""
    endpoint = "{base_url: http://x/v1, model: m, api_key_env: null}"
    overrides = [f"run.storage_path={tmp_path}", "teachers.slow.engine=null", f"teachers.slow.endpoint={endpoint}"]
    overrides += [
        "plan.slow.usd_per_million_tokens=[1, 4]",
        "plan.slow.tokens_per_s=100",
        "plan.long2short.tokens_per_s=null",
    ]
    steps, remarks = planned(overrides)
    rewrites = steps["rewrites"]
    assert rewrites.dollars == pytest.approx((rewrites.prompt_tokens + 4 * rewrites.tokens) / 1e6)
    assert rewrites.seconds == pytest.approx(rewrites.tokens / 100)
    assert not any("rewrites, at" in remark for remark in remarks)

    steps, remarks = planned([*overrides, "plan.long2short.usd_per_million_tokens=[1, 2]"])
    assert steps["rewrites"].dollars == pytest.approx((rewrites.prompt_tokens + 2 * rewrites.tokens) / 1e6)
    assert any("rewrites, at plan.long2short.usd_per_million_tokens=[1.0, 2.0]" in remark for remark in remarks)


def test_the_plan_says_what_it_has_read_of_own_problems(tmp_path: Path) -> None:
    lines = [{"instruction": f"{k} + 1?", "answer": str(k + 1)} for k in range(20)] + [{"instruction": "How?"}] * 2
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, [*lines, {"question": "?"}])))
    _, remarks = planned([f"instructions.path={file}"])
    (line,) = [text for text in remarks if "records" in text]
    assert line.startswith(f"{str(file)!r}: 23 records: 19 to train on, 2 held out; 20 have an answer; rejected: ")
    assert "duplicate 1 (record 22: same text as record 21)" in line
    assert "no_instruction 1 (record 23: " in line


def test_what_nobody_has_assumed_is_no_reason_for_a_warning(tmp_path: Path) -> None:
    """Means of the plan section's defaults are below the limits; those that are given are compared with them."""
    (tmp_path / "mine.yaml").write_text(
        "instructions: {path: absent.jsonl}\nplan: {num_instructions: 100}\npacking: {max_length: 224}\n"
        "long2short: {enabled: false}\nteachers: {slow: {engine: {model_source: m}, sampling_params: {max_tokens: 200}}}\n"
        "training: {student: m}\n"
    )

    def remarks(*overrides: str) -> list[str]:
        return plan.make(load(str(tmp_path / "mine.yaml"), overrides)).remarks

    _, silent = remarks()
    assert silent.startswith("tokens are guesses, and hours not told, where the plan section has none")
    limits = [text.partition(":")[0] for text in remarks("plan.slow.num_generated_tokens=300")]
    assert "plan.slow.num_generated_tokens=300 reaches teachers.slow.sampling_params.max_tokens=200" in limits
    assert "slow examples of 450 tokens exceed packing.max_length=224" in limits


def test_without_training_no_text_is_too_long_for_a_sequence() -> None:
    long = ["plan.direct={num_generated_tokens: 100, tokens_per_s: 1}", "packing.max_length=64"]
    assert any("packing.max_length" in remark for remark in planned(long)[1])
    assert not any(
        "packing.max_length" in remark for remark in planned([*long, "training=null", "evaluation.models=[]"])[1]
    )


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (["curation.choose=shortest"], 400 / (400 + 400 * 0.3)),
        (["curation.choose=random", "curation.keep=2"], 1.0),
        (["curation.max_tokens=5000"], None),
    ],
)
def test_a_choice_leaves_fewer_examples(overrides: list[str], share: float | None) -> None:
    some = ["instructions.num_train=400", "instructions.num_eval=50", "plan.kept=1"]
    before, after = (planned([*some, *more])[0]["sft_examples, packed"] for more in ([], overrides))
    if share is None:
        assert 40 < after.rows < 0.3 * before.rows
        assert after.size == pytest.approx(2 * 5000 * load(None, []).plan.bytes_per_token)
    else:
        assert after.rows == pytest.approx(before.rows * share, rel=0.05)
