"""Stage 6: supervised fine-tuning with Ray Train and DeepSpeed."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_distil.errors import StageError, UserError
from ray_distil.runtime.progress import Teller
from ray_distil.runtime.session import in_background, last_line, user_error_in
from ray_distil.store.manifest import STUDENT
from ray_distil.store.shards import check_attempt
from ray_distil.store.storage import Folder
from ray_distil.train.attention import FLAT
from ray_distil.train.batches import epoch_order, micro_batches, tensors_of
from ray_distil.train.checkpoint import export_student
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.failures import watcher
from ray_distil.train.follow import followed
from ray_distil.train.held_out import held_out_loss
from ray_distil.train.meter import Meter
from ray_distil.train.sequence_file import Sequences, open_sequences
from ray_distil.train.states import STATES, States, find
from ray_distil.train.step_log import StepLog, read_log
from ray_distil.train.student_engine import Step, build_engine, train_step

STAGE = "checkpoint"  # on the console
ALIGNED = 256  # tokens; with torch_compile, a row's length is a multiple of it: compiled kernels like few lengths


@dataclass(frozen=True)
class SftResult:
    """The result of a training: `student` in Hugging Face format, steps done, loss of the first and the last step."""

    student: Folder
    num_steps: int
    first_loss: float
    last_loss: float


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """One worker of the training, from packed sequences to the exported student."""
    import ray.train
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    from ray_distil.chat.tokenization import load_tokenizer

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
        max_steps=config["max_steps"],
    )
    engine = build_engine(config, batch, device)
    output, follower = config["output"], config["follower"]

    def may_write() -> None:
        check_attempt(output, config["attempt"])

    sizes = (batch.num_workers, config["zero_stage"])
    states = States(output / STATES, config["made_of"], *sizes, rank, may_write, batch.train_batch_size)
    done = states.resume(engine, lambda line: follower.say.remote(f"{STAGE}: {line}"))
    train_steps(engine, sequences, held_out, batch, config, rank, device, states, done)
    if rank == 0:
        may_write()
    with output.writable() if rank == 0 else nullcontext(Path()) as folder:
        tokenizer, template = load_tokenizer(config["student"]), config["chat_template"]
        export_student(engine, tokenizer, config["stop_token_id"], folder, rank, template)
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
    """Do the optimiser steps that come after the first `done` ones. Rank 0 logs a line every `logging_steps`."""
    import torch

    flat, multiple = config["attn_implementation"] in FLAT, ALIGNED if config["torch_compile"] else 1
    meter = Meter(engine.module, batch, config["bf16"], device)
    log = StepLog(config["output"], done, config["tensorboard"]) if rank == 0 else None
    eval_steps = batch.num_steps + 1
    if len(held_out["labels"]):
        eval_steps = config["eval_steps"] or min(batch.steps_per_epoch, batch.num_steps)
    if rank == 0:
        config["follower"].begin.remote(done, batch.num_steps)
    saved = time.monotonic()
    for step in range(done, batch.num_steps):
        epoch, step_in_epoch = divmod(step, batch.steps_per_epoch)
        started = time.monotonic()
        torch.manual_seed(((config["seed"] << 32) + step) % 2**63)  # for dropout: a state need not hold the generator
        if step_in_epoch == 0 or step == done:
            order = epoch_order(batch.num_sequences, config["seed"], epoch)
        micro = [
            tensors_of(sequences, indices, flat, multiple)
            for indices in micro_batches(order, step_in_epoch, rank, batch)
        ]
        learning_rate = engine.get_lr()[0]  # of this step: `train_step` moves the scheduler to the next one
        made = train_step(engine, micro, device)
        seconds = time.monotonic() - started
        meter.add(step + 1, made, seconds)
        last = step + 1 == batch.num_steps
        evaluated = {}
        if (step + 1) % eval_steps == 0 or (last and eval_steps <= batch.num_steps):
            evaluated["eval_loss"] = held_out_loss(engine, held_out, batch, rank, device, flat, multiple)
        is_logged = last or bool(evaluated) or (step + 1) % config["logging_steps"] == 0
        figures = meter.figures(step + 1) if is_logged else {}
        if log is not None:
            line = line_of(step + 1, batch, made) | evaluated | {"learning_rate": learning_rate, "seconds": seconds}
            line |= figures | {"time": time.time()}
            config["follower"].add.remote(line, is_logged)
            if is_logged:
                log.add(line)
        if not last and is_due(step + 1, time.monotonic() - saved, config, device):
            if log is not None:
                log.flush()
            states.save(engine, step + 1)
            saved = time.monotonic()
    if log is not None:
        log.flush()


def line_of(number: int, batch: BatchArithmetic, made: Step) -> dict[str, Any]:
    """The keys in metrics.jsonl that describe one step alone."""
    return {
        "step": number,
        "num_steps": batch.num_steps,
        "epoch": number / batch.steps_per_epoch,
        "loss": made.loss,
        "grad_norm": made.grad_norm,
        "num_learnt_tokens": made.num_learnt,
        "num_tokens": made.num_tokens,
    }


def is_due(step: int, seconds: float, config: dict[str, Any], device: Any) -> bool:
    """Whether to save a state after this step; rank 0 decides for all ranks. `seconds`: since the last state."""
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
    chat_template: str,
    stop_token_id: int,
    tell: Teller,
    say: Callable[[str], None],
    **settings: Any,
) -> SftResult:
    """Train `student` on packed sequences; `settings` are the other fields of `training`, and the seed.

    `run`: the name that metrics carry. `made_of`: the mark of data, student and settings; training goes on from a state
    in `output` with the same mark. `attempt`: see `shards.check_attempt`. `chat_template`, `stop_token_id`: of the export;
    the second is the token with which the student has learnt to end a turn. `tell` shows each step, `say` other events.

    Raises StageError, or UserError, with the worker's own error.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray Train's preemption watcher is an actor on any node. On a teacher's node, it would keep the node until the end.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    filesystem, path = output.filesystem_and_path()
    resources = {"CPU": cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {}) | resources_per_worker
    told = {"packed": packed, "output": output, "made_of": made_of, "attempt": attempt, "student": student}
    told |= {"chat_template": chat_template, "stop_token_id": stop_token_id}
    config = settings | told | {"cpus_per_worker": cpus_per_worker}
    try:
        with followed(tell, say, run) as follower:
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
            in_background(trainer.fit).result()  # in the main thread, Ray Train would replace the handler of Ctrl-C
    except TrainingFailedError as error:
        if mistake := user_error_in(_root_cause(error)):
            raise UserError(mistake) from error
        said = f"{STAGE}: a training worker failed: {last_line(_root_cause(error))}; {kept(output, made_of)}"
        raise StageError(said) from error
    lines = read_log(output)
    return SftResult(output / STUDENT, lines[-1]["step"], lines[0]["loss"], lines[-1]["loss"])


def kept(output: Folder, made_of: str) -> str:
    """The message about the training state from which a failed training can go on."""
    state = find(output / STATES, made_of).newest
    return f"the training state of step {state.step} is kept" if state else "no training state was saved yet"


def _root_cause(error: BaseException) -> BaseException:
    """The worker's own error."""
    failures = getattr(error, "worker_failures", None) or {}
    return next(iter(failures.values()), getattr(error, "controller_failure", error))
