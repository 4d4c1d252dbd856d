"""The student in Hugging Face format: CHECKPOINT/student/ has weights (safetensors), configuration, tokenizer, template."""

import os
import shutil
from pathlib import Path
from typing import Any

from ray_distil.store.manifest import STUDENT


def export_student(engine: Any, tokenizer: Any, stop_token_id: int, folder: Path, rank: int) -> Path:
    """Write the student in Hugging Face format and return its folder; every rank must call it, rank 0 writes.

    The folder gets its name in the end, so that a half-written one is never taken for a model. Raises RuntimeError
    where the files do not hold every tensor of the model in its shape.
    """
    state = engine._zero3_consolidated_16bit_state_dict() if engine.zero_optimization_partition_weights() else None
    target = folder / STUDENT
    if rank == 0:
        temporary = folder / f".{STUDENT}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        model = engine.module
        configured = model.generation_config.eos_token_id
        known = configured if isinstance(configured, list) else [configured]
        # The student stops where it has learnt to stop, whatever the base model's eos token was.
        stops = sorted({stop_token_id, *(i for i in known if i is not None)})
        model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
        model.save_pretrained(str(temporary), state_dict=state)
        tokenizer.save_pretrained(str(temporary))
        check_export(temporary, model if state is None else None, state)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    return target


def check_export(folder: Path, model: Any | None, state: dict[str, Any] | None) -> None:
    """Compare names and shapes in the written files with the model; tied tensors may stand there once."""
    from safetensors import safe_open

    expected = {name: tuple(tensor.shape) for name, tensor in (state or model.state_dict()).items()}
    written: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            written |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    missing = [name for name in expected if name not in written and name != "lm_head.weight"]
    wrong = [name for name, shape in written.items() if expected.get(name) != shape]
    if missing or wrong:
        raise RuntimeError(
            f"export of the student: tensors missing {missing[:3]}, of another shape or unknown {wrong[:3]}"
        )
