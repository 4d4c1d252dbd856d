"""A training step of a small copy of the student, and its export: what a worker would do after all texts are paid for.

The copy has the class, the attention, the adapters and the settings of the training; two packed examples, random weights.
"""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from ray_distil.chat.chat_templates import load_tokenizer
from ray_distil.chat.model_files import read_config
from ray_distil.chat.tokenization import IGNORE_INDEX
from ray_distil.checks.engine_models import unknown_classes
from ray_distil.config import TrainingConfig
from ray_distil.stages.packed import pack_group
from ray_distil.train import attention
from ray_distil.train.attention import FLAT, VARLEN
from ray_distil.train.batches import tensors_of
from ray_distil.train.checkpoint import export_student
from ray_distil.train.lora import ALL
from ray_distil.train.small_copies import VOCABULARY, auto_class, small_copy
from ray_distil.train.student_engine import decay_groups, prepared

LENGTHS = (7, 5)  # of the examples, in tokens
NUM_ASKED = 2  # tokens of an example's prompt


def wrong_step(student: str, training: TrainingConfig, together: bool, evaluated: bool = True) -> str:
    """What goes wrong in a step, in the export behind it, or where vLLM loads the export; "" if nothing does.

    evaluated: engines of vLLM ask the trained student. together: two examples in a row, as packing puts them. Flash attention needs a GPU: `sdpa` is tried in its place.
    Raises the error of Transformers, or of the architecture's code, where a step cannot be made.
    """
    import torch

    attention.register()
    implementation = training.attn_implementation
    tried = implementation if implementation in ("eager", VARLEN) else "sdpa"
    model = small_copy(read_config(student), tried).train()
    changes: dict[str, Any] = {"torch_compile": False}
    if training.lora is not None:  # a layer may be named that only the whole model has
        changes["lora"] = training.lora.model_copy(update={"target_modules": ALL})
    model = prepared(model, training.model_copy(update=changes), seed=0)

    # The step.
    tensors = _examples(LENGTHS if together else LENGTHS[:1], implementation in FLAT)
    optimizer = torch.optim.AdamW(decay_groups(model, training.weight_decay), lr=training.learning_rate)
    loss = model(**tensors)
    if not math.isfinite(value := loss.item()):
        return f"the loss of a step on a small copy of its architecture is {value}; train another student"
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        return "no weight of its architecture gets a gradient; train another student"
    if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        return "a gradient of a step on a small copy of its architecture is not finite; train another student"
    optimizer.step()
    return _wrong_export(model.eval(), student, evaluated)


def _examples(lengths: tuple[int, ...], flat: bool) -> dict[str, Any]:
    """A micro-batch of one row with examples of these lengths; `flat`: with their borders."""
    import torch

    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(VOCABULARY, (length,), generator=draw).tolist() for length in lengths]
    examples = [(str(k), ids, [IGNORE_INDEX] * NUM_ASKED + ids[NUM_ASKED:]) for k, ids in enumerate(texts)]
    packed = pack_group(examples, sum(lengths), 0)
    row = {name: [torch.tensor(packed[name])] for name in ("input_ids", "labels", "position_ids")}
    return tensors_of(row, [0], flat)


def _wrong_export(model: Any, student: str, evaluated: bool) -> str:
    """Export a model, and load what was written."""
    import torch

    tokenizer = load_tokenizer(student)
    engine = SimpleNamespace(module=model, zero_optimization_partition_weights=lambda: False)
    with TemporaryDirectory(prefix="ray_distil-") as folder:
        written = export_student(engine, tokenizer, tokenizer.eos_token_id or 0, Path(folder), rank=0)
        auto = auto_class(model.config)
        architectures = json.loads((written / "config.json").read_text(encoding="utf-8"))["architectures"]
        again, loaded = auto.from_pretrained(written, dtype=torch.float32, output_loading_info=True)
    if lost := sorted(loaded["missing_keys"]):
        return f"its export lacks {lost[0]} and {len(lost) - 1} more tensors; train another student"
    trained = model.state_dict()
    changed = [
        name for name, tensor in again.state_dict().items() if name in trained and not tensor.equal(trained[name])
    ]
    if changed:
        return f"its export has other values of {changed[0]}; train another student"
    if evaluated and (unknown := unknown_classes(architectures)):
        return f"vLLM has no class for {unknown}, so the trained student cannot be evaluated; train another student"
    return ""
