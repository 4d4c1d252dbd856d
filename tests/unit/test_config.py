"""The configuration: what parses, and what each mistake is told."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ray_distil.config import RECIPES, DistillConfig, load
from ray_distil.config.models import resolve_model
from ray_distil.config.section import validate
from ray_distil.errors import ConfigError


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_parse(path: Path) -> None:
    config = load(str(path))
    assert config.training is None or config.training.student


def test_defaults_are_the_tiny_recipe_and_overrides_win() -> None:
    config = load(
        None,
        ["training.num_train_epochs=5", "run.name=mine", "evaluation.models.1.name=quick"]
        + ["evaluation.baseline=base"],
    )
    assert config.run.name == "mine"
    assert config.training.num_train_epochs == 5
    assert [m.name for m in config.evaluation.models] == ["base", "quick", "fast"]


def test_override_of_a_shared_section_changes_it_alone() -> None:
    config = load(None, ["teachers.direct.engine.engine_kwargs.max_num_seqs=7"])
    assert config.teachers.direct.engine.engine_kwargs["max_num_seqs"] == 7
    assert config.teachers.slow.engine.engine_kwargs["max_num_seqs"] == 256


def test_a_pool_of_engines_is_fixed_or_grows() -> None:
    key = "teachers.slow.engine.concurrency"
    assert load(None, [f"{key}=4"]).teachers.slow.engine.concurrency == (4, 4)
    assert load(None, [f"{key}=[1, 8]"]).teachers.slow.engine.concurrency == (1, 8)


def test_resolved_configuration_reads_back_the_same() -> None:
    config = load(None)
    assert DistillConfig.model_validate(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (
            "teachers.slow.engine.concurency=1",
            "teachers.slow.engine.concurency: unknown key; did you mean 'concurrency'?",
        ),
        (
            "teachers.slow.engine.concurrency=[3, 2]",
            "concurrency: [3, 2] is not a number of engines; give one, or [MIN, MAX]",
        ),
        ("teachers.slow.engine.concurrency=many", "concurrency: 'many' is not a number of engines"),
        ("teachers.slow.engine.concurrency=0", "concurrency: 0 is not a number of engines"),
        ("training.learning_rate=-1", "training.learning_rate: input should be greater than 0, but it is -1"),
        ("training.num_train_epochs=many", "training.num_train_epochs: input should be a valid integer"),
        ("training.zero_stage=5", "training.zero_stage: 5 is not known; known: 0, 1, 2 or 3"),
        (
            "training={student: s, zero_stage: 0}",
            "training.zero_stage: with bf16, DeepSpeed's stage 0 takes a step on no gradient before the first",
        ),
        ("training={student: s, zero_stage: 3, torch_compile: true}", "training.torch_compile: stage 3 gathers"),
        ("training", "override 'training': expected key.path=value"),
        ("run.name.x=1", "'name' holds 'tiny', which has no keys"),
        ("evaluation.models.9.name=x", "'9' is no position in a list of 3"),
        ("evaluation.baseline=slwo", "'slwo' is none of the models"),
        ("run.name=a/b", "run.name: 'a/b' is no name; give letters, digits and . _ -, as 'a-b'"),
        ("run.name=my run", "run.name: 'my run' is no name; give letters, digits and . _ -, as 'my-run'"),
        ("evaluation.models.0.name=a/b", "is no name; give letters, digits and _ blanks . + -, as 'a-b'"),
        ("instructions.columns={question: problem}", "instructions.columns.question"),
        (
            "teachers.slow.responses=r.jsonl",
            "needs one of `engine`, `endpoint`, `backend` and `responses`, not engine and responses",
        ),
        ("teachers.slow.engine=null", "needs one of `engine`, `endpoint`, `backend` and `responses`, not none"),
        ("curation.candidates=[direct, direct]", "curation.candidates: direct, direct names a kind twice"),
        ("curation.candidates=[]", "curation.candidates"),
        ("curation.candidates=[summary]", "curation.candidates"),
        ("teachers.slow={responses: r.jsonl}", "give long2short an `engine` or an `endpoint`"),
    ],
)
def test_mistakes_are_named_in_one_line(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["curation.candidates=[rewrite]", "long2short.enabled=false"], "nothing is rewritten for `rewrite`"),
        (["curation.candidates=[slow]", "teachers.slow=null"], "slow needs teachers.slow, and there is none"),
        (["curation.candidates=[rewrite]", "teachers.slow=null"], "rewrite needs teachers.slow"),
        (["curation.candidates=[direct, rewrite]", "teachers.direct=null"], "direct needs teachers.direct"),
    ],
)
def test_candidates_that_nobody_makes_are_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(None, overrides)


def test_rewrites_take_the_place_of_slow_responses_unless_candidates_say_otherwise() -> None:
    assert load(None).candidates == ["direct", "rewrite"]
    assert load(None, ["long2short.enabled=false"]).candidates == ["direct", "slow"]
    assert load(None, ["curation.candidates=[slow, rewrite]"]).candidates == ["slow", "rewrite"]


def test_imported_slow_responses_are_learnt_as_they_are_or_rewritten_by_another() -> None:
    slow = "teachers.slow={responses: r.jsonl}"
    assert load(None, [slow, "long2short.enabled=false"]).teachers.slow.responses == "r.jsonl"
    assert load(None, [slow, "long2short.engine={model_source: m}"]).long2short.engine is not None


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.yaml"):
        load(str(tmp_path / "absent.yaml"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("run: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load(str(bad))
    bad.write_text("- 1")
    with pytest.raises(ConfigError, match="got list"):
        load(str(bad))


def test_models(tmp_path: Path) -> None:
    assert Path(resolve_model("tiny:student-base", "k"), "model.safetensors").is_file()
    for source, told in (
        ("tiny:nobody", "k: there is no 'tiny:nobody'; the tiny models are tiny:student-base"),
        (str(tmp_path), "has no config.json"),
        (str(tmp_path / "x"), "there is no model folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            resolve_model(source, "k")


def test_hub_names_are_looked_up_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def model_info(self: object, name: str, revision: str | None, timeout: float) -> SimpleNamespace:
        asked.append(name)
        if name != "org/name":
            raise huggingface_hub.errors.OfflineModeIsEnabled("off")
        return SimpleNamespace(sha="a" * 40)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert resolve_model("org/name", "k") == "org/name"
    with pytest.raises(
        ConfigError, match="k: there is no model folder 'models/absent', and the hub cannot be reached .*Offline"
    ):
        resolve_model("models/absent", "k")
    assert asked == ["org/name", "models/absent"]


def test_no_secret_is_written() -> None:
    config = load(
        None,
        ["run.storage_path=s3://AKIA:sEcReT@bucket/runs?endpoint_override=x&secret_key=hidden",
         "teachers.slow.engine.env_vars={HF_TOKEN: hf_abc, OMP_NUM_THREADS: '1', MY_API_KEY: k-1}"],
    )  # fmt: skip
    text = config.to_yaml()
    assert not [secret for secret in ("sEcReT", "AKIA", "hidden", "hf_abc", "k-1") if secret in text]
    assert "s3://***@bucket/runs?endpoint_override=x&secret_key=***" in text
    assert "OMP_NUM_THREADS: '1'" in text
    assert "max_tokens: 600" in text  # no secret, whatever its name ends with


def test_a_held_out_loss_needs_something_held_out() -> None:
    with pytest.raises(ConfigError, match=r"training.eval_steps: nothing is held out; set training.eval_fraction"):
        load(None, ["training.eval_steps=5"])
    assert load(None, ["training.eval_steps=5", "training.eval_fraction=0.1"]).training.eval_steps == 5


def test_a_recipe_is_named_without_its_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("one-gpu").run.name == "one-gpu"
    for missing in ("one-gpu.yaml", "x" * 300):  # a file that is not there is not replaced by a recipe
        with pytest.raises(ConfigError, match="cannot be read"):
            load(missing)
    (tmp_path / "one-gpu").write_text("run: {name: mine}\n")
    with pytest.raises(ConfigError, match="teachers"):
        load("one-gpu")


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "tiny"),
        (["instructions.path=problems.jsonl"], "held-out"),
        (["instructions.path=problems.jsonl", "evaluation.benchmark=mine"], "mine"),
        (["evaluation.benchmarks=[held-out, tiny]"], "held-out"),
    ],
)
def test_only_problems_of_the_tiny_world_are_called_tiny(overrides: list[str], label: str) -> None:
    evaluation = load(None, overrides).evaluation
    assert evaluation.label(evaluation.benchmarks[0]) == label


def test_a_run_without_training_compares_no_models_and_needs_no_engine_for_them() -> None:
    config = load(None, ["training=null", "evaluation.engine.num_gpus=8"])
    assert (config.training, config.evaluation.models) == (None, [])
    assert list(config.engines) == ["teachers.direct.engine", "teachers.slow.engine"]
    with pytest.raises(ConfigError, match="training: missing"):
        validate(DistillConfig, {"teachers": {"direct": {"responses": "x.jsonl"}}})
