"""What cannot be right is told in the first seconds, with the key and the remedy; what may be right is remarked."""

import functools
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from ray_distil.checks import idle_settings, leaks, model_checks, preflight
from ray_distil.checks.model_checks import CheckedModel
from ray_distil.config import DistillConfig, load
from ray_distil.config.models import TINY_MODELS, resolve_models
from ray_distil.errors import UserError
from ray_distil.generate import engine
from ray_distil.problems import collecting
from ray_distil.records.problems import Problems
from tests.chat_families import TEMPLATES, TINY, model_with
from tests.unit.endpoint_server import EndpointServer


@functools.cache
def tiny_problems() -> Problems:
    """Those of the tiny recipe, drawn once: no check here changes the instructions."""
    return collecting.collect(load(None, []).instructions, 0)


def check(*overrides: str) -> list[str]:
    config: DistillConfig = load(None, list(overrides))
    remarks = preflight.check(config, resolve_models(config), tiny_problems())
    return [text for text in remarks if "the student before its training" not in text]  # most tests train a copy


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of our own, and vLLM not loaded: test_wrong_engines has its arguments."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(engine, "unknown_arguments", lambda engines: [])


def student(folder: Path, **changes: str) -> str:
    """The tiny student with files changed; "" removes one."""
    shutil.copytree(TINY, folder)
    for name, text in changes.items():
        file = folder / name.replace("__", ".")
        file.write_text(text) if text else file.unlink(missing_ok=True)
    return f"training.student={folder}"


def test_more_connections_than_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with EndpointServer() as server:
        endpoint = f"{{base_url: '{server.url}', model: m, api_key_env: null, max_concurrency: 3000}}"
        overrides = ["teachers.slow.engine=null", f"teachers.slow.endpoint={endpoint}"]
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 2256))
        assert check(*overrides) == []
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 2255))
        with pytest.raises(UserError, match=r"slow.endpoint.max_concurrency: 1,000 connections .* allows 2,255"):
            check(*overrides)


def test_the_tiny_recipe_has_nothing_to_remark() -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["training.num_workers=8"], "training.num_workers: 8 workers of 1 CPU, and this Ray has 4"),
        (["training.use_gpu=true"], "training.use_gpu: 2 workers would need 2 GPUs, and this machine has none"),
        (
            ["teachers.slow.engine.num_gpus=1"],
            "teachers.slow.engine.num_gpus: an engine would need 1 GPU, and this machine has",
        ),
        (["teachers.slow.engine.num_cpus=9"], "teachers.slow.engine.num_cpus: an engine reserves 9 CPUs"),
        (
            ["teachers.slow.engine.num_cpus=3.5"],
            "teachers.slow.engine.num_cpus: an engine reserves 3.5 of 4 CPUs of this Ray, and the tasks of its rows need",
        ),
        (["evaluation.engine.resources={eval: 1}"], "evaluation.engine.resources: 'eval' is on no node"),
        (
            ["teachers.direct.engine.engine_kwargs.max_model_len=8000"],
            "max_model_len: 8,000, and the model reads 1,024",
        ),
        (
            ["teachers.slow.sampling_params.max_tokens=2000"],
            "teachers.slow.sampling_params.max_tokens: 2,000 and a prompt",
        ),
        (["evaluation.sampling_params.max_tokens=1025"], "lower it to 979 or less"),
        (["long2short.sampling_params.max_tokens=1025"], "long2short.sampling_params.max_tokens: 1,025"),
        (
            ["teachers.slow.engine.num_cpus=3", "teachers.slow.engine.engine_kwargs.tensor_parallel_size=2"],
            "teachers.slow.engine.num_cpus: an engine reserves 6 CPUs",
        ),
        (["teachers.direct.engine.accelerator_type=H100"], "accelerator_type: 'H100' is on no node"),
        (
            ["training.attn_implementation=flash_attention_2", "training.train_micro_batch_size_per_gpu=1"],
            "flash_attention_2 needs a GPU",
        ),
        (["packing.max_length=16"], "packing.max_length: 16, and the shortest prompt has"),
        (["teachers.direct.engine.engine_kwargs.max_model_len=20"], "the shortest prompt has"),
    ],
)
def test_what_cannot_be_right_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as told:
        check(*overrides)
    assert says in str(told.value)


def test_as_many_tokens_as_the_engine_reads_are_allowed(tmp_path: Path) -> None:
    assert check("evaluation.sampling_params.max_tokens=1024", "evaluation.models=[]") == []
    assert check("teachers.direct.sampling_params.max_tokens=1024") == []
    (cut,) = check("teachers.direct.sampling_params.max_tokens=1000")
    assert cut.startswith("teachers.direct.sampling_params.max_tokens: 1,000, and behind a prompt of 45 tokens, ")


