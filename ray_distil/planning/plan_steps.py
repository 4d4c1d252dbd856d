"""The steps of a plan: tokens, hours, GPUs, dollars and disk of texts that are generated, and of a training."""

from math import ceil

from ray_distil.config import StagesConfig, TrainingConfig
from ray_distil.config.plan_config import Expected
from ray_distil.generate.generator import Generator
from ray_distil.planning.plan_table import Step
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.states import KEPT
from ray_distil.train.student_engine import OPTIMIZER_BYTES

FILL = 0.9  # of a packed sequence


def generation(
    name: str, rows: int, exact: bool, prompt: float, expected: Expected, generator: Generator, config: StagesConfig
) -> Step:
    """A step in which a model generates texts: `rows` requests with `prompt` tokens each."""
    generated, prompts, gpus = rows * expected.num_generated_tokens, rows * prompt, generator.num_gpus
    num_engines = generator.engine.concurrency[1] if generator.engine is not None else 1
    seconds = generated / (expected.tokens_per_s * num_engines) if expected.tokens_per_s else None
    price = expected.usd_per_million_tokens if generator.endpoint is not None else None
    return Step(
        name,
        rows,
        exact,
        prompts,
        generated,
        seconds=seconds,
        gpus=gpus,
        dollars=(prompts * price[0] + generated * price[1]) / 1e6 if price else rent(seconds, gpus, config),
        is_paid=generator.endpoint is not None or gpus > 0,
        size=(prompts + generated) * config.plan.bytes_per_token,
    )


def rent(seconds: float | None, gpus: int, config: StagesConfig) -> float | None:
    """The dollars for `gpus` over `seconds`; None without GPUs, or where the time or the price is not known."""
    price = config.plan.usd_per_gpu_hour
    return None if seconds is None or price is None or not gpus else seconds * gpus / 3600 * price


def training_steps(
    num_examples: int, tokens: float, config: StagesConfig, training: TrainingConfig, num_parameters: float | None
) -> list[Step]:
    """Packing and training. tokens: of all examples together. num_parameters: of the student; None: not known."""
    assumed, packing = config.plan, config.packing
    stored = 2 * tokens * assumed.bytes_per_token  # the texts, and their packed ids

    # How many steps the training takes.
    num_sequences = (
        ceil(tokens / (packing.max_length * FILL)) if packing.enabled and packing.max_length else num_examples
    )
    batch = BatchArithmetic(
        num_sequences=max(1, ceil(num_sequences * (1 - training.eval_fraction))),
        num_workers=training.num_workers,
        train_micro_batch_size_per_gpu=training.train_micro_batch_size_per_gpu,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps,
    )

    # How long it takes.
    num_epochs, rate = batch.num_steps / batch.steps_per_epoch, assumed.training_tokens_per_s
    num_tokens_seen = tokens * num_epochs
    seconds = num_tokens_seen / (rate * training.num_workers) if rate else None

    # What it needs on the disk.
    num_saved = (batch.num_steps - 1) // training.save_steps if training.save_steps else 0
    num_saved += int((seconds or 0) / 60 / training.save_minutes) if training.save_minutes else 0
    num_states = min(num_saved + training.keep_states, KEPT + 1)  # those kept, and one that is being written
    weight = 2 if training.bf16 else 4
    checkpoint = None
    if num_parameters is not None:  # the export; a state has weights and what the optimiser keeps
        checkpoint = num_parameters * (weight + num_states * (weight + OPTIMIZER_BYTES))

    return [
        Step("sft_examples, packed", num_examples, False, size=stored),
        Step(
            "checkpoint",
            num_sequences,
            False,
            tokens=num_tokens_seen,
            seconds=seconds,
            gpus=training.num_workers if training.use_gpu else 0,
            dollars=rent(seconds, training.num_workers if training.use_gpu else 0, config),
            is_paid=training.use_gpu,
            size=checkpoint,
        ),
    ]
