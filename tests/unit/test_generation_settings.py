"""Generation settings that Transformers reads but does not save are mended in the export, and said before training."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from ray_distil.chat.generation_settings import mend, mended
from tests.chat_families import TINY

IDS = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
REFUSED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, "do_sample is true, because temperature, top_p is set",
     {"do_sample": True, "temperature": 0.9, "top_p": 0.6}),
    ({"temperature": 0.0}, "temperature 0 is do_sample: false", {"do_sample": False, "temperature": None}),
    ({"temperature": 0.0, "top_p": 0.5}, "temperature 0 is do_sample: false, top_p left out", {"top_p": None}),
    ({"min_p": 0.1}, "do_sample is true, because min_p is set", {"do_sample": True, "min_p": 0.1}),
    ({"length_penalty": 2.0}, "length_penalty left out", {}),
    ({"do_sample": True, "temperature": 0.6, "num_beams": 1, "early_stopping": True}, "early_stopping left out",
     {"temperature": 0.6}),
    ({"top_k": 20}, "do_sample is true, because top_k is set", {"top_k": 20}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said", "kept"), REFUSED)
def test_what_cannot_be_saved_is_mended(
    settings: dict[str, Any], said: str, kept: dict[str, Any], tmp_path: Path
) -> None:
    config = GenerationConfig(**IDS, **settings)
    with pytest.raises(ValueError, match="save the configuration"):
        config.save_pretrained(tmp_path)
    assert ", ".join(mend(config)) == said
    config.save_pretrained(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(saved, name) for name in IDS} == IDS
    assert {name: getattr(saved, name) for name in kept} == kept


@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": True, "temperature": 0.6, "top_p": 0.95}, {"repetition_penalty": 1.05}]
)
def test_what_can_be_saved_stays(settings: dict[str, Any]) -> None:
    config = GenerationConfig(**IDS, **settings)
    before = config.to_dict()
    assert mend(config) == []
    assert config.to_dict() == before


def test_it_is_read_from_a_model(tmp_path: Path) -> None:
    shutil.copy(Path(TINY) / "config.json", tmp_path)
    assert mended(str(tmp_path)) == []
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.7}))
    assert mended(str(tmp_path)) == ["do_sample is true, because temperature is set"]
