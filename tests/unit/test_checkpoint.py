"""The export file by file: what transformers writes itself, in one file or in several."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from ray_distil.chat.chat_templates import load_tokenizer
from ray_distil.config.models import TINY_MODELS
from ray_distil.train import checkpoint
from ray_distil.train.small_copies import small_copy
from tests.unit.test_loss import built


def of(kind: str) -> Any:
    if kind == "experts":  # Transformers holds them together, and its files one by one
        return small_copy(Qwen3MoeConfig(num_hidden_layers=2), "eager")
    return built(kind, "eager")


def read(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


@pytest.mark.parametrize("shard", [2**30, 20_000])
@pytest.mark.parametrize("kind", ["tied", "untied", "experts"])
def test_files_hold_what_transformers_writes(
    kind: str, shard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD", shard)
    model = of(kind)
    model.save_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours", state_dict={})
    checkpoint.write_weights(model, tmp_path / "ours", rank=0, is_shared_out=False)
    wanted, made = read(tmp_path / "theirs"), read(tmp_path / "ours")
    assert wanted.keys() == made.keys()
    assert all(torch.equal(wanted[key], made[key]) for key in wanted)
    several = len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    assert several == (tmp_path / "ours" / checkpoint.INDEX).exists() == (shard < 2**30 and kind != "experts")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_tensor_that_is_missing_is_told(tmp_path: Path) -> None:
    model = of("untied")
    checkpoint.write_weights(model, tmp_path, rank=0, is_shared_out=False)
    expected = {name: one.shape for name, one in checkpoint.tensors_of(model).items()}
    with pytest.raises(RuntimeError, match=r"tensors missing \['other'\], of another shape or unknown \['lm_head"):
        checkpoint.check_export(tmp_path, {"other": (1,), **expected, "lm_head.weight": (1, 2)})


def test_a_file_of_converted_tensors_that_lacks_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of("experts")
    whole = checkpoint.gathered

    def without_one(written: Any, names: list[str], *others: Any) -> Any:
        return whole(written, [name for name in names if "1.mlp.experts.down_proj" not in name], *others)

    monkeypatch.setattr(checkpoint, "gathered", without_one)
    with pytest.raises(RuntimeError, match=r"tensors missing \['model.layers.1.mlp.experts.0.down_proj.weight'"):
        checkpoint.write_weights(model, tmp_path, rank=0, is_shared_out=False)


def test_the_files_of_a_processor_of_pictures_go_with_the_student(tmp_path: Path) -> None:
    """Engines ask for them, also where only texts are read."""
    base = Path(shutil.copytree(TINY_MODELS / "student-base", tmp_path / "base"))
    (base / "preprocessor_config.json").write_text('{"image_processor_type": "PixtralImageProcessor"}')
    engine = SimpleNamespace(module=of("tied"), zero_optimization_partition_weights=lambda: False)
    written = checkpoint.export_student(engine, load_tokenizer(str(base)), 1, tmp_path / "out", rank=0)
    assert (written / "preprocessor_config.json").read_text() == (base / "preprocessor_config.json").read_text()
    assert not (written / "processor_config.json").exists()