def test_a_token_that_is_never_written_may_lie_behind_the_table(tmp_path: Path) -> None:
    """As Gemma 3's mark of a picture in its text models; a mark of the template may not."""
    tokenizer = json.loads((Path(TINY) / "tokenizer.json").read_text())
    mark = {"id": 803, "content": "<image_soft_token>", "special": True, "single_word": False, "lstrip": False}
    tokenizer["added_tokens"].append(mark | {"rstrip": False, "normalized": False})
    config = json.loads((Path(TINY) / "config.json").read_text()) | {"vocab_size": 803}
    texts = {"tokenizer__json": json.dumps(tokenizer), "config__json": json.dumps(config)}
    written = (Path(TINY) / "chat_template.jinja").read_text() + "<image_soft_token>"

    def told(name: str, **more: str) -> list[str]:
        student(tmp_path / name, **texts, **more)
        return [f.text for f in model_checks.vocabulary(CheckedModel("training.student", str(tmp_path / name)))]

    assert told("unused") == []
    assert told("written", chat_template__jinja=written) == [
        "the tokenizer of written has 804 tokens and the model 803; it is another's"
    ]
    texts["config__json"] = json.dumps(config | {"vocab_size": 802})  # " 9" is part of texts
    assert told("small") == ["the tokenizer of small has 803 tokens and the model 802; it is another's"]


def test_a_tokenizer_that_is_code_is_run_where_the_recipe_says_so(tmp_path: Path) -> None:
    """As that of Kimi-K2: its repository has a class, and no tokenizer.json."""
    folder = Path(shutil.copytree(TINY_MODELS / "teacher-v3", tmp_path / "kimi"))
    (folder / "tokenizer.json").rename(folder / "words.json")
    code = """from transformers import PreTrainedTokenizerFast
from pathlib import Path

class KimiTokenizer(PreTrainedTokenizerFast):
    def __init__(self, **options):
        folder = Path(options.pop("name_or_path"))
        super().__init__(tokenizer_file=str(folder / "words.json"), **options)
"""
    (folder / "tokenization_kimi.py").write_text(code)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "KimiTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.KimiTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    source = f"teachers.direct.engine.model_source={folder}"
    with pytest.raises(UserError, match=r"teachers.direct: .*set engine_kwargs.trust_remote_code=true to run it"):
        check(source)
    trusted = "teachers.direct.engine.engine_kwargs.trust_remote_code=true"
    assert check(source, trusted) == []
    with pytest.raises(
        UserError, match=r"training.student: .* is code of its repository, which a training does not run"
    ):
        check(source, trusted, f"training.student={folder}")


def test_positions_that_are_scaled_are_for_vllm_to_judge(tmp_path: Path) -> None:
    longer = "evaluation.engine.engine_kwargs.max_model_len=2048"
    config = json.loads((Path(TINY) / "config.json").read_text())
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 10000.0}
    text = json.dumps(config | {"rope_parameters": scaled})
    models = "evaluation.models=[{name: slow, model_source: student}]"
    assert check(student(tmp_path / "a", config__json=text), longer, models) == []
    with pytest.raises(UserError, match="the model reads 1,024 tokens"):
        check(longer, models)


def test_on_a_cluster_what_is_not_there_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert check("training.num_workers=8", "teachers.slow.engine.num_gpus=1") == []


@pytest.mark.parametrize(("cuda", "is_told"), [(None, True), ("13.0", False)])
def test_a_build_of_torch_without_gpus_is_told(
    cuda: str | None, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(UserError) as told:
        check("training.use_gpu=true", "training.num_workers=1")
    assert "1 worker would need 1 GPU, and this machine has none" in str(told.value)
    assert ("is a build for CPUs; see Install in README.md" in str(told.value)) == is_told


def test_tiny_teachers_know_their_own_world_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"instruction": "2 + 3?", "answer": "5"}\n{"instruction": "3 + 3?"}\n')
    config = load(None, [f"instructions.path={tmp_path}/mine.jsonl"])
    remarks = preflight.check(config, resolve_models(config))
    assert [text for text in remarks if text.startswith("the tiny teachers know the problems of the tiny world alone")]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as told:
        check("training.num_workers=8", "teachers.slow.sampling_params.max_tokens=2000")
    assert len(str(told.value).splitlines()) == 2


