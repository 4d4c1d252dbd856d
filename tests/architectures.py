"""Students of many architectures, as small configurations: is each trained, refused with a reason, or only remarked on?

python -m tests.architectures [NAME ...]     verdict, classes and seconds of the check of each
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_distil.chat.auto_classes import AutoConfig
from ray_distil.checks import preflight
from ray_distil.config import TrainingConfig, load
from ray_distil.config.findings import Finding
from ray_distil.config.models import TINY_MODELS
from ray_distil.train.small_copies import auto_class

STUDENT = TINY_MODELS / "student-base"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
MOE = {"n_routed_experts": 64, "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 1408}
# Packed with an attention; or each example alone in its row.
WAYS = ("varlen", "sdpa", "eager", "sdpa alone", "eager alone")
# model_type -> values of config.json that published models have and Transformers' defaults lack.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {}, "qwen2_moe": {}, "qwen3": {}, "qwen3_moe": {}, "qwen3_next": {}, "qwen3_5": {}, "qwen3_5_moe": {},
    "qwen2_vl": {"text_config": {"rope_parameters": MROPE}}, "qwen2_5_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen3_vl": {}, "llama": {}, "llama4": {}, "mistral": {}, "ministral3": {}, "mistral3": {}, "mistral4": {}, "mixtral": {},
    "gemma2": {}, "gemma3_text": {}, "gemma3": {}, "gemma3n": {}, "gemma4_text": {}, "gemma4": {}, "phi3": {},
    "phi4_multimodal": {}, "glm4": {}, "glm4_moe": {}, "glm4v": {"text_config": {"rope_parameters": MROPE}}, "gpt_oss": {},
    "deepseek_v2": MOE, "deepseek_v3": {}, "deepseek_v32": {}, "olmo2": {}, "olmo3": {}, "smollm3": {}, "smolvlm": {},
    "hunyuan_v1_dense": {"head_dim": 128}, "minimax_m2": {}, "nemotron_h": {}, "lfm2": {}, "lfm2_vl": {}, "apertus": {},
    "seed_oss": {"attention_dropout": 0.0}, "exaone4": {}, "ernie4_5": {}, "ernie4_5_moe": {}, "granite": {},
    "granitemoehybrid": {}, "falcon_h1": {}, "cohere2": {}, "jamba": {}, "arcee": {},
    "dots1": {**MOE, "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5}, "starcoder2": {},
    "stablelm": {}, "bitnet": {}, "internvl": {}, "longcat_flash": {}, "mamba2": {}, "afmoe": {},
}  # fmt: skip


def folder_of(model_type: str, folder: Path) -> str:
    """A folder with the configuration of an architecture, and the tiny student's tokenizer; without weights."""
    AutoConfig.for_model(model_type, **ARCHITECTURES[model_type]).save_pretrained(folder)
    for name in TOKENIZER:
        (folder / name).write_bytes((STUDENT / name).read_bytes())
    return str(folder)


def training_of(way: str) -> tuple[TrainingConfig, bool]:
    """`(training, packing)`."""
    implementation, _, alone = way.partition(" ")
    config = load(None, [f"training.attn_implementation={implementation}"])
    assert config.training is not None
    batch = {"train_micro_batch_size_per_gpu": 1 if alone else 2}
    return config.training.model_copy(update=batch), not alone


def trial(model: str, way: str) -> list[Finding]:
    training, packing = training_of(way)
    return list(preflight._trial(model, training, packing, evaluated=True))


def verdict(model: str, way: str) -> str:
    """ "trained"; "refused: ..." for an error; "remarked: ..." """
    found = trial(model, way)
    if not found:
        return "trained"
    return f"{'refused' if found[0].is_error else 'remarked'}: {found[0].text}"


def main(names: list[str]) -> None:
    for model_type in names or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            model = folder_of(model_type, Path(folder))
            try:
                auto = auto_class(AutoConfig.from_pretrained(model)).__name__.removeprefix("AutoModelFor")
            except Exception:  # noqa: BLE001  the verdict says so
                auto = "none"
            for way in WAYS:
                start = time.perf_counter()
                text = verdict(model, way)
                print(f"{model_type:18} {auto:17} {way:11} {time.perf_counter() - start:4.1f} s  {text}", flush=True)
                if text == "trained":
                    break


if __name__ == "__main__":
    main(sys.argv[1:])
