"""Stage 6: supervised fine-tuning with Ray Train and DeepSpeed.

Loss: the sum over the learnt tokens of the whole global batch, divided by their number. A mean of the workers' or
micro-steps' means would give a token in a short micro-batch more weight than one in a long micro-batch, and the loss
would change with packing and with the number of workers.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_distil import UserError
from ray_distil.runtime import metrics
from ray_distil.runtime.progress import Teller
from ray_distil.runtime.session import in_background, last_line, user_error_in
from ray_distil.store.manifest import STUDENT
from ray_distil.store.model_files import local_copy
from ray_distil.store.shards import StageError, check_attempt
from ray_distil.store.storage import Folder
from ray_distil.train import attention
from ray_distil.train.attention import FLAT
from ray_distil.train.batches import epoch_order, micro_batches, tensors_of, to_device
from ray_distil.train.checkpoint import export_student
from ray_distil.train.deepspeed_config import BatchArithmetic, deepspeed_config
from ray_distil.train.failures import watcher
from ray_distil.train.follow import followed
from ray_distil.train.held_out import held_out_loss
from ray_distil.train.sequence_file import Sequences, open_sequences
from ray_distil.train.states import STATES, States
from ray_distil.train.step_log import StepLog, read_log

VERSION = 2
STAGE = "sft"
ALIGNED = 256  # tokens; kernels that are compiled like rows of few lengths


@dataclass(frozen=True)
class SftResult:
    """What a training left: `student` in Hugging Face format, steps done, loss of the first and the last step."""

    student: Folder
    num_steps: int
    first_loss: float
    last_loss: float


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""

    def is_matrix(parameter: Any) -> bool:
        return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2  # ZeRO-3 leaves a flat part in its place

    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not is_matrix(p)], "weight_decay": 0.0},
    ]


def compile_layers(model: Any) -> None:
    """Compile each layer by itself, at its first call: all share one graph, and hooks between them stay as they are."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)):
        layer.compile(dynamic=True)  # rows differ in length


def build_engine(config: dict[str, Any], batch: BatchArithmetic, device: Any) -> Any:
    """The student in a DeepSpeed engine, with optimiser and schedule. The process group must be there.

    The engine takes a micro-batch (see `tensors_of`) and returns its summed loss.
    """
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM, get_scheduler
    from transformers.integrations import HfDeepSpeedConfig

    from ray_distil.train import loss

    settings = deepspeed_config(batch, config["zero_stage"], config["bf16"], config["gradient_clipping"])
    # The op that it would compile here for a minute, by a C++ compiler that must be there, only serves inference.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False)
    attention.register()
    # While it lives, ZeRO-3's workers load a share of the weights each; else each would hold the whole model.
    sharded = HfDeepSpeedConfig(settings)
    model = AutoModelForCausalLM.from_pretrained(
        local_copy(config["student"], weights=True),
        dtype=torch.bfloat16 if config["bf16"] else torch.float32,
        attn_implementation=config["attn_implementation"],
    )
    del sharded
    loss.prepare(model)
    if config["torch_compile"]:
        compile_layers(model)
    if config["gradient_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    groups = decay_groups(model, config["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=config["learning_rate"], betas=tuple(config["adam_betas"]), fused=True)
    schedule = get_scheduler(
        config["lr_scheduler_type"], optimizer, math.ceil(config["warmup_ratio"] * batch.num_steps), batch.num_steps
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=settings,
        dist_init_required=False,
    )
    engine.train()
    return engine