def test_a_student_that_cannot_be_spoken_to_is_refused(tmp_path: Path) -> None:
    config = json.loads((Path(TINY) / "config.json").read_text())
    for name, changes, says in (
        ("a", {"chat_template__jinja": ""}, "has no chat template"),
        ("b", {"tokenizer__json": "", "tokenizer_config__json": ""}, "has no tokenizer that can be read"),
        ("c", {"config__json": json.dumps(config | {"vocab_size": 100})}, "it is another's"),
        ("d", {"chat_template__jinja": "{{ raise_exception('never') }}"}, "never"),
    ):
        with pytest.raises(UserError) as told:
            check(student(tmp_path / name, **changes), "evaluation.models=[]")
        assert "training.student: " in str(told.value)
        assert len(str(told.value).splitlines()) == 1
        assert says in str(told.value)
        assert "Traceback" not in str(told.value)


def test_what_a_template_adds_is_remarked(tmp_path: Path) -> None:
    for name in ("Qwen2.5", "Llama-3.1", "Gemma"):
        (tmp_path / name).mkdir()
        model_with(TEMPLATES[name], tmp_path / name)
    (own,) = check(f"training.student={tmp_path / 'Qwen2.5'}")
    assert own == "Qwen2.5: its chat template adds the system prompt 'You are a model.'; system_prompt decides"
    assert (
        check(f"training.student={tmp_path / 'Qwen2.5'}", "training.system_prompt=") != []
    )  # null: the template's own
    assert check(f"training.student={tmp_path / 'Qwen2.5'}", 'training.system_prompt=""', "evaluation.models=[]") == []
    (dated,) = check(f"training.student={tmp_path / 'Llama-3.1'}")
    assert dated.startswith("Llama-3.1: its chat template writes a date")
    (refused,) = check(f"training.student={tmp_path / 'Gemma'}", "training.system_prompt=Be brief.")
    assert "has no system turn" in refused


def test_a_template_of_packing_is_that_of_the_export() -> None:
    own = "<|im_start|>user\\n{{message.content}}<|im_end|>\\n<|im_start|>assistant\\n{{message.output}}<|im_end|>"
    opened = "<|im_start|>user\\n{{message.content}}<|im_end|>\\n<|im_start|>assistant\\n"
    written = "{% if add_output %}{{message.output}}<|im_end|>{% endif %}"
    assert check(f'packing.template="{own}"') == []
    assert check(f'packing.template="{opened}{written}"') == []
    with pytest.raises(
        UserError, match="packing.template: .* would be asked otherwise .* it changes the question's text"
    ):
        check('packing.template="{{message.content | trim}} -> {{message.output}}"')


def test_a_plan_remarks_what_only_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = load(None, ["training.use_gpu=true", "teachers.direct.engine.model_source=org/far-away"])
    told = preflight.check_plan(config, None)
    assert any("training.use_gpu" in line for line in told)
    far = "not on this machine, and not checked: files, chat template, tokenizer, context and class of org/far-away; "
    assert told[-1].startswith(f"{far}the hub cannot be reached (OfflineModeIsEnabled): set HF_ENDPOINT to a mirror or")
    assert told[-1].endswith("fetch the model elsewhere by `ray-distil download org/far-away`, and give its folder")


def test_lengths_that_contradict_each_other_are_told_without_the_models_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    engine_values = "{model_source: org/far-away, engine_kwargs: {max_model_len: 512}}"
    overrides = [f"teachers.slow.engine={engine_values}", f"evaluation.engine={engine_values}"]
    overrides += ["evaluation.models=[{name: slow, model_source: org/far-away}]"]
    lengths = ["teachers.slow.sampling_params.max_tokens=512", "evaluation.sampling_params.max_tokens=512"]
    lengths += ["long2short.sampling_params.max_tokens=120"]
    assert preflight.check_plan(load(None, [*overrides, *lengths]), None)
    with pytest.raises(UserError) as told:
        preflight.check_plan(load(None, [*overrides, *[text.replace("512", "513") for text in lengths]]), None)
    assert str(told.value).splitlines() == [
        f"{key}.sampling_params.max_tokens: 513, and its engine reads 512 with the prompt; lower it, or raise "
        f"{key}.engine.engine_kwargs.max_model_len"
        for key in ("teachers.slow", "evaluation")
    ]


def test_a_comparison_without_the_untrained_student_is_told() -> None:
    def told(*overrides: str) -> list[str]:
        return [str(finding) for finding in idle_settings._without_base(load(None, list(overrides)))]

    assert (
        told() == told("training=null") == told("evaluation.models=[{name: slow, model_source: tiny:teacher-r1}]") == []
    )
    (line,) = told("training.student=org/other")
    assert line.startswith("evaluation.models: none is org/other, the student before its training, so no figure says")
    assert told("training.student=org/other", "evaluation.models.0.model_source=org/other") == []


