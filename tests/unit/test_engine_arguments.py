"""Which of vLLM's engine arguments buy texts again: the table names vLLM's own arguments, group by group."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.generate.engine_arguments import NAMES, SILENT, of_texts
from ray_distil.runner.runs import Run
from ray_distil.runner.stage_settings import StageSettings
from tests.remakes import of_responses

# Arguments of silent groups that are not silent: what a custom class does nobody knows; the others change numbers.
NOT_SILENT = {
    "ParallelConfig": {"worker_cls", "worker_extension_cls"},
    "SchedulerConfig": {"scheduler_cls"},
    "LoadConfig": {"load_format", "ignore_patterns", "model_loader_extra_config"},
    "CacheConfig": {"kv_cache_dtype", "kv_cache_dtype_skip_layers", "kv_sharing_fast_prefill", "mamba_cache_dtype",
                    "mamba_ssm_cache_dtype", "use_replayssm", "replayssm_buffer_len"},
    "KernelConfig": {"enable_bf16x3_router_gemm"},
    "MultiModalConfig": {"enable_mm_embeds"},
}  # fmt: skip
PART_OF_A_GROUP = {"ModelConfig", "VllmConfig"}


@pytest.fixture(scope="module")
def groups() -> dict[str, set[str]]:
    """vLLM's groups: name -> arguments."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    return {
        str(group.title): {action.dest for action in group._group_actions} & fields for group in parser._action_groups
    }


@pytest.mark.parametrize("group", [name for name in SILENT if "vLLM" not in name and name not in PART_OF_A_GROUP])
def test_a_group_of_vllm_is_silent_but_for_named_arguments(groups: dict[str, set[str]], group: str) -> None:
    assert groups[group] - SILENT[group] == NOT_SILENT.get(group, set())
    assert SILENT[group] <= groups[group]


@pytest.mark.parametrize("group", sorted(PART_OF_A_GROUP))
def test_names_of_other_groups_are_vllms(groups: dict[str, set[str]], group: str) -> None:
    assert SILENT[group] <= groups[group]


@pytest.mark.parametrize(
    ("kwargs", "kept"),
    [
        ({"hf_token": "x", "attention_backend": "FLASHINFER", "data_parallel_size": 2, "served_model_name": "m"}, {}),
        ({"load_format": "runai_streamer"}, {}),
        ({"load_format": "dummy"}, {"load_format": "dummy"}),
        (
            {"dtype": "float16", "kv_cache_dtype": "fp8", "max_num_seqs": 3},
            {"dtype": "float16", "kv_cache_dtype": "fp8"},
        ),
    ],
)
def test_what_is_left_changes_texts(kwargs: dict[str, Any], kept: dict[str, Any]) -> None:
    assert of_texts(kwargs) == kept


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., StageSettings]:
    def of(*overrides: str) -> StageSettings:
        config = load(None, [f"run.storage_path={tmp_path}", *overrides])
        return of_responses(Run(config, resolve_models(config)))

    return of


def test_seed_and_top_p_count_only_where_tokens_are_drawn(made: Callable[..., StageSettings]) -> None:
    greedy = made().marks["slow"]
    assert made("run.seed=5").marks["slow"] == greedy
    assert made("teachers.slow.sampling_params.top_p=0.5").marks["slow"] == greedy
    drawn = "teachers.slow.sampling_params.temperature=0.6"
    assert made(drawn).marks["slow"] != greedy
    assert made(drawn, "run.seed=5").marks["slow"] != made(drawn).marks["slow"]
    assert made(drawn, "teachers.slow.sampling_params.top_p=0.5").marks["slow"] != made(drawn).marks["slow"]


def test_artifacts_of_earlier_versions_are_known_by_their_marks(made: Callable[..., StageSettings]) -> None:
    assert made().earlier is None
    silent = "teachers.slow.engine.engine_kwargs={attention_backend: TRITON_ATTN}"
    by_earlier = made(silent).earlier
    assert made(silent).marks == made("teachers.slow.engine.engine_kwargs={}").marks
    assert by_earlier is not None
    assert by_earlier.marks["slow"][0] == made(silent).earlier_marks["slow"] != made(silent).marks["slow"][0]
    assert {"attention_backend"} <= NAMES
