"""The student in a DeepSpeed engine: a step of it, and its loss on sequences that it is not trained on.

Loss: the sum over the learnt tokens of the whole global batch, divided by their number. A mean of the means of
workers or micro-steps would give a token more weight in a short micro-batch than in a long one. Then the loss would
change with packing and with the number of workers.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ray_distil.chat.model_files import read_config
from ray_distil.config import TrainingConfig
from ray_distil.errors import StageError
from ray_distil.store.hub import local_copy
from ray_distil.train import attention, lora
from ray_distil.train.batches import sizes_of, to_device
from ray_distil.train.deepspeed_config import BatchArithmetic, deepspeed_config
from ray_distil.train.sequence_file import COLUMNS, Sequences
from ray_distil.train.small_copies import auto_class, unreached

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


def build_engine(settings: TrainingConfig, batch: BatchArithmetic, device: Any, seed: int = 0) -> Any:
    """The student in a DeepSpeed engine, with optimiser and schedule. The process group must be there.

    The engine takes a micro-batch (see `tensors_of`) and returns its summed loss. seed: of the first values of adapters.
    """
    import deepspeed
    import torch

    # DeepSpeed would compile an op here, which takes a minute and a C++ compiler. Only inference uses that op.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False)
    engine_config = deepspeed_config(
        batch, settings.stage, settings.bf16, settings.gradient_clipping, settings.offload_optimizer
    )
    model = load_student(settings, engine_config, seed)

    # Another optimiser gets flat parts of all parameters from ZeRO: one that needs matrices, as Muon, goes through
    # DeepSpeed's own configuration (deepspeed_config.py). A key of `training` names it, so that finished students stay
    # valid; OPTIMIZER_BYTES is its memory, and repartition.py divides its moments among another number of workers.
    groups = decay_groups(model, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=tuple(settings.adam_betas), fused=True)
    factor = learning_rate_factor(settings.lr_scheduler_type, settings.warmup_ratio, batch.num_steps)

    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
        config=engine_config,
        dist_init_required=False,
    )
    engine.train()
    return engine


def load_student(settings: TrainingConfig, engine_config: dict[str, Any], seed: int) -> Any:
    """The student as it is trained. Raises StageError where its files lack a weight, which would be a random one."""
    import torch
    from transformers.integrations import HfDeepSpeedConfig

    attention.register()
    place = local_copy(settings.student, weights=True)
    # While this object exists, each worker of ZeRO-3 loads its share of the weights, and not the whole model.
    sharded = HfDeepSpeedConfig(engine_config)
    model, loaded = auto_class(read_config(place)).from_pretrained(
        place,
        dtype=torch.bfloat16 if settings.bf16 else torch.float32,
        attn_implementation=settings.attn_implementation,
        output_loading_info=True,
    )
    del sharded
    if missing := sorted(loaded["missing_keys"]):
        raise StageError(f"the files of {settings.student} lack weights of it: {', '.join(missing[:3])}; copy it again")
    return prepared(model, settings, seed)


def prepared(model: Any, settings: TrainingConfig, seed: int) -> Any:
    """A model as it is trained: its loss head, adapters, compiled layers, recomputed activations.

    Parts that a text does not reach are frozen: they get no gradient, and the optimiser would let them decay. Raises
    UserError for layers that cannot have an adapter.
    """
    import torch

    from ray_distil.train import loss

    freeze_unreached(model)
    loss.prepare(model)
    if settings.lora is not None:
        torch.manual_seed(seed)
        lora.add(model, settings.lora)
    if settings.torch_compile:
        compile_layers(model)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def freeze_unreached(model: Any) -> None:
    """Freeze the modules that a text does not reach; none where no small copy of the model can say which these are."""
    if not model.config.sub_configs:  # only an architecture of several parts has such modules
        return
    try:
        names = unreached(model.config)
    except Exception:  # noqa: BLE001  at unusual sizes, the code of an architecture may raise any error
        return
    for name in names:
        model.get_submodule(name).requires_grad_(False)


def learning_rate_factor(kind: str, warmup_ratio: float, num_steps: int) -> Callable[[int], float]:
    """Step, counted from 0 -> factor of `training.learning_rate` in it.

    Warm-up takes ceil(warmup_ratio * num_steps) steps and begins with 1/n, so that each step learns. Then the factor
    falls from 1 to 0 as a cosine or a line, or stays (constant_with_warmup). Without warm-up it is Transformers' own.
    """
    num_warmup = math.ceil(warmup_ratio * num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1 - progress if kind == "linear" else 1.0

    return factor


def train_step(engine: Any, micro_batches: list[dict[str, Any]], device: Any) -> Step:
    """One optimiser step on this rank's micro-batches. All ranks must call it.

    The host waits for the device twice: for the loss and for the norm. Raises StageError for a loss that is not finite,
    before it changes the weights. Raises StageError too for a gradient that is not finite, or a step that DeepSpeed
    skipped: DeepSpeed itself reports neither.
    """
    import torch
    import torch.distributed as dist

    # Counts over all ranks: learnt tokens, tokens, squares of lengths; the last place is for the loss. Loss and counts
    # come back to the host together, so that it waits once.
    counts = [(len(tensors["targets"]), *sizes_of(tensors)) for tensors in micro_batches]
    totals = torch.tensor([*map(float, map(sum, zip(*counts, strict=True))), 0.0], dtype=torch.float64).to(device)
    dist.all_reduce(totals)
    num_learnt = totals[0].float()

    loss_sum = torch.zeros((), device=device)
    num_skipped = engine.skipped_steps
    for number, tensors in enumerate(micro_batches, 1):
        # Forward and backward. DeepSpeed divides by the number of micro-steps and averages over the ranks; we need the
        # sum over both.
        loss = engine(**to_device(tensors, device))
        loss_sum += loss.detach()
        engine.backward(loss * (dist.get_world_size() * len(micro_batches) / num_learnt))

        # Before the last micro-step changes the weights: the loss of the whole global batch.
        if number == len(micro_batches):
            dist.all_reduce(loss_sum)
            totals[-1] = loss_sum / num_learnt
            learnt, tokens, squares, mean_loss = totals.tolist()
            if not math.isfinite(mean_loss):
                raise StageError(f"the loss is {mean_loss}; lower training.learning_rate")
        engine.step()

    norm = float(engine.get_global_grad_norm() or 0.0)
    if engine.skipped_steps != num_skipped or not math.isfinite(norm):
        raise StageError(f"the gradient is not finite (its norm is {norm}); lower training.learning_rate")
    return Step(mean_loss, norm, int(learnt), int(tokens), int(squares))


def held_out_loss(
    engine: Any,
    sequences: Sequences,
    batch: BatchArithmetic,
    rank: int,
    device: Any,
    collate: Callable[[Sequences, list[int]], dict[str, Any]],
) -> float:
    """Mean loss over the learnt tokens of all these sequences, which the ranks share. It does not change the training.

    All ranks must call it. collate: see `tensors_of`. Every rank makes the same number of micro-batches, some of them
    without a sequence: in each one, ZeRO's stage 3 gathers weights from all ranks.
    """
    import torch
    import torch.distributed as dist

    size, num_sequences = batch.train_micro_batch_size_per_gpu, len(sequences[COLUMNS[0]])
    of_rank = list(range(num_sequences))[rank :: batch.num_workers]
    max_sequences = -(-num_sequences // batch.num_workers)  # sequences of the rank that has the most
    totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, learnt tokens
    engine.eval()
    with torch.no_grad():
        for start in range(0, max_sequences, size):
            tensors = collate(sequences, of_rank[start : start + size])
            totals[0] += engine(**to_device(tensors, device))
            totals[1] += len(tensors["targets"])
    engine.train()
    dist.all_reduce(totals)
    return float(totals[0] / totals[1])