def test_gpus_are_of_each_worker() -> None:
    engine_values = (
        "{model_source: m, num_gpus: 1, engine_kwargs: {tensor_parallel_size: 4, pipeline_parallel_size: 2}}"
    )
    with pytest.raises(UserError, match=r"teachers.slow.engine.num_gpus: .* 8 GPUs"):
        check(f"teachers.slow.engine={engine_values.replace('m,', 'tiny:teacher-r1,')}")
    with pytest.raises(
        UserError, match=r"num_gpus: 4 for each of the engine's 8 workers .* are 32 GPUs.*set num_gpus=1"
    ):
        load(None, [f"teachers.slow.engine={engine_values.replace('num_gpus: 1', 'num_gpus: 4')}"])


@pytest.mark.parametrize(
    ("model_type", "attention", "says"),
    [
        ("qwen2", "sdpa", ""),
        ("llama", "eager", ""),
        ("gemma2", "sdpa", "has no attn_implementation=sdpa"),
        ("gemma2", "eager", ""),
        ("gemma2", "varlen", "(attention by segments was given softcap); set training.attn_implementation=eager"),
        ("qwen2", "varlen", ""),
        ("mistral", "varlen", ""),
        ("bloom", "varlen", "packed examples see each other"),
        ("mamba", "varlen", "set packing.enabled=false and training.train_micro_batch_size_per_gpu=1"),
        ("recurrent_gemma", "sdpa", "packed examples see each other"),
        ("mamba", "eager", "packed examples see each other"),
    ],
)
def test_an_architecture_in_which_packed_examples_see_each_other_is_found(
    model_type: str, attention: str, says: str, tmp_path: Path
) -> None:
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    found = leaks.leak(str(tmp_path), attention)
    assert says in found
    assert bool(found) == bool(says)


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("mamba", ""),
        ("qwen2", ""),
        ("gemma2", "softcap); set training.attn_implementation=eager"),
        ("bloom", "apart); set training.attn_implementation=eager"),
    ],
)
def test_an_attention_that_an_architecture_does_not_take_is_found_without_packing(
    model_type: str, says: str, tmp_path: Path
) -> None:
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    found = leaks.leak(str(tmp_path), "varlen", together=False)
    assert says in found
    assert bool(found) == bool(says)


def test_a_student_that_cannot_be_packed_is_refused_where_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(model: str, attention: str, together: bool) -> str:
        return "packed examples see each other in its architecture" if together else ""

    monkeypatch.setattr(leaks, "leak", told)
    alone = ["packing.enabled=false", "packing.max_length=null"]
    with pytest.raises(UserError, match=r"training.student: packed examples see each other"):
        check()
    with pytest.raises(UserError, match=r"training.student: packed examples see each other"):
        check(*alone)  # four of them in a flat row
    assert check(*alone, "training.train_micro_batch_size_per_gpu=1") == []
    assert check(*alone, "training.attn_implementation=sdpa") == []

    def cannot(model: str, attention: str, together: bool) -> str:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(leaks, "leak", cannot)
    assert check()[0].startswith(
        "training.student: a training step could not be tried on a small copy of its architecture"
    )


def test_a_model_without_its_weights_or_with_half_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.student: .* has no weights"):
        check(student(tmp_path / "none", model__safetensors=""), "evaluation.models=[]")
    chosen = student(tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"half/model.safetensors' is no whole file of weights"):
        check(chosen, "evaluation.models=[]")


def test_a_student_whose_architecture_is_not_known_is_refused(tmp_path: Path) -> None:
    settings = json.loads((Path(TINY) / "config.json").read_text()) | {
        "model_type": "of_tomorrow",
        "architectures": ["X"],
    }
    chosen = student(tmp_path / "x", config__json=json.dumps(settings))
    with pytest.raises(UserError, match=r"training.student: transformers cannot read its config.json .*of_tomorrow"):
        check(chosen, "evaluation.models=[]")


