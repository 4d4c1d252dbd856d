"""The student in Hugging Face format: CHECKPOINT/student/ has weights (safetensors), configuration, tokenizer, template.

Weights are written file by file, and the tensors of a file are gathered one by one. So the writing host holds SHARD
bytes at a time, and no second copy of the whole student, even where ZeRO-3 has shared the weights out. The exception: a
model that Transformers saves under other names or shapes is gathered whole (`in_files`).
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_distil.chat import generation_settings
from ray_distil.store.manifest import STUDENT
from ray_distil.train import lora

SHARD = 2**30  # bytes of a file; a larger tensor is a file of its own
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
PATTERN, INDEX = "model{suffix}.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Written:
    """A tensor of the export: a parameter or buffer. `layer`: the layer whose adapter is merged into it, if any."""

    tensor: Any
    layer: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.tensor, "ds_shape", self.tensor.shape))

    @property
    def parts(self) -> list[Any]:
        return [self.tensor, *(lora.parts(self.layer) if self.layer is not None else [])]

    def on_host(self) -> Any:
        """The tensor on the host. Its parameters must be gathered. Without an adapter, a tensor that is on the host
        already is not copied: the result shares the model's memory.
        """
        tensor = self.tensor.detach().cpu().contiguous()
        return tensor if self.layer is None else lora.merged(self.layer, tensor)


def export_student(
    engine: Any, tokenizer: Any, stop_token_id: int, folder: Path, rank: int, chat_template: str | None = None
) -> Path:
    """Write the student in Hugging Face format and return its folder; every rank must call it, rank 0 writes.

    chat_template: in place of the tokenizer's own (`export_template.py`).

    The folder gets its name at the end, so that a half-written folder is never taken for a model. Raises RuntimeError
    where the files do not hold every tensor of the model in its shape.
    """
    model, target, temporary = engine.module, folder / STUDENT, folder / f".{STUDENT}.tmp"
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        configured = model.generation_config.eos_token_id
        stop_ids = configured if isinstance(configured, list) else [configured]
        # The student stops where it has learnt to stop, whatever the base model's eos token was.
        stops = sorted({stop_token_id, *(i for i in stop_ids if i is not None)})
        model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
        generation_settings.mend(model.generation_config)
        model.save_pretrained(str(temporary), state_dict={})  # all but weights
        saved = copy(tokenizer)
        saved.chat_template = chat_template or tokenizer.chat_template
        saved.save_pretrained(str(temporary))
        for name in PROCESSORS:  # of a model that takes pictures too: engines ask for them
            if (file := Path(tokenizer.name_or_path) / name).is_file():
                shutil.copy(file, temporary / name)
    is_shared_out = engine.zero_optimization_partition_weights()
    if is_shared_out:
        engine.optimizer.checkpoint_event_prologue()  # also shares out parameters that ZeRO-3 keeps whole
    if is_shared_out or rank == 0:
        write_weights(model, temporary, rank, is_shared_out)
    if is_shared_out:
        engine.optimizer.checkpoint_event_epilogue()
    if rank == 0:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    return target


def write_weights(model: Any, folder: Path, rank: int, is_shared_out: bool) -> None:
    """Write the weights of a model into files. With ZeRO-3 all ranks must call it: they gather in the same order.

    Raises RuntimeError where the files lack a tensor or hold one of another shape.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    written = tensors_of(model)
    shapes = {
        name: torch.empty(tensor_written.shape, dtype=tensor_written.tensor.dtype, device="meta")
        for name, tensor_written in written.items()
    }
    expected = in_files(model, shapes)
    if expected != {name: tensor_written.shape for name, tensor_written in written.items()}:
        state = gathered(written, list(written), is_shared_out, rank)
        if rank == 0:
            model.save_pretrained(str(folder), state_dict=state)
            check_export(folder, expected)
        return
    plan = split_torch_state_dict_into_shards(shapes, filename_pattern=PATTERN, max_shard_size=SHARD)
    for file, names in plan.filename_to_tensors.items():
        state = gathered(written, names, is_shared_out, rank)
        if rank == 0:
            save_file(state, folder / file, metadata={"format": "pt"})
        del state
    if rank != 0:
        return
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    check_export(folder, expected)


def tensors_of(model: Any) -> dict[str, Written]:
    """The tensors of the export, by name: a tied tensor once, an adapter merged into the weight that it changes."""
    layers = {f"{name}{lora.BASE}weight": module for name, module in model.named_modules() if lora.is_added(module)}
    ignored = set(model._keys_to_ignore_on_save or ())
    saved = model.state_dict(keep_vars=True).keys()
    tensors = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in saved and name not in ignored and not any(part in name for part in lora.PARTS):
            tensors[name.replace(lora.BASE, ".")] = Written(tensor, layers.get(name))
    return tensors


def in_files(model: Any, tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in Transformers' files. `tensors`: those in memory, by name, e.g. on the meta device.

    Transformers holds the experts of a layer in one tensor, and its files hold them one by one. `save_pretrained`
    converts such a model back, which needs all of its tensors at once.
    """
    from transformers.core_model_loading import revert_weight_conversion

    turned = revert_weight_conversion(model, dict(tensors))
    return {name: tuple(tensor.shape) for name, tensor in turned.items()}


def gathered(written: dict[str, Written], names: list[str], is_shared_out: bool, rank: int) -> dict[str, Any]:
    """These tensors on rank 0's host, gathered one at a time. The other ranks take part and get an empty mapping."""
    import deepspeed

    gather: Callable[[list[Any]], AbstractContextManager[Any]] = (
        deepspeed.zero.GatheredParameters if is_shared_out else nullcontext
    )
    state = {}
    for name in names:
        with gather(written[name].parts):
            if rank == 0:
                value = written[name].on_host()
                state[name] = value.clone() if is_shared_out and value.device == written[name].tensor.device else value
    return state


def check_export(folder: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Compare names and shapes in the written files with those of the model."""
    from safetensors import safe_open

    written: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            written |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    missing = [name for name in expected if name not in written]
    wrong = [name for name, shape in written.items() if expected.get(name) != shape]
    if missing or wrong:
        raise RuntimeError(
            f"export of the student: tensors missing {missing[:3]}, of another shape or unknown {wrong[:3]}"
        )