def train_step(engine: Any, micro: list[dict[str, Any]], device: Any) -> tuple[float, int]:
    """One optimiser step on this rank's micro-batches: mean loss over the learnt tokens of all ranks, and their number.

    Raises StageError for a loss that is not finite, before it reaches the weights, and for a gradient that is not, or
    for a step that DeepSpeed left out: it says neither.
    """
    import torch
    import torch.distributed as dist

    num_learnt = torch.tensor(float(sum(len(m["targets"]) for m in micro)), device=device)
    dist.all_reduce(num_learnt)
    loss_sum = torch.zeros((), device=device)
    num_skipped = engine.skipped_steps
    for k, tensors in enumerate(micro, 1):
        loss = engine(**to_device(tensors, device))
        loss_sum += loss.detach()
        # DeepSpeed divides by the micro-steps and averages over the ranks; we want the sum over both.
        engine.backward(loss * (dist.get_world_size() * len(micro) / num_learnt))
        if k == len(micro):
            dist.all_reduce(loss_sum)
            if not math.isfinite(loss_sum.item()):
                raise StageError(f"the loss is {loss_sum.item()}; lower training.learning_rate")
        engine.step()
    norm = float(engine.get_global_grad_norm() or 0.0)
    if engine.skipped_steps != num_skipped or not math.isfinite(norm):
        raise StageError(f"the gradient is not finite (its norm is {norm}); lower training.learning_rate")
    return (loss_sum / num_learnt).item(), int(num_learnt.item())


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """One worker of the training, from packed sequences to the exported student."""
    import ray.train
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    from ray_distil.texts.tokenization import end_of_turn, load_tokenizer

    context = ray.train.get_context()
    rank = context.get_world_rank()
    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config["cpus_per_worker"])))
    torch.manual_seed(config["seed"])
    is_first = context.get_local_rank() == 0
    sequences, held_out = open_sequences(config["packed"], config["eval_fraction"], context.get_node_rank(), is_first)
    batch = BatchArithmetic(
        num_sequences=len(sequences["labels"]),
        num_workers=context.get_world_size(),
        train_micro_batch_size_per_gpu=config["train_micro_batch_size_per_gpu"],
        gradient_accumulation_steps=config["gradient_accumulation_steps"],
        num_train_epochs=config["num_train_epochs"],
    )
    engine = build_engine(config, batch, device)
    output, follower = config["output"], config["follower"]

    def may_write() -> None:
        check_attempt(output, config["attempt"])

    states = States(output / STATES, config["made_of"], batch.num_workers, config["zero_stage"], rank, may_write)
    done = states.resume(engine, lambda line: follower.say.remote(f"{STAGE}: {line}"))
    train_steps(engine, sequences, held_out, batch, config, rank, device, states, done)
    if rank == 0:
        may_write()
    with output.writable() if rank == 0 else nullcontext(Path()) as folder:
        export_student(engine, load_tokenizer(config["student"]), end_of_turn(config["student"]), folder, rank)
    if config["keep_states"] and done < batch.num_steps:
        states.save(engine, batch.num_steps)
    dist.barrier()


def train_steps(
    engine: Any,
    sequences: Sequences,
    held_out: Sequences,
    batch: BatchArithmetic,
    config: dict[str, Any],
    rank: int,
    device: Any,
    states: States,
    done: int,
) -> None:
    """The optimiser steps behind those that are `done`; rank 0 logs them, a line each `logging_steps`."""
    import torch

    flat, multiple = config["attn_implementation"] in FLAT, ALIGNED if config["torch_compile"] else 1
    log = StepLog(config["output"], done) if rank == 0 else None
    eval_steps = (config["eval_steps"] or batch.steps_per_epoch) if len(held_out["labels"]) else batch.num_steps + 1
    if rank == 0:
        config["follower"].begin.remote(done, batch.num_steps)
    saved = time.monotonic()
    for step in range(done, batch.num_steps):
        epoch, step_in_epoch = divmod(step, batch.steps_per_epoch)
        started = time.monotonic()
        torch.manual_seed(((config["seed"] << 32) + step) % 2**63)  # of dropout, which is then no part of a state
        if step_in_epoch == 0 or step == done:
            order = epoch_order(batch.num_sequences, config["seed"], epoch)
        micro = [
            tensors_of(sequences, indices, flat, multiple)
            for indices in micro_batches(order, step_in_epoch, rank, batch)
        ]
        learning_rate = engine.get_lr()[0]  # of this step: the scheduler moves on with it
        loss, num_learnt_tokens = train_step(engine, micro, device)
        grad_norm = float(engine.get_global_grad_norm() or 0.0)
        last = step + 1 == batch.num_steps
        evaluated = {}
        if (step + 1) % eval_steps == 0 or (last and eval_steps <= batch.num_steps):
            evaluated["eval_loss"] = held_out_loss(engine, held_out, batch, rank, device, flat, multiple)
        if log is not None:
            state = {"step": step + 1, "steps": batch.num_steps, "loss": loss, "grad_norm": grad_norm} | evaluated
            metrics.show({f"distil_train_{name}": value for name, value in state.items()}, run=config["run"])
            metrics.count("distil_train_tokens", num_learnt_tokens, run=config["run"])
            config["follower"].add.remote(state, num_learnt_tokens)
            if last or evaluated or (step + 1) % config["logging_steps"] == 0:
                log.add({
                    "step": step + 1,
                    "num_steps": batch.num_steps,
                    "epoch": (step + 1) / batch.steps_per_epoch,
                    "loss": loss,
                    "learning_rate": learning_rate,
                    "grad_norm": grad_norm,
                    "num_learnt_tokens": num_learnt_tokens,
                    "seconds": time.monotonic() - started,
                    **evaluated,
                })  # fmt: skip
        if not last and is_due(step + 1, time.monotonic() - saved, config, device):
            if log is not None:
                log.flush()
            states.save(engine, step + 1)
            saved = time.monotonic()
    if log is not None:
        log.flush()


