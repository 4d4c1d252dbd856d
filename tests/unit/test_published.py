"""The recipe's own files: what they become, what mistakes in them are told, and the template's part in the ids."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ray_distil.chat.prompts import LONG2SHORT, long2short_messages
from ray_distil.chat.tokenization import encode_example, end_of_turn, load_tokenizer, render
from ray_distil.commands import published
from ray_distil.commands.published import SimplifyFile, TrainFile
from ray_distil.config import RECIPES
from ray_distil.config.models import resolve_model
from ray_distil.config.section import read_mapping, validate
from ray_distil.errors import ConfigError, UserError
from ray_distil.stages.imports import imported_example, imported_response
from tests.unit.endpoint_server import EndpointServer

STUDENT = resolve_model("tiny:student-base", "k")
KNOWN = {"response_id": "id", "instruction_id": "id", "teacher": "slow", "sample_index": 1}
STAGE1 = {
    "job_type": "cot_long2short_api",
    "dataset": {"input_path": "./raw.json", "output_path": "./raw_simplified.json"},
    "inference": {
        "base_url": "ENDPOINT",
        "api_key": "TOKEN",
        "stream": True,
        "prompt": LONG2SHORT,
        "max_new_tokens": 1024,
    },
}
TEMPLATE = (
    "{{'<|im_start|>user\\n' + message['content'] + '<|im_end|>'}}\n"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant'}}{% endif %}"
    "{% if add_output %}{{'<|im_start|>assistant\\n' + message['output'] + '<|im_end|>-'}}{% endif %}"
)


def test_the_published_files_are_read_with_every_value() -> None:
    assert validate(SimplifyFile, read_mapping(RECIPES / "distilqwen2.5-0324_stage1.json")).model_dump() == STAGE1
    stage2 = validate(TrainFile, read_mapping(RECIPES / "distilqwen2.5-0324_stage2.json"))
    assert stage2.dataset.model_dump() == {
        "labeled_path": "distil_qwen_0324.json",
        "template": "chat_template_kd.jinja",
        "seed": 42,
    }
    assert stage2.training.model_dump() == {
        "output_dir": "result_stage2/",
        "num_train_epochs": 3,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "save_steps": 1000,
        "logging_steps": 1,
        "learning_rate": 2e-5,
        "weight_decay": 0.05,
        "warmup_ratio": 0.1,
        "lr_scheduler_type": "cosine",
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"job_type": "cot_long2shrt_api"},
            "job_type: 'cot_long2shrt_api' is not known; did you mean 'cot_long2short_api'?",
        ),
        ({"job_typ": "x"}, "job_typ: unknown key; did you mean 'job_type'?"),
        ({"dataset": {"input_path": "a", "output": "b"}}, "dataset.output: unknown key; did you mean 'output_path'?"),
        ({"dataset": {"input_path": "a"}}, "dataset.output_path: missing"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_nearest_known(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(SimplifyFile, STAGE1 | change)
    assert told in str(error.value)


def test_placeholders_are_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKEN", raising=False)
    Path("raw.json").write_text(json.dumps([{"instruction": "2 + 3?", "output": "It is 5."}]))
    Path("stage1.json").write_text(json.dumps(STAGE1))
    with pytest.raises(ConfigError, match="inference.api_key: 'TOKEN' is a placeholder; .* export TOKEN="):
        published.simplify("stage1.json")
    assert not Path("raw_simplified_run").exists()


def test_the_key_is_kept_in_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    assert published.key_in_environment("TOKEN") == "TOKEN"
    monkeypatch.setenv("RAY_DISTIL_API_KEY", "")
    assert published.key_in_environment("sk-1") == "RAY_DISTIL_API_KEY"
    assert os.environ["RAY_DISTIL_API_KEY"] == "sk-1"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match="inference.api_key: on a cluster .* write TOKEN"):
        published.key_in_environment("sk-1")


def test_an_endpoint_says_which_model_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with EndpointServer() as server:
        assert published.served_model(server.url, "k") == "served"
    monkeypatch.setattr("openai._constants.INITIAL_RETRY_DELAY", 0)
    with pytest.raises(UserError, match="inference.base_url: .* does not say which models it has"):
        published.served_model(server.url, "k")


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"data": None}, r"\{\"data\": null\}"),
        ({"data": [{"name": "x"}]}, "name"),
        ([], r"\[\]"),
        ({"error": "no such key: secret"}, r"no such key: \*\*\*"),
        ("<html><title>Welcome</title></html>", "a page, 'Welcome'; does the base_url end in /v1"),
    ],
)
def test_an_endpoint_whose_models_are_none_is_told(models: Any, said: str) -> None:
    with (
        EndpointServer(models=models) as server,
        pytest.raises(UserError, match=rf"inference.base_url: .* does not say which models it has \(.*{said}"),
    ):
        published.served_model(server.url, "secret")


def test_the_prompt_of_the_file_is_the_system_prompt() -> None:
    assert long2short_messages("q", "a", "r", "Be brief.")[0] == {"role": "system", "content": "Be brief."}
    assert long2short_messages("q", "a", "r")[0]["content"] == LONG2SHORT


def test_an_imported_response_is_split_and_its_counts_are_not_known() -> None:
    record = {"instruction": "2 + 3?", "output": "<think>\n2 and 3 make 5\n</think>\n\nThe answer is \\boxed{5}."}
    row = imported_response(record, KNOWN)
    assert (row["reasoning"], row["answer"], row["finish_reason"]) == ("2 and 3 make 5", "5", "stop")
    assert row.get("num_generated_tokens") is None
    assert imported_response({"instruction": "q", "output": "no marks"}, KNOWN)["reasoning"] == ""


@pytest.mark.parametrize(
    "record", ["text", {}, {"instruction": "q"}, {"instruction": "q", "output": " "}, {"instruction": 1}]
)
def test_a_record_without_its_texts_is_rejected(record: Any) -> None:
    assert imported_response(record, KNOWN)["reject_reason"] == "bad_record"
    assert imported_example(record, "id")["reject_reason"] == "bad_record"


def test_a_template_gives_prompt_and_stop_token() -> None:
    before, behind = render(TEMPLATE, "2 + 3?")
    assert before == "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n"
    assert behind == "<|im_end|>-"
    ids, labels = encode_example("2 + 3?", "It is 5.", STUDENT, TEMPLATE)
    assert (ids, labels) == encode_example("2 + 3?", "It is 5.", STUDENT)  # it is the student's own chat template
    assert ids[-1] == labels[-1] == end_of_turn(STUDENT)
    other, _ = encode_example("2 + 3?", "It is 5.", STUDENT, "{{ message.content }} -> {{ message.output }}")
    assert load_tokenizer(STUDENT).decode(other).startswith("2 + 3? -> It is 5.")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ message.content }}", "does not write message.output"),
        ("{{ absent }}", "UndefinedError"),
        ("{% if %}", "Syntax"),
    ],
)
def test_a_template_that_does_not_work_is_told(template: str, told: str) -> None:
    with pytest.raises(UserError, match=f"packing.template: .*{told}"):
        render(template, "q")
