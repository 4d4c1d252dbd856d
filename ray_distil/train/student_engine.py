"""The student in a DeepSpeed engine, and a step of it.

Loss: the sum over the learnt tokens of the whole global batch, divided by their number. A mean of the means of
workers or micro-steps would give a token more weight in a short micro-batch than in a long one. Then the loss would
change with packing and with the number of workers.
"""

import math
from typing import Any, NamedTuple

from ray_distil.errors import StageError
from ray_distil.store.model_files import local_copy
from ray_distil.train import attention, lora
from ray_distil.train.batches import sizes_of, to_device
from ray_distil.train.deepspeed_config import BatchArithmetic, deepspeed_config
from ray_distil.train.schedule import schedule

OPTIMIZER_BYTES = 12  # of a parameter in a training state: its float32 copy and AdamW's two moments


class Step(NamedTuple):
    """An optimiser step's figures over all ranks: mean loss of the learnt tokens, norm of the gradient before clipping.

    `num_squares`: sum of the squares of the examples' lengths; the work of attention grows with it.
    """

    loss: float
    grad_norm: float
    num_learnt: int
    num_tokens: int
    num_squares: int


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""

    def is_matrix(parameter: Any) -> bool:
        return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2  # ZeRO-3: `shape` is that of a flat part

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not is_matrix(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # DeepSpeed drops empty groups, but schedules count them


def compile_layers(model: Any) -> None:
    """Compile each layer by itself, at its first call. All layers share one graph; hooks between layers still work."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)):
        layer.compile(dynamic=True)  # rows differ in length


def build_engine(config: dict[str, Any], batch: BatchArithmetic, device: Any) -> Any:
    """The student in a DeepSpeed engine, with optimiser and schedule. The process group must be there.

    The engine takes a micro-batch (see `tensors_of`) and returns its summed loss.
    """
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    from ray_distil.train import loss

    settings = deepspeed_config(
        batch, config["zero_stage"], config["bf16"], config["gradient_clipping"], config["offload_optimizer"]
    )
    # DeepSpeed would compile an op here, which takes a minute and a C++ compiler. Only inference uses that op.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False)
    attention.register()
    # While this object exists, each worker of ZeRO-3 loads its share of the weights, and not the whole model.
    sharded = HfDeepSpeedConfig(settings)
    model = AutoModelForCausalLM.from_pretrained(
        local_copy(config["student"], weights=True),
        dtype=torch.bfloat16 if config["bf16"] else torch.float32,
        attn_implementation=config["attn_implementation"],
    )
    del sharded
    loss.prepare(model)
    if config["lora"] is not None:
        torch.manual_seed(config["seed"])  # of the first values of adapters
        lora.add(model, config["lora"])
    if config["torch_compile"]:
        compile_layers(model)
    if config["gradient_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Another optimiser: change OPTIMIZER_BYTES too, and raise VERSION in stages/checkpoint.py, else old students and states are used.
    # `repartition.py` divides its moments among another number of workers; an optimiser without moments has none to
    # divide. `adam_betas`, and `offload_optimizer` of AdamW, are keys in config/training_config.py.
    groups = decay_groups(model, config["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=config["learning_rate"], betas=tuple(config["adam_betas"]), fused=True)
    rates = schedule(optimizer, config["lr_scheduler_type"], config["warmup_ratio"], batch.num_steps)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=rates,
        config=settings,
        dist_init_required=False,
    )
    engine.train()
    return engine


def train_step(engine: Any, micro: list[dict[str, Any]], device: Any) -> Step:
    """One optimiser step on this rank's micro-batches. The host waits for the device twice: for the loss and the norm.

    Raises StageError for a loss that is not finite, before it changes the weights. Raises StageError too for a gradient
    that is not finite, or a step that DeepSpeed skipped: DeepSpeed itself reports neither.
    """
    import torch
    import torch.distributed as dist

    counted = [(len(m["targets"]), *sizes_of(m)) for m in micro]
    totals = torch.tensor([*map(float, map(sum, zip(*counted, strict=True))), 0.0], dtype=torch.float64).to(device)
    dist.all_reduce(totals)
    num_learnt = totals[0].float()
    loss_sum = torch.zeros((), device=device)
    num_skipped = engine.skipped_steps
    for k, tensors in enumerate(micro, 1):
        loss = engine(**to_device(tensors, device))
        loss_sum += loss.detach()
        # DeepSpeed divides by the number of micro-steps and averages over the ranks. We need the sum over both.
        engine.backward(loss * (dist.get_world_size() * len(micro) / num_learnt))
        if k == len(micro):
            dist.all_reduce(loss_sum)
            totals[-1] = loss_sum / num_learnt
            learnt, tokens, squares, mean = totals.tolist()
            if not math.isfinite(mean):
                raise StageError(f"the loss is {mean}; lower training.learning_rate")
        engine.step()
    norm = float(engine.get_global_grad_norm() or 0.0)
    if engine.skipped_steps != num_skipped or not math.isfinite(norm):
        raise StageError(f"the gradient is not finite (its norm is {norm}); lower training.learning_rate")
    return Step(mean, norm, int(learnt), int(tokens), int(squares))
