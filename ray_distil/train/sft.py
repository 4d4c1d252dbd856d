"""Supervised fine-tuning with Ray Train and DeepSpeed: the loop of a worker, and the trainer that starts the workers."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray_distil.config import TrainingConfig
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
from ray_distil.train.follow import followed, watcher
from ray_distil.train.meter import Meter
from ray_distil.train.sequence_file import Sequences, open_sequences
from ray_distil.train.states import STATES, States, find
from ray_distil.train.step_log import StepLog, read_log
from ray_distil.train.student_engine import Step, build_engine, held_out_loss, train_step

STAGE = "checkpoint"  # on the console
ALIGNED = 256  # tokens; with torch_compile, a row's length is a multiple of it: compiled kernels like few lengths


@dataclass(frozen=True)
class TrainingJob:
    """One training. All workers get it.

    settings: the section `training`; its `student` is a folder or a hub name at a commit. seed: of the order of
    sequences, and of dropout. packed: the folder of the packed sequences. output: the folder of states, log and student.
    mark: of data, student and settings; training goes on from a state in `output` with the same mark. attempt: see
    `shards.check_attempt`. chat_template, stop_token_id: of the export; the second is the token with which the student
    has learnt to end a turn. run: the name that metrics carry.
    """

    settings: TrainingConfig
    seed: int
    packed: Folder
    output: Folder
    mark: str
    attempt: str
    chat_template: str
    stop_token_id: int
    run: str

    def check_attempt(self) -> None:
        """Raises StageError where this start of the training may no longer write."""
        check_attempt(self.output, self.attempt)


@dataclass(frozen=True)
class SftResult:
    """The result of a training: `student` in Hugging Face format, steps done, loss of the first and the last step."""

    student: Folder
    num_steps: int
    first_loss: float
    last_loss: float


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """One worker of the training, from packed sequences to the exported student.

    config: `job`, a TrainingJob, and `follower`, the actor to which rank 0 sends its steps.
    """
    import ray.train
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    from ray_distil.chat.chat_templates import load_tokenizer

    job, follower = config["job"], config["follower"]
    settings, output = job.settings, job.output
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(settings.cpus_per_worker)))
    torch.manual_seed(job.seed)

    # Data: the sequences on this node's disk, and how they are divided into steps.
    is_first = context.get_local_rank() == 0
    sequences, held_out = open_sequences(job.packed, settings.eval_fraction, context.get_node_rank(), is_first)
    batch = BatchArithmetic(
        num_sequences=len(sequences["labels"]),
        num_workers=context.get_world_size(),
        train_micro_batch_size_per_gpu=settings.train_micro_batch_size_per_gpu,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
    )

    # Engine, and the state from which a stopped training goes on.
    engine = build_engine(settings, batch, device, job.seed)
    sizes = (batch.num_workers, settings.stage)
    states = States(output / STATES, job.mark, *sizes, rank, job.check_attempt, batch.train_batch_size)
    start_step = states.resume(engine, lambda line: follower.say.remote(f"{STAGE}: {line}"))

    train_steps(engine, sequences, held_out, batch, job, rank, device, states, start_step, follower)

    # Export: rank 0 writes, and all ranks gather.
    if rank == 0:
        job.check_attempt()
    with output.writable() if rank == 0 else nullcontext(Path()) as folder:
        tokenizer = load_tokenizer(settings.student)
        export_student(engine, tokenizer, job.stop_token_id, folder, rank, job.chat_template)
    if settings.keep_states and start_step < batch.num_steps:
        states.save(engine, batch.num_steps)
    dist.barrier()


def train_steps(
    engine: Any,
    sequences: Sequences,
    held_out: Sequences,
    batch: BatchArithmetic,
    job: TrainingJob,
    rank: int,
    device: Any,
    states: States,
    start_step: int,
    follower: Any,
) -> None:
    """Do the optimiser steps from `start_step`, counted from 0, to the end. Rank 0 logs a line every `logging_steps`."""
    import torch

    settings = job.settings
    multiple = ALIGNED if settings.torch_compile else 1
    collate = partial(tensors_of, flat=settings.attn_implementation in FLAT, multiple=multiple)
    meter = Meter(engine.module, batch, settings.bf16, device)
    is_evaluated = evaluated_steps(batch, settings, len(held_out["labels"]))
    reports = Reports(job, batch, rank, start_step, follower)

    saved_at = time.monotonic()
    for step in range(start_step, batch.num_steps):
        epoch, step_in_epoch = divmod(step, batch.steps_per_epoch)
        number, is_last, started = step + 1, step + 1 == batch.num_steps, time.monotonic()

        # Data: which sequences a step holds depends on (seed, epoch, step) alone. The generator is for dropout: it is
        # seeded anew in each step, so that a state need not hold it.
        if step_in_epoch == 0 or step == start_step:
            order = epoch_order(batch.num_sequences, job.seed, epoch)
        torch.manual_seed(((job.seed << 32) + step) % 2**63)
        micro_steps = [collate(sequences, indices) for indices in micro_batches(order, step_in_epoch, rank, batch)]

        # Step: the learning rate is read before, because the step moves the scheduler on.
        learning_rate = engine.get_lr()[0]
        stats = train_step(engine, micro_steps, device)
        seconds = time.monotonic() - started
        meter.add(number, stats, seconds)

        # Held-out loss, and the figures of a logged step: all ranks take part.
        evaluated = {}
        if is_evaluated(number):
            evaluated["eval_loss"] = held_out_loss(engine, held_out, batch, rank, device, collate)
        is_logged = is_last or bool(evaluated) or number % settings.logging_steps == 0
        figures = meter.gather_figures(number) if is_logged else {}

        line = line_of(number, batch, stats) | evaluated | {"learning_rate": learning_rate, "seconds": seconds}
        reports.add(line | figures | {"time": time.time()}, is_logged)

        # State: all ranks write their parts.
        if not is_last and agree_to_save(number, time.monotonic() - saved_at, settings, device):
            reports.flush()
            states.save(engine, number)
            saved_at = time.monotonic()
    reports.flush()


class Reports:
    """What rank 0 reports of the steps: each one to the driver, and those that are logged to metrics.jsonl."""

    def __init__(self, job: TrainingJob, batch: BatchArithmetic, rank: int, start_step: int, follower: Any) -> None:
        self.follower = follower
        self.log = StepLog(job.output, start_step, job.settings.tensorboard) if rank == 0 else None
        if self.log is not None:
            follower.begin.remote(start_step, batch.num_steps)

    def add(self, line: dict[str, Any], is_logged: bool) -> None:
        if self.log is None:
            return
        self.follower.add.remote(line, is_logged)
        if is_logged:
            self.log.add(line)

    def flush(self) -> None:
        """Write the whole log."""
        if self.log is not None:
            self.log.flush()


def evaluated_steps(batch: BatchArithmetic, settings: TrainingConfig, num_held_out: int) -> Callable[[int], bool]:
    """Number of a step, counted from 1 -> whether the held-out loss comes after it: every `eval_steps` and at the end."""
    every = settings.eval_steps or min(batch.steps_per_epoch, batch.num_steps)
    if not num_held_out or every > batch.num_steps:
        return lambda number: False
    return lambda number: number % every == 0 or number == batch.num_steps


def line_of(number: int, batch: BatchArithmetic, stats: Step) -> dict[str, Any]:
    """The keys in metrics.jsonl that describe one step alone."""
    return {
        "step": number,
        "num_steps": batch.num_steps,
        "epoch": number / batch.steps_per_epoch,
        "loss": stats.loss,
        "grad_norm": stats.grad_norm,
        "num_learnt_tokens": stats.num_learnt,
        "num_tokens": stats.num_tokens,
    }


def agree_to_save(number: int, seconds: float, settings: TrainingConfig, device: Any) -> bool:
    """Whether to save a state after step `number`. All ranks must call it: rank 0's clock decides for all.

    seconds: since the last state.
    """
    import torch
    import torch.distributed as dist

    if settings.save_steps and number % settings.save_steps == 0:
        return True
    if not settings.save_minutes:
        return False
    is_late = torch.tensor(float(seconds >= 60 * settings.save_minutes), device=device)
    dist.broadcast(is_late, src=0)
    return bool(is_late)


def train(job: TrainingJob, tell: Teller, say: Callable[[str], None]) -> SftResult:
    """Train the student on packed sequences. `tell` shows each step, `say` other events.

    Raises StageError, or UserError, with the worker's own error.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    settings = job.settings
    # Ray Train's preemption watcher is an actor on any node. On a teacher's node, it would keep the node until the end.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    filesystem, path = job.output.filesystem_and_path()
    resources = {"CPU": settings.cpus_per_worker} | ({"GPU": 1.0} if settings.use_gpu else {})
    resources |= settings.resources_per_worker

    try:
        with followed(tell, say, job.run) as follower:
            trainer = TorchTrainer(
                train_loop_per_worker,
                train_loop_config={"job": job, "follower": follower},
                torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=settings.num_workers, use_gpu=settings.use_gpu, resources_per_worker=resources
                ),
                run_config=RunConfig(
                    name="ray_train",
                    storage_filesystem=filesystem,
                    storage_path=path,
                    failure_config=FailureConfig(max_failures=settings.max_failures),
                    callbacks=[watcher(follower, STAGE)],
                ),
            )
            in_background(trainer.fit).result()  # in the main thread, Ray Train would replace the handler of Ctrl-C
    except TrainingFailedError as error:
        if mistake := user_error_in(_root_cause(error)):
            raise UserError(mistake) from error
        worker_error = last_line(_root_cause(error))
        raise StageError(
            f"{STAGE}: a training worker failed: {worker_error}; {kept_state(job.output, job.mark)}"
        ) from error

    lines = read_log(job.output)
    return SftResult(job.output / STUDENT, lines[-1]["step"], lines[0]["loss"], lines[-1]["loss"])


def kept_state(output: Folder, mark: str) -> str:
    """The message about the training state from which a failed training can go on."""
    state = find(output / STATES, mark).newest
    return f"the training state of step {state.step} is kept" if state else "no training state was saved yet"


def _root_cause(error: BaseException) -> BaseException:
    """The worker's own error."""
    failures = getattr(error, "worker_failures", None) or {}
    return next(iter(failures.values()), getattr(error, "controller_failure", error))