def is_due(step: int, seconds: float, config: dict[str, Any], device: Any) -> bool:
    """Whether a state is saved after this step, so many seconds after the last one; on all ranks as rank 0's clock says."""
    import torch
    import torch.distributed as dist

    if config["save_steps"] and step % config["save_steps"] == 0:
        return True
    if not config["save_minutes"]:
        return False
    late = torch.tensor(float(seconds >= 60 * config["save_minutes"]), device=device)
    dist.broadcast(late, src=0)
    return bool(late)


def train(
    packed: Folder,
    student: str,
    output: Folder,
    num_workers: int,
    use_gpu: bool,
    cpus_per_worker: float,
    resources_per_worker: dict[str, float],
    run: str,
    made_of: str,
    attempt: str,
    max_failures: int,
    tell: Teller,
    say: Callable[[str], None],
    **settings: Any,
) -> SftResult:
    """Train `student` on packed sequences; `settings` are the other fields of `training`, and the seed.

    `run`: the name that metrics carry. `made_of`: the mark of data, student and settings, by which training goes on from
    a state in `output`. `attempt`: see `shards.Artifact`. `tell` hears of each step, `say` of what else happens.

    Raises StageError, or UserError, with the worker's own error.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray Train's watcher of preemptions is an actor on any node, a teacher's too, which then stays as long as training.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    filesystem, path = output.filesystem_and_path()
    resources = {"CPU": cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {}) | resources_per_worker
    config = settings | {
        "packed": packed,
        "output": output,
        "run": run,
        "made_of": made_of,
        "attempt": attempt,
        "student": student,
        "cpus_per_worker": cpus_per_worker,
    }
    try:
        with followed(tell, say) as follower:
            trainer = TorchTrainer(
                train_loop_per_worker,
                train_loop_config=config | {"follower": follower},
                torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
                scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources),
                run_config=RunConfig(
                    name="ray_train",
                    storage_filesystem=filesystem,
                    storage_path=path,
                    failure_config=FailureConfig(max_failures=max_failures),
                    callbacks=[watcher(follower, STAGE)],
                ),
            )
            in_background(trainer.fit).result()  # in the main thread, Ray Train would take Ctrl-C over
    except TrainingFailedError as error:
        if told := user_error_in(_root_cause(error)):
            raise UserError(told) from error
        raise StageError(f"{STAGE}: a training worker failed: {last_line(_root_cause(error))}") from error
    lines = read_log(output)
    return SftResult(output / STUDENT, lines[-1]["step"], lines[0]["loss"], lines[-1]["loss"])


def _root_cause(error: BaseException) -> BaseException:
    """The worker's own error."""
    failures = getattr(error, "worker_failures", None) or {}
    return next(iter(failures.values()), getattr(error, "controller_failure", error))