def test_what_may_be_right_is_remarked(tmp_path: Path) -> None:
    (unseen,) = check("evaluation.models=[]", "training.chat_template_kwargs={enable_thinkin: false}")
    assert unseen.endswith("does not look at 'enable_thinkin' of chat_template_kwargs")
    (short,) = check("long2short.engine={model_source: tiny:teacher-v3, engine_kwargs: {max_model_len: 256}}")
    assert short.startswith(
        "long2short: a chain of 600 tokens and a rewrite of 120 are more than its engine reads (256)"
    )
    samples = "evaluation.benchmarks=[{name: tiny, num_samples: 4}]"
    assert check("teachers.direct.num_samples=2", samples) == [
        "teachers.direct: 2 samples at temperature 0 are one text 2 times; set a temperature, or one sample",
        "evaluation.benchmarks: tiny: 4 samples at temperature 0 are one text 4 times; set a temperature, or one sample",
    ]
    warm = "{max_tokens: 120, temperature: 0.6}"
    assert (
        check("teachers.direct.num_samples=2", f"teachers.direct.sampling_params={warm}", "evaluation.models=[]") == []
    )
    clock = "{% set f = '%d %b' %}{{ strftime_now(f) }}" + (Path(TINY) / "chat_template.jinja").read_text()
    (today,) = check(student(tmp_path / "clock", chat_template__jinja=clock), "evaluation.models=[]")
    assert "in a form that run.date does not reach" in today
    closed = (
        Path(TINY) / "chat_template.jinja"
    ).read_text() + "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}"
    told = check(
        student(tmp_path / "closed", chat_template__jinja=closed), "evaluation.models=[]", "long2short.enabled=false"
    )
    assert any("its prompt holds an empty think block" in line for line in told)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.date=2026-13-45", "run.date=2026-13-45.*is not YAML"),
        ("run.date='2026-13-45'", "run.date: '2026-13-45' is no day"),
        ("training.adam_betas=[2,3]", "training.adam_betas.0: input should be less than 1"),
        ("teachers.slow.engine.engine_kwargs.tensor_parallel_size=two", "tensor_parallel_size: 'two' is no number"),
        ("teachers.slow.engine.engine_kwargs.max_model_len=1k", "max_model_len: '1k' is no number"),
        ("training.chat_template_kwargs={tokenize: false}", "chat_template_kwargs: 'tokenize' is set by the run"),
    ],
)
def test_values_that_are_none_are_told_by_their_key(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(None, [override])


def test_a_date_is_taken_as_yaml_reads_it() -> None:
    assert load(None, ["run.date=2026-11-27"]).run.date == "2026-11-27"
    assert check("teachers.direct.engine.engine_kwargs.max_model_len=-1") == []


def test_a_teacher_that_is_asked_for_nothing_is_told(tmp_path: Path) -> None:
    def told(candidates: str) -> list[str]:
        return [str(each) for each in idle_settings._never_learnt(load(None, [f"curation.candidates={candidates}"]))]

    assert told("null") == told("[direct, slow]") == told("[rewrite, direct]") == []
    (slow,) = told("[direct]")
    assert slow.startswith("teachers.slow: it is asked, and none of its texts is learnt; curation.candidates is direct")
    (direct,) = told("[slow, rewrite]")
    assert direct.startswith("teachers.direct: ")


def test_a_plan_says_in_one_line_what_this_machine_lacks() -> None:
    config = load(None, ["training.num_workers=8", "training.use_gpu=true", "teachers.slow.engine.num_gpus=1"])
    line, memory = preflight.check_plan(config, None)
    assert memory.startswith("training takes about ")
    assert line.startswith("on this machine the run would end at once: teachers.slow.engine.num_gpus: an engine would")
    assert line.endswith(" (2 more settings like this)")


def test_a_plan_for_a_cluster_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines = preflight.check_plan(load("distilqwen2.5-0324-32b", []), None)
    assert (
        "meant for a cluster with at least 16 GPUs of role teacher and 16 GPUs of role student; this machine has"
        in ("\n".join(lines))
    )
    assert not [line for line in lines if line.startswith("on this machine")]
    mixed = ["teachers.direct.engine.num_cpus=9", "teachers.slow.engine.num_gpus=1"]
    (line,) = preflight.check_plan(load(None, mixed), None)
    assert line.startswith("on this machine the run would end at once: teachers.slow.engine.num_gpus: ")


def test_a_key_that_is_missing_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines = preflight.check_plan(load("distilqwen2.5-0324-7b", []), None)
    (line,) = [text for text in lines if "DEEPSEEK_API_KEY" in text]
    assert line.startswith(
        "long2short.endpoint, teachers.direct.endpoint, teachers.slow.endpoint.api_key_env: 'DEEPSEEK_API_KEY' is not"
    )


def test_a_plan_tells_of_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = load(None, [f"run.storage_path={tmp_path}/file/runs"])
    (line,) = preflight.check_plan(config, None)
    assert line.endswith(
        f"{tmp_path}/file/runs/tiny cannot be written on this machine; {tmp_path}/file is no folder that can"
    )
    assert preflight.check_plan(load(None, [f"run.storage_path={tmp_path}/new/runs"]), None) == []
    assert not (tmp_path / "new").exists()
