"""Sampling parameters: vLLM's own names, and the model's own values where the configuration leaves them to the model."""

import ast
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import load
from ray_distil.config.engine_config import EndpointConfig, EngineConfig, SamplingParams
from ray_distil.generate.generator import Generator

OWN = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.05}
ENGINE = EngineConfig(model_source="m")
ENDPOINT = EndpointConfig(base_url="http://h/v1", model="m")
# vLLM's parameters that are no keys of a configuration, each for its reason.
SET_BY_THE_RUN = {
    "n", "seed",  # num_samples; run.seed and the row's id
    "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output",  # a text ends where its turn ends
    "logprobs", "prompt_logprobs", "logprob_token_ids", "flat_logprobs",  # nobody reads them
    "detokenize", "skip_special_tokens", "spaces_between_special_tokens", "output_kind", "stream_interval",  # the text's form
    "structured_outputs", "logit_bias", "extra_args", "repetition_detection",  # no columns of a table
    "skip_clone", "output_text_buffer_length", "skip_reading_prefix_cache", "routed_experts_prompt_start",  # no sampling
    "trace_decode_token_ids",
}  # fmt: skip


def params(sampling: SamplingParams, backend: EngineConfig | EndpointConfig, model: str) -> dict[str, Any]:
    return Generator("teachers.slow", "teachers.slow", model, backend, sampling).sampling_params


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "generation_config.json").write_text(json.dumps(OWN | {"do_sample": True, "max_new_tokens": 9}))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"temperature": 0.0, "top_p": 1.0}),
        ({"temperature": None}, OWN),
        ({"temperature": None, "top_p": None}, OWN),
        ({"temperature": None, "top_k": 5, "top_p": 0.5}, OWN | {"top_k": 5, "top_p": 0.5}),
        ({"temperature": 0.3, "top_p": None}, OWN | {"temperature": 0.3}),
        ({"temperature": 0.3, "top_k": 5, "bad_words": ["Wait"]}, {"temperature": 0.3, "top_p": 1.0, "top_k": 5, "bad_words": ["Wait"]}),
    ],
)  # fmt: skip
def test_what_is_left_to_the_model_is_its_own(model: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    sampling = SamplingParams(**given)
    assert params(sampling, ENGINE, model) == expected | {"max_tokens": 4096}
    again = SamplingParams(**sampling.model_dump())  # as config.yaml has it
    assert params(again, ENGINE, model) == expected | {"max_tokens": 4096}


def test_an_endpoint_sets_its_own_values_itself(model: str) -> None:
    sampling = SamplingParams(temperature=None, top_k=5)
    assert params(sampling, ENDPOINT, model) == {"top_k": 5, "max_tokens": 4096}


def test_every_parameter_of_vllm_is_a_key_or_is_set_by_the_run() -> None:
    package = find_spec("vllm")
    assert package is not None
    source = Path((package.submodule_search_locations or [""])[0], "sampling_params.py").read_text("utf-8")
    (declared,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "SamplingParams"
    )
    names = {
        item.target.id
        for item in declared.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
    }
    keys = set(SamplingParams.model_fields)
    assert keys <= names
    assert names - keys == SET_BY_THE_RUN


def test_a_parameter_of_an_engine_comes_from_the_command_line() -> None:
    config = load(None, ["teachers.slow.sampling_params.top_k=20"])
    assert config.teachers is not None
    assert config.teachers.slow is not None
    assert config.teachers.slow.sampling_params.top_k == 20
